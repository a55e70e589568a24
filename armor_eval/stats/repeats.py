"""Variance between repeats of a sampled run: the same questions, other seeds.

A run's own interval says what other questions would give; this one, what other draws of the model would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Of one number over repeats, in its unit."""

    values: tuple[float, ...]
    mean: float
    sd: float
    """Between repeats, n - 1 in the denominator."""
    ci95: tuple[float, float]
    """Of the mean over all seeds, by Student's t."""


def between(values: Sequence[float]) -> Spread:
    """ValueError for fewer than two repeats, or one that has no value."""
    if len(values) < 2 or not all(math.isfinite(v) for v in values):
        raise ValueError(f"the variance between repeats needs two values or more, got {list(values)}")
    import numpy as np
    from scipy import stats

    mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * sd / math.sqrt(len(values))
    return Spread(tuple(values), mean, sd, (mean - half, mean + half))
