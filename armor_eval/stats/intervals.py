"""95 % intervals of a single run's numbers, and how well they cover.

* A plain proportion (one 0/1 outcome a cluster): Wilson's interval.
* Any other number with two ends: the standard error of the cluster jackknife on the real formula is
  turned into the sample size that it is worth, then Wilson's interval at that size with Student's t (clusters - 1). It
  stays in the range and leans inwards near the ends. It was chosen by simulated coverage (reports/statistics/):
  percentile bootstrap, BCa bootstrap and a plain t interval leave 93.5-96.5 % sooner near the ends of the range.
* A ratio without an upper end (LLaVABench, retention): Student's t on the logarithm.
* Undefined (fewer than two clusters, an empty denominator, a ratio without spread): no interval, never one of width 0.
  A number without any spread between clusters (all right, all wrong) gets Wilson's with one observation a cluster.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import special

from armor_eval.runs.schema import Item, Metric
from armor_model.base.jsons import JsonObject
from armor_model.base.statistics import Z95, wilson

from .composite import ends

if TYPE_CHECKING:
    from .composite import Composite

NO_SPREAD = 1e-10
"""Standard error, as a share of the range or value, that is only rounding."""


def t_quantile(p: float, df: float) -> float:
    """Student's t quantile (scipy.special: a tenth of the import time of scipy.stats)."""
    return float(special.stdtrit(df, p))


def bca(values_R: np.ndarray, value: float, psi_C: np.ndarray) -> tuple[float, float]:
    """Bias-corrected and accelerated percentile interval (Efron 1987), acceleration from the cluster jackknife."""
    below = (np.count_nonzero(values_R < value) + 0.5 * np.count_nonzero(values_R == value)) / len(values_R)
    z0 = float(special.ndtri(np.clip(below, 1e-4, 1 - 1e-4)))
    a = float((psi_C**3).sum() / (6 * ((psi_C**2).sum()) ** 1.5))
    ends = []
    for z in (-Z95, Z95):
        ends.append(float(special.ndtr(z0 + (z0 + z) / (1 - a * (z0 + z)))))
    lo, hi = np.quantile(values_R, ends)
    return float(lo), float(hi)


def effective_wilson(
    value: float, se: float, clusters: int, bounds: tuple[float, float], df: float | None = None
) -> tuple[float, float]:
    """Wilson's interval at the size that the cluster-robust error implies, with Student's t (`df`, else C - 1)."""
    lo, hi = bounds
    p, s = min(1.0, max(0.0, (value - lo) / (hi - lo))), se / (hi - lo)
    n = p * (1 - p) / (s * s) if s > NO_SPREAD and 0 < p < 1 else float(clusters)
    a, b = wilson(p, n, t_quantile(0.975, clusters - 1 if df is None else df))
    return lo + a * (hi - lo), lo + b * (hi - lo)


def log_t(value: float, se: float, clusters: int, df: float | None = None) -> tuple[float, float]:
    """Student's t interval on the logarithm of a positive ratio."""
    half = t_quantile(0.975, clusters - 1 if df is None else df) * se / value
    return value * math.exp(-half), value * math.exp(half)


def from_error(
    value: float, se: float, clusters: int, bounds: tuple[float, float], df: float | None = None
) -> tuple[tuple[float, float] | None, str]:
    """95 % interval from a standard error, and the words for how it was made (or why there is none)."""
    if math.isfinite(bounds[1]):
        how = "Wilson at the effective size of the cluster jackknife"
        return effective_wilson(value, se, clusters, bounds, df), how
    if value <= 0:
        return None, "n/a: a ratio of 0 has no logarithm"
    if se <= NO_SPREAD * value:
        return None, "n/a: no spread between clusters"
    return log_t(value, se, clusters, df), "Student's t on the log ratio, cluster jackknife"


def interval(
    sums_CS: np.ndarray, composite: Composite, method: Literal["jackknife", "bootstrap"], seed: int, resamples: int
) -> tuple[tuple[float, float] | None, str]:
    """95 % interval and the words for how it was made (or why there is none)."""
    C = len(sums_CS)
    if C < 2:
        return None, "n/a: fewer than two clusters"
    value = float(composite.formula(sums_CS.sum(axis=0)))
    if composite.proportion and np.all(sums_CS[:, 1] == 1) and np.all(np.isin(sums_CS[:, 0], (0, 1))):
        lo, hi = composite.bounds
        a, b = wilson((value - lo) / (hi - lo), C)
        return (lo + a * (hi - lo), lo + b * (hi - lo)), "Wilson"
    se, psi_C = cluster_error(sums_CS, composite.formula)
    if not math.isfinite(se):
        return None, "n/a: one cluster carries a whole term of the score"
    if method == "bootstrap" and se > 0:
        values_R = composite.formula(bootstrap_sums(sums_CS, resamples, seed))
        if not np.all(np.isfinite(values_R)):
            return None, "n/a: undefined in some resamples"
        return bca(values_R, value, psi_C), f"cluster bootstrap (BCa), {resamples} resamples, seed {seed}"
    return from_error(value, se, C, composite.bounds)


