"""Variance between repeats of a sampled run: the same questions, other seeds.

A run's own interval says what other questions would give; `between`, what other draws of the model would; `over_both`,
what other questions and other draws would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from armor_eval.stats.composite import ClusterSums, Composite


@dataclass(frozen=True)
class Spread:
    """Of one number over repeats, in its unit."""

    values: tuple[float, ...]
    mean: float
    sd: float
    """Between repeats, n - 1 in the denominator."""
    ci95: tuple[float, float]
    """Of the mean over all seeds on these questions, by Student's t."""


def between(values: Sequence[float]) -> Spread:
    """ValueError for fewer than two repeats, or one that has no value."""
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"the variance between repeats needs two values or more, got {list(values)}")
    import numpy as np
    from scipy import stats

    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return Spread(tuple(values), mean, sd, (mean - half, mean + half))


def over_both(repeats: Sequence[ClusterSums], composite: Composite) -> tuple[float, float] | None:
    """95 % interval of the mean over all seeds and all questions; None where a single run would have none either.

    Legend: K repeats, C clusters, S columns of the composite's sums.

    The jackknife leaves a cluster out of all repeats at once, so it counts the questions and the draws that are each
    question's own. What seeds have in common beyond that (a server that begins every answer with one random state) is
    the variance between the repeats' values above that of such draws, as in an analysis of variance; the degrees of
    freedom of the sum are Satterthwaite's. Its coverage is simulated in tests/stats/test_stats_repeats.py.
    """
    import numpy as np

    from .intervals import cluster_error, from_error

    names = sorted({name for one in repeats for name in one.clusters})
    row_of = {name: row for row, name in enumerate(names)}
    K, C, S = len(repeats), len(names), len(composite.columns)
    if K < 2 or C < 2:
        return None
    sums_KCS = np.zeros((K, C, S))
    for k, one in enumerate(repeats):
        sums_KCS[k, [row_of[name] for name in one.clusters]] = one.sums_CS

    def mean(sums: np.ndarray) -> np.ndarray:
        """[..., K * S] -> [...]"""
        average: np.ndarray = composite.formula(sums.reshape(*sums.shape[:-1], K, S)).mean(axis=-1)
        return average

    error, _ = cluster_error(np.concatenate(list(sums_KCS), axis=1), mean)
    values_K = composite.formula(sums_KCS.sum(axis=1))
    own_KC = np.array([cluster_error(sums_CS, composite.formula)[1] for sums_CS in sums_KCS])
    if not (math.isfinite(error) and np.all(np.isfinite(values_K)) and np.all(np.isfinite(own_KC))):
        return None
    drawn = ((own_KC - own_KC.mean(axis=0)) ** 2).sum() / (K * (K - 1) * C * (C - 1))
    common = max(0.0, float(values_K.var(ddof=1)) / K - float(drawn))
    variance = error**2 + common
    df = variance**2 / (error**4 / (C - 1) + common**2 / (K - 1)) if variance > 0 else C - 1
    value, (low, high) = float(values_K.mean()), composite.bounds
    ci, _ = from_error(value, math.sqrt(variance), C, composite.bounds, df)
    return None if ci is None else (max(low, min(ci[0], value)), min(high, max(ci[1], value)))
