"""Two runs on the same items: the difference of a composite score, its interval, its tests.

Everything works on per-cluster sums of both arms side by side ([C, 2S]: base, then candidate), so that a cluster is
always drawn, left out or swapped in both arms at once. Differences are candidate minus base, negated where lower is
better: positive is better everywhere.

Legend: C clusters, S columns, U distinct rows, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from armor_model.base.jsons import JsonObject
from armor_model.base.statistics import Z95

from .intervals import Formula, bca, bootstrap_sums, cluster_error, distinct_rows, t_quantile

if TYPE_CHECKING:
    from .composite import ClusterSums, Composite

ALPHA = 0.05
"""Level of the test; the interval is its complement."""
PSEUDO_CLUSTERS = 0.25
"""Weight of the unseen flip in `typical_flip`, in clusters; set by simulation (reports/statistics/)."""


@dataclass(frozen=True)
class Flips:
    """What the clusters that changed did to the score, as if each had moved it by the same amount."""

    losses: float
    wins: float
    size: float
    """Change of the score, times C, that one such flip makes (for a plain proportion: the metric's range)."""
    changed: int
    """Clusters whose sums differ between the arms."""
    mean_size: float
    """Square-weighted mean change of those clusters, times C: what power is planned with (`size` is cautious)."""

    def share_without_difference(self, clusters: int) -> float:
        """Share of clusters that would change, by `mean_size` each, without a true difference.

        Wins and losses differ by about the root of their number by chance alone; only what is beyond it is taken out.
        """
        scale = self.size / self.mean_size
        total, net = (self.losses + self.wins) * scale**2, abs(self.wins - self.losses) * scale
        return min(1.0, (total - max(0.0, net - math.sqrt(total))) / clusters)


@dataclass(frozen=True)
class Paired:
    """The comparison of one score; differences in the metric's unit, positive = candidate better."""

    base: float
    candidate: float
    delta: float
    clusters: int
    ci95: tuple[float, float] | None
    p: float | None
    """Two-sided, of no difference."""
    test: str
    """The test's name, or why there is none."""
    se: float | None
    bootstrap_ci95: tuple[float, float] | None
    """Joint cluster bootstrap (BCa), reported beside the deciding interval."""
    losses: int
    """Clusters in which the candidate's change lowered the score."""
    wins: int
    flips: Flips
    binary: bool
    """One 0/1 outcome a cluster: McNemar applies."""


def difference_formula(formula: Formula, sign: float = 1.0) -> Formula:
    """The formula of candidate minus base on [..., 2S]."""

    def difference(sums: np.ndarray) -> np.ndarray:
        half = sums.shape[-1] // 2
        return sign * (formula(sums[..., half:]) - formula(sums[..., :half]))

    return difference


def mcnemar_exact(losses: int, wins: int) -> float:
    """Two-sided exact p-value of discordant pairs: twice the smaller binomial(1/2) tail, at most 1.

    1-0 -> 1.0, 3-0 -> 0.25, 6-0 -> 0.03125, 6-1 -> 0.125.
    """
    n = losses + wins
    return min(1.0, 2.0 * float(special.bdtr(min(losses, wins), n, 0.5))) if n else 1.0


def tango_excess(delta: float, losses: float, wins: float, n: float) -> float:
    """Tango's score statistic (1998): how many standard errors (wins - losses) / n lies above `delta`.

    It falls as delta grows; the counts may be fractional.
    """
    a, b, c = 2 * n, -wins - losses + (2 * n - wins + losses) * delta, -losses * delta * (1 - delta)
    root = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * root + delta * (1 - delta))
    gap = wins - losses - n * delta
    if abs(gap) < 1e-12 * n:
        return 0.0
    return gap / math.sqrt(variance) if variance > 1e-300 else math.copysign(math.inf, gap)


