"""How far a judge can be trusted: agreement with recorded answers, kappa, and a score corrected for its errors.

The correction is Rogan and Gladen's (1978): true share = (seen + specificity - 1) / (sensitivity + specificity - 1),
with both rates from the answers that are known. Its interval is a percentile bootstrap over clusters, of the known
answers and of the run that is corrected. On the very answers that both rates came from it gives back their own share:
it says something new only of a run that holds more.

Legend: C clusters, S columns, R resamples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from armor_eval.runs.schema import Item, Metric
from armor_eval.stats.composite import Composite, measure, percent, ratio, tally_mean
from armor_eval.stats.intervals import bootstrap_sums, stream

RESAMPLES = 2000
UNDEFINED_ABOVE = 0.01
"""Share of resamples without a correction beyond which no interval is given."""
TRUE_YES, JUDGED_YES, BOTH_YES, ASKED = range(4)
"""Columns of a pair's sums."""


@dataclass(frozen=True)
class Pair:
    """One verdict of the judge beside the recorded one."""

    id: str
    cluster: str
    task: str
    judged: bool
    truth: bool


@dataclass(frozen=True)
class Agreement:
    """A judge against recorded answers, of one task or of all."""

    task: str
    pairs: int
    agreement: Metric
    kappa: Metric
    """Cohen's; undefined where judge and truth say one thing throughout."""
    sensitivity: float | None
    """Of what is right, the share that the judge calls right; None where nothing is."""
    specificity: float | None
    """Of what is wrong, the share that the judge calls wrong."""
    seen: float
    """Percent that the judge calls right, of the run that is corrected."""
    corrected: Metric


def agreement_of(
    pairs: Sequence[Pair], task: str, scored: Mapping[str, tuple[float, float]] | None = None, seed: int = 0
) -> Agreement:
    """Agreement of the pairs (at least one). `scored`: cluster -> (called right, n) of another run of the same judge,
    whose score is corrected; None: that of the pairs themselves."""
    items = [
        Item(
            id=p.id,
            cluster=p.cluster,
            prompt="",
            prompt_sha256="",
            score=float(p.judged == p.truth),
            status="ok",
            extras={"row": [p.truth, p.judged, p.truth and p.judged, 1]},
        )
        for p in pairs
    ]
    same = Composite("agreement", ("same", "n"), tally_mean, percent, proportion=True)
    kappa = Composite("kappa", ("truth", "judge", "both", "n"), _tally_rows, _kappa, "score", bounds=(-1.0, 1.0))
    sums_CS = kappa.cluster_sums(items).sums_CS
    truth, judged, both, n = sums_CS.sum(axis=0)
    target_CS = sums_CS[:, [JUDGED_YES, ASKED]] if scored is None else np.array(list(scored.values()), dtype=float)
    top, bottom = target_CS.sum(axis=0)
    return Agreement(
        task,
        len(pairs),
        measure(items, same),
        measure(items, kappa),
        both / truth if truth else None,
        1 - (judged - both) / (n - truth) if n > truth else None,
        100 * top / bottom,
        _corrected(sums_CS, target_CS, scored is None, seed),
    )


def _tally_rows(items: Sequence[Item]) -> dict[str, list[float]]:
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 4)
    for item in items:
        table[item.cluster] = [a + b for a, b in zip(table[item.cluster], item.extras["row"], strict=True)]
    return table


def _kappa(sums: np.ndarray) -> np.ndarray:
    """(observed - expected agreement) / (1 - expected), of sums [..., 4]; nan where the expected one is 1."""
    n = sums[..., ASKED]
    truth, judged, both = (ratio(sums[..., k], n) for k in (TRUE_YES, JUDGED_YES, BOTH_YES))
    observed = 1 - truth - judged + 2 * both
    expected = truth * judged + (1 - truth) * (1 - judged)
    return ratio(observed - expected, 1 - expected)


def rogan_gladen(sums: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Corrected percent, 0..100, of sums [..., 4] of known answers and sums [..., 2] (called right, n) of a run; nan
    where a rate is undefined, or the judge does no better than chance (sensitivity + specificity <= 1)."""
    wrong = sums[..., ASKED] - sums[..., TRUE_YES]
    sensitivity = ratio(sums[..., BOTH_YES], sums[..., TRUE_YES])
    false_yes = ratio(sums[..., JUDGED_YES] - sums[..., BOTH_YES], wrong)
    youden = sensitivity - false_yes
    seen = ratio(target[..., 0], target[..., 1])
    share = ratio(seen - false_yes, np.where(youden > 1e-12, youden, np.nan))
    corrected: np.ndarray = 100.0 * np.clip(share, 0.0, 1.0)
    return corrected


def _corrected(sums_CS: np.ndarray, target_CS: np.ndarray, own: bool, seed: int) -> Metric:
    value = float(rogan_gladen(sums_CS.sum(axis=0), target_CS.sum(axis=0)))
    common = {"name": "corrected score", "unit": "%", "n": int(target_CS[:, 1].sum()), "clusters": len(target_CS)}
    if not math.isfinite(value):
        why = "sensitivity + specificity is not above 1, or one of them has no answers"
        return Metric(value=None, note=f"undefined: {why}", **common)
    known_RS = bootstrap_sums(sums_CS, RESAMPLES, stream(seed, "known"))
    target_RS = known_RS[:, [JUDGED_YES, ASKED]] if own else bootstrap_sums(target_CS, RESAMPLES, stream(seed, "run"))
    values_R = rogan_gladen(known_RS, target_RS)
    lost = int(np.count_nonzero(~np.isfinite(values_R)))
    if min(len(sums_CS), len(target_CS)) < 2 or lost > UNDEFINED_ABOVE * RESAMPLES:
        return Metric(value=value, note=f"n/a: undefined in {lost} of {RESAMPLES} resamples", **common)
    low, high = np.nanquantile(values_R, (0.025, 0.975))
    how = f"Rogan-Gladen; percentile cluster bootstrap, {RESAMPLES} resamples, seed {seed}"
    return Metric(value=value, ci95=(min(low, value), max(high, value)), method=how, **common)