def measure(
    items: Iterable[Item],
    composite: Composite,
    seed: int = 0,
    resamples: int = 2000,
    method: Literal["jackknife", "bootstrap"] = "jackknife",
) -> Metric:
    """A run's number with its 95 % interval.

    `seed` and `resamples` serve `method="bootstrap"` only; the default is closed-form and covers better (module text).
    """
    sums = composite.cluster_sums(items)
    C = len(sums.clusters)
    value = float(composite.formula(sums.sums_CS.sum(axis=0))) if C else math.nan
    common: JsonObject = {
        "name": composite.name,
        "unit": composite.unit,
        "direction": composite.direction,
        "n": sums.items,
        "clusters": C,
        "primary": composite.primary,
        "bounds": ends(composite),
    }
    if not math.isfinite(value):
        note = "undefined: no measured items" if not C else "undefined: an empty denominator"
        return Metric(value=None, note=note, **common)
    ci, how = interval(sums.sums_CS, composite, method, seed, resamples)
    if ci is None:
        return Metric(value=value, note=how, **common)
    lo, hi = composite.bounds
    # Rounding may put an end a hair inside the value or outside of the range.
    return Metric(value=value, ci95=(max(lo, min(ci[0], value)), min(hi, max(ci[1], value))), method=how, **common)


# --- cluster resampling and the delete-one-cluster jackknife, vectorised over per-cluster sums -----------------------
# Legend: C clusters, S columns, U distinct rows of the [C, S] matrix, R resamples.


Formula = Callable[[np.ndarray], np.ndarray]

CHUNK_CELLS = 4_000_000
"""Random draws held at once: 32 MB of indices."""
LEVERAGE = 0.6
"""Share of a term of the score beyond which a cluster's residual says nothing about its spread."""
STEP = 1e-3
"""Change of a cluster's weight for the derivative: its error is of the order of the square, rounding far below."""


def distinct_rows(sums_CS: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows [U, S], the row each cluster has [C], and how many clusters have it [U]."""
    # Sorting one number a row is tens of times faster than sorting rows; the check makes a collision harmless.
    weights_S = np.random.default_rng(0).random(sums_CS.shape[1])
    _, first, which_C, counts_U = np.unique(
        sums_CS @ weights_S, return_index=True, return_inverse=True, return_counts=True
    )
    rows_US, which_C = sums_CS[first], which_C.reshape(-1)
    if not np.array_equal(rows_US[which_C], sums_CS):
        rows_US, which_C, counts_U = np.unique(sums_CS, axis=0, return_inverse=True, return_counts=True)
    return rows_US, which_C.reshape(-1), counts_U


def stream(seed: int, name: str) -> list[int]:
    """The generator seed of one benchmark, [seed, CRC-32 of its name]: two benchmarks never share their draws."""
    return [seed, zlib.crc32(name.encode())]


def bootstrap_sums(sums_CS: np.ndarray, resamples: int, seed: int | Sequence[int]) -> np.ndarray:
    """Column sums [R, S] of `resamples` draws of C clusters with replacement.

    Clusters with equal sums are exchangeable, so the draw is multinomial over the U distinct rows: the same law as
    drawing clusters, at U/C of the work (binary items have a handful of distinct rows however many there are).
    """
    rng = np.random.default_rng(seed)
    rows_US, which_C, counts_U = distinct_rows(sums_CS)
    C, U = len(which_C), len(counts_U)
    # A binomial draw costs about 12 times an index draw plus its count (measured: 60 ns against 5 ns).
    if U * 12 < C or U <= 64:
        sums_RS: np.ndarray = rng.multinomial(C, counts_U / C, size=resamples).astype(np.float64) @ rows_US
        return sums_RS
    out_RS = np.empty((resamples, sums_CS.shape[1]))
    step = max(1, CHUNK_CELLS // max(C, U))
    for start in range(0, resamples, step):
        r = min(step, resamples - start)
        drawn = which_C[rng.integers(0, C, size=(r, C), dtype=np.int32)]
        drawn += np.arange(r)[:, None] * U
        weights = np.bincount(drawn.reshape(-1), minlength=r * U).reshape(r, U)
        out_RS[start : start + r] = weights.astype(np.float64) @ rows_US
    return out_RS


def cluster_error(sums_CS: np.ndarray, formula: Formula) -> tuple[float, np.ndarray]:
    """Cluster-robust standard error of the value, and the jackknife's influence [C] of each cluster on it.

    Both are nan with fewer than two clusters, or where leaving one out leaves nothing to divide by.

    Where a score is made of few clusters a term (MME's 14 categories, GenEval's tasks, the benchmarks of a retention)
    the delete-one jackknife overstates the variance by n / (n - 1) of each term, and the linearised one understates it
    by the same: their product is unbiased (the HC2 correction of regression, with leverage 1 / n). A cluster that is
    more than `LEVERAGE` of a term leaves nothing to estimate its spread from: there the jackknife alone is kept.
    """
    C = len(sums_CS)
    if C < 2:
        return math.nan, np.full(C, np.nan)
    rows_US, which_C, counts_U = distinct_rows(sums_CS)
    total_S = sums_CS.sum(axis=0)
    left_out_U = formula(total_S - rows_US)
    psi_U = (C - 1) * ((left_out_U * counts_U).sum() / C - left_out_U)
    nudged = STEP * rows_US
    linear_U = C * (formula(total_S + nudged) - formula(total_S - nudged)) / (2 * STEP)
    square_U = np.where(linear_U * psi_U >= (1 - LEVERAGE) * psi_U**2, linear_U * psi_U, psi_U**2)
    return float(np.sqrt((square_U * counts_U).sum() / (C * (C - 1)))), psi_U[which_C]
