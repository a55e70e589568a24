"""From curves and records to numbers and words: areas, steps to a loss, paired differences over seeds, retention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from armor_eval.runs.schema import Metric
from armor_eval.stats.composite import fraction
from armor_eval.stats.intervals import cluster_error, log_t, t_quantile

Curve = Sequence[tuple[int, float]]
"""(step, value), steps rising."""

WORTH = 0.05
"""Share of a loss's area that a difference must exceed to be called faster: a mere sign is no finding."""


def area(curve: Curve) -> float:
    """Mean value over steps (trapezoid rule): the area under the curve divided by its width."""
    steps = np.array([s for s, _ in curve], dtype=float)
    values = np.array([v for _, v in curve], dtype=float)
    if len(steps) < 2:
        return float(values[0])
    return float(((values[1:] + values[:-1]) / 2 * np.diff(steps)).sum() / (steps[-1] - steps[0]))


def steps_to(curve: Curve, level: float) -> float | None:
    """First step, interpolated, from which on the curve has come down to `level`; None where it never does."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value <= level:
            if before is None or before[1] <= level:
                return float(step)
            share = (before[1] - level) / (before[1] - value)
            return before[0] + share * (step - before[0])
        before = (step, value)
    return None


def mean_interval(values: Sequence[float]) -> tuple[float, tuple[float, float] | None]:
    """Mean and Student's 95 % interval over seeds; no interval from one seed."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return float(x.mean()), None
    half = t_quantile(0.975, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()), (float(x.mean()) - half, float(x.mean()) + half)


NONE_SEEN = 3.0
"""Where every pair agrees, resampling shows no spread at all; n cases without a change still allow a share of 3 / n
(the rule of three, 95 %)."""

HOLDS = {"supported": "holds here", "contradicted": "does NOT hold here", "undecided": "is undecided here"}
"""A verdict as the end of a sentence about a claim."""


def span(interval: tuple[float, float] | None, form: str = "+.3f") -> str:
    """` [low, high]`, or nothing where there is no interval."""
    return "" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]"


def sign(interval: tuple[float, float] | None) -> str:
    """The verdict on "a is more than b" from the interval of a - b."""
    if interval is None:
        return "undecided"
    return "supported" if interval[0] > 0 else "contradicted" if interval[1] < 0 else "undecided"


def faster(a: Sequence[float], b: Sequence[float], quick: bool = False) -> tuple[str, str]:
    """Whether areas `a` lie below `b`, paired by seed: (verdict on "a converges much faster", evidence).

    supported: the interval of the paired difference lies below -WORTH x b's mean; contradicted: it lies above that
    line; undecided otherwise, and always from fewer than three seeds or a quick run.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, interval = mean_interval(differences)
    line = -WORTH * float(np.mean(b))
    told = (
        f"held-back image loss over image tokens, mean over the run: {np.mean(a):.3f} against {np.mean(b):.3f} nats, "
        f"difference {mean:+.3f}{span(interval)}"
    )
    if interval is None:
        return "undecided", f"{told}; one seed gives no interval"
    told += f" over {len(differences)} seeds"
    if quick or len(differences) < 3:
        return "undecided", f"{told}; no verdict from {'a quick run' if quick else 'fewer than three seeds'}"
    verdict = "supported" if interval[1] < line else "contradicted" if interval[0] > line else "undecided"
    return verdict, f"{told}; called faster below {line:+.3f} ({WORTH:.0%})"


def share_difference(
    a: Sequence[Sequence[bool]], b: Sequence[Sequence[bool]], clusters: Sequence[str]
) -> tuple[float, tuple[float, float] | None]:
    """Difference of right shares, a - b: seeds x images, paired; prompts (`clusters`) are resampled with all theirs.

    95 % percentile interval of 2,000 resamples, seed 0; None with fewer than two prompts.
    """
    gap = np.mean(np.asarray(a, dtype=float), axis=0) - np.mean(np.asarray(b, dtype=float), axis=0)
    _, place = np.unique(list(clusters), return_inverse=True)
    counts, sums = np.bincount(place), np.bincount(place, weights=gap)
    if len(counts) < 2:
        return float(gap.mean()), None
    draws = np.random.default_rng(0).integers(0, len(counts), (2000, len(counts)))
    low, high = np.quantile(sums[draws].sum(axis=1) / counts[draws].sum(axis=1), [0.025, 0.975])
    if low == high:
        low, high = max(-1.0, low - NONE_SEEN / len(counts)), min(1.0, high + NONE_SEEN / len(counts))
    return float(gap.mean()), (float(low), float(high))


def retention(name: str, after: Sequence[float], before: Sequence[bool], note: str, over: str = "questions") -> Metric:
    """Share of right answers after over before, paired by question: the interval that `understanding --retention` has
    (Student's t on the log ratio, armor_eval/stats), and the rule of three where nothing changed or nothing is kept.

    No value where the base answers nothing right. `after` may be a mean over seeds; `over` says so.
    """
    common = {"name": name, "unit": "share", "n": len(before), "clusters": len(before), "note": note}
    sums_C2 = np.column_stack([after, before]).astype(float)
    kept, known = sums_C2.sum(axis=0)
    if not known:
        return Metric(value=None, **common)
    value = kept / known
    error, _ = cluster_error(sums_C2, fraction)
    if not kept or not error > 0:
        ends = max(0.0, value - NONE_SEEN / known), value + NONE_SEEN / known
        return Metric(value=value, ci95=ends, method=f"rule of three over {over}", **common)
    ends = log_t(value, error, len(sums_C2))
    return Metric(
        value=value, ci95=ends, method=f"Student's t on the log ratio, cluster jackknife over {over}", **common
    )