def tango(losses: float, wins: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Score interval of (wins - losses) / n for paired binary outcomes (Tango 1998); the counts may be fractional.

    Keeps its level where discordant pairs are few: without any it is +- z^2 / (n + z^2), not 0.
    """

    def end(target: float, inside: float, outside: float) -> float:
        for _ in range(45):
            middle = (inside + outside) / 2
            if (tango_excess(middle, losses, wins, n) < target) == (target > 0):
                inside = middle
            else:
                outside = middle
        return (inside + outside) / 2

    observed = (wins - losses) / n
    return end(z, observed, -1.0), end(-z, observed, 1.0)


def flip_effects(joint_C2S: np.ndarray, formula: Formula, sign: float = 1.0) -> np.ndarray:
    """What each cluster's change did to the score, times C: [C], exactly 0 where nothing changed.

    Half of undoing the change in the candidate plus half of making it in the base; the mean over clusters is the
    difference, exactly for means and to first order for ratios.
    """
    C, S = len(joint_C2S), joint_C2S.shape[1] // 2
    base, candidate = joint_C2S[:, :S], joint_C2S[:, S:]
    rows_US, which_C, _ = distinct_rows(candidate - base)
    total_base, total_candidate = base.sum(axis=0), candidate.sum(axis=0)
    undone = formula(total_candidate) - formula(total_candidate - rows_US)
    made = formula(total_base + rows_US) - formula(total_base)
    effects_U = np.where(np.any(rows_US != 0, axis=1), sign * C * 0.5 * (undone + made), 0.0)
    effects_C: np.ndarray = effects_U[which_C]
    return effects_C


def typical_flip(effects_C: np.ndarray, whole: float) -> Flips:
    """Equal-sized flips with the same sum, sum of squares and - through their size - skewness as the real ones.

    A cluster of several items moves the score by varying amounts; matching the third moment keeps the interval's level
    where few clusters changed. An unseen flip of three times the largest (`whole`, an entire cluster, where there is
    none) enters the size with a small weight: with few changes seen, a larger one may have been missed.
    """
    magnitude = np.abs(effects_C)
    largest = float(magnitude.max(initial=0.0))
    if largest <= 0:
        return Flips(0.0, 0.0, whole, 0, whole)
    unseen = min(whole, 3 * largest) if whole > largest else largest
    square = float((magnitude**2).sum())
    cube = float((magnitude**3).sum())
    size = (cube + PSEUDO_CLUSTERS * unseen**3) / (square + PSEUDO_CLUSTERS * unseen**2)
    net = float(effects_C.sum()) / size
    total = max(square / size**2, abs(net))
    mean_size = square / float(magnitude.sum())
    return Flips((total - net) / 2, (total + net) / 2, size, int(np.count_nonzero(magnitude)), mean_size)


def difference_test(C: int, delta: float, se: float, flips: Flips, binary: bool) -> tuple[tuple[float, float], float]:
    """95 % interval of the difference and the two-sided p-value of none, from one procedure: p <= 0.05 exactly where
    the interval leaves 0 out.

    For one 0/1 outcome a cluster: McNemar's exact test, and Tango's score interval, which reaches 0 where the exact
    test does not reject. Otherwise Tango's interval on the equal-sized flips, never narrower than the cluster
    jackknife's standard error asks for, with Student's t; p is the level at which its end touches 0.
    """
    if binary:
        low, high = _around(delta, tango(flips.losses, flips.wins, C), flips, C)
        p = mcnemar_exact(round(flips.losses), round(flips.wins))
        return ((min(low, 0.0), max(high, 0.0)) if p > ALPHA else (low, high)), p
    centre, widen = flips.size * (flips.wins - flips.losses) / C, 1.0
    rate = (flips.losses + flips.wins) / C
    implied = flips.size * math.sqrt(max(0.0, rate - ((flips.wins - flips.losses) / C) ** 2) / (C - 1))
    if implied > 0:
        widen = max(1.0, se / implied)
    ends = tango(flips.losses, flips.wins, C, t_quantile(1 - ALPHA / 2, C - 1))
    low, high = _around(delta, ends, flips, C, widen)
    at_zero = min(1.0, max(-1.0, (centre - delta / widen) / flips.size))
    quantile = abs(tango_excess(at_zero, flips.losses, flips.wins, C))
    return (low, high), 2 * float(special.stdtr(C - 1, -quantile))


def _around(delta: float, ends: Iterable[float], flips: Flips, C: int, widen: float = 1.0) -> list[float]:
    """Ends of Tango's interval, in flips, as ends around the difference. Where all flip one way an end is the estimate
    itself: exactly, not but for rounding."""
    offsets = [flips.size * (end - (flips.wins - flips.losses) / C) for end in ends]
    return [delta if abs(x) < 1e-9 * flips.size else delta + widen * x for x in offsets]


def joint_sums(base: ClusterSums, candidate: ClusterSums) -> np.ndarray:
    """Both arms side by side [C, 2S]; raises ValueError when their clusters differ."""
    if base.clusters != candidate.clusters:
        odd = sorted(set(base.clusters) ^ set(candidate.clusters))
        raise ValueError(f"{len(odd)} clusters are in one run only, the first is {odd[0]!r}")
    return np.concatenate([base.sums_CS, candidate.sums_CS], axis=1)


def compare_sums(
    base: ClusterSums,
    candidate: ClusterSums,
    composite: Composite,
    resamples: int = 10_000,
    seed: int | Sequence[int] = 0,
) -> Paired:
    """Compare one score of two runs. Raises ValueError when the clusters differ or a score is undefined.

    `seed` is of the bootstrap that stands beside the deciding interval; `stream` gives each benchmark its own.
    """
    joint = joint_sums(base, candidate)
    C, S = len(joint), base.sums_CS.shape[1]
    sign = 1.0 if composite.direction == "higher" else -1.0
    values = [float(composite.formula(half.sum(axis=0))) if C else math.nan for half in (joint[:, :S], joint[:, S:])]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{composite.name} is undefined in {'base' if not math.isfinite(values[0]) else 'candidate'}")
    difference = difference_formula(composite.formula, sign)
    delta = sign * (values[1] - values[0])
    binary = composite.proportion and bool(
        np.all(joint[:, 1] == 1)
        and np.all(joint[:, S + 1] == 1)
        and np.all(joint[:, (0, S)] * (1 - joint[:, (0, S)]) == 0)
    )
    low, high = composite.bounds
    whole = high - low if math.isfinite(high) else 100.0
    effects_C = flip_effects(joint, composite.formula, sign)
    flips = typical_flip(effects_C, whole) if np.all(np.isfinite(effects_C)) else Flips(0.0, 0.0, whole, 0, whole)
    counts = {"losses": int(np.count_nonzero(effects_C < 0)), "wins": int(np.count_nonzero(effects_C > 0))}
    found: JsonObject = {
        "base": values[0],
        "candidate": values[1],
        "delta": delta,
        "clusters": C,
        "flips": flips,
        **counts,
    }

    se, psi_C = cluster_error(joint, difference)
    if not math.isfinite(se) or not np.all(np.isfinite(effects_C)):
        why = "n/a: fewer than two clusters" if C < 2 else "n/a: one cluster carries a whole term of the score"
        return Paired(**found, ci95=None, p=None, test=why, se=None, bootstrap_ci95=None, binary=binary)
    ci95, p = difference_test(C, delta, se, flips, binary)
    ci95 = (max(-whole, ci95[0]), min(whole, ci95[1])) if math.isfinite(high) else ci95
    resampled = None
    if se > 0 and resamples:
        values_R = difference(bootstrap_sums(joint, resamples, seed))
        resampled = bca(values_R, delta, psi_C) if np.all(np.isfinite(values_R)) else None
    test = "McNemar, exact" if binary else "score test of the flips, Student's t"
    if not binary and se == 0:  # nothing speaks against equality, and nothing estimates an error
        test = "no cluster changed"
    return Paired(**found, ci95=ci95, p=p, test=test, se=se or None, bootstrap_ci95=resampled, binary=binary)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
