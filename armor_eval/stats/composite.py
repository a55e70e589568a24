"""The numbers that benchmarks report, each as a formula over per-cluster sums.

Scoring, comparison and tables all read the same object, so that the real scoring formula is what gets resampled.
Legend: C clusters, S columns (sums), R resamples.

What an `Item` must carry. `score` is 0/1 unless said otherwise; None = not measured, which leaves the item out, and
with it the circular group, pair, figure or question that needs it.

    benchmark        cluster               group                 score, extras
    MMMU             the item              category              extras split: "validation" counts, "dev" does not
    MMB              index % 1e6           category              one item a row (rotation)
    SEED             image                 category
    MME, MME-P       image                 category, as printed  extras pair: key of the two questions, default cluster
    HallusionBench   l2-category and set   l2-category           extras figure, question (numbers within the set);
                                                                 the id begins with the category (VD_, VS_)
    POPE             image                 the comma list        extras answer, extracted: "Yes", "No", anything else
    MMVet            image or item         the comma list        score 0..1
    LLaVABench       image                 category              score: the judge's 1-10; extras reference_score: same
    geneval          prompt                task, as printed      one item an image
    modality         prompt                kind (t2t, ti2t ...)
    interleaved      dialogue              kind (single, edit ...)

Formulas are those of VLMEvalKit (vlmeval/dataset/utils: `report_acc`, `mcq_circular_eval`, `MME_rating`, `POPE_rating`,
`Hallusion_rating`, `MMVet_acc`, `LLaVABench_score`) and of GenEval's summary; tests/stats holds ours equal to theirs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from armor_eval.runs.schema import Item, Metric


PERCENT, UNIT = (0.0, 100.0), (0.0, 1.0)
"""Bounds of a composite."""

Tally = Callable[[Sequence["Item"]], dict[str, list[float]]]
"""Items to `cluster -> its S sums`."""


@dataclass(frozen=True)
class ClusterSums:
    """Per-cluster sums of one run."""

    clusters: tuple[str, ...]
    sums_CS: np.ndarray  # noqa: N815 - the shape suffix of the whole package
    items: int
    """Items behind the sums."""


@dataclass(frozen=True)
class Composite:
    """One reported number: which sums it needs and how they become a value."""

    name: str
    columns: tuple[str, ...]
    tally: Tally = field(repr=False)
    formula: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    """sums [..., S] -> value [...]; nan where undefined."""
    unit: str = "%"
    """`%` (0..100), `points` (MME) or `score` (0..1)."""
    direction: Literal["higher", "lower"] = "higher"
    bounds: tuple[float, float] = PERCENT
    """The range that intervals are clipped to; the upper end may be infinite."""
    primary: bool = False
    """The number reported for the benchmark."""
    keep: Callable[[Item], bool] | None = field(default=None, repr=False)
    """Which items belong to the score at all (MMMU's validation split, one GenEval task ...)."""
    proportion: bool = False
    """True where columns are (right, n): with n = 1 in every cluster it is a plain proportion (Wilson, McNemar)."""

    def cluster_sums(self, items: Iterable[Item]) -> ClusterSums:
        """Items -> sums by cluster, clusters in sorted order. Raises ValueError on a score that is not finite."""
        import numpy as np

        kept = [it for it in items if self.keep is None or self.keep(it)]
        for it in kept:
            if it.score is not None and not math.isfinite(it.score):
                raise ValueError(f"item {it.id}: the score is {it.score}, expected a finite number")
        table = self.tally(kept)
        clusters = tuple(sorted(table))
        sums_CS = np.array([table[c] for c in clusters], dtype=np.float64).reshape(len(clusters), len(self.columns))
        return ClusterSums(clusters, sums_CS, sum(it.score is not None for it in kept))

    def value(self, items: Iterable[Item]) -> float | None:
        """The score of the items; None where it is undefined (no items, an empty denominator)."""
        return self.value_of(self.cluster_sums(items))

    def value_of(self, sums: ClusterSums) -> float | None:
        """The score of all clusters together."""
        if not sums.clusters:
            return None
        value = float(self.formula(sums.sums_CS.sum(axis=0)))
        return value if math.isfinite(value) else None


def ends(composite: Composite) -> tuple[float | None, float | None]:
    """The bounds as a record holds them: None for an end that is open."""
    low, high = (end if math.isfinite(end) else None for end in composite.bounds)
    return low, high


def ratio(top: np.ndarray, bottom: np.ndarray, empty: float = math.nan) -> np.ndarray:
    """top / bottom, and `empty` where the denominator is 0."""
    import numpy as np

    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    quotient = np.full(np.broadcast(top, bottom).shape, empty)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


# --- formulas: sums [..., S] -> value [...] --------------------------------------------------------------------------


def percent(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 1])


def fraction(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def column_percent(top: int, bottom: int, sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., top], sums[..., bottom])


def task_mean(sums: np.ndarray) -> np.ndarray:
    """Unweighted mean of the task means, over the tasks that have items."""
    top, n = sums[..., 0::2], sums[..., 1::2]
    return ratio(ratio(top, n, empty=0.0).sum(axis=-1), (n > 0).sum(axis=-1))


def accuracy(name: str = "accuracy", primary: bool = True, keep: Callable[[Item], bool] | None = None) -> Composite:
    """Mean of the scores x 100."""
    return Composite(name, ("right", "n"), tally_mean, percent, primary=primary, keep=keep, proportion=True)


def in_group(name: str | None) -> Callable[[Item], bool] | None:
    """Keeps the items of one group; None, which keeps all, where none is named."""
    return None if name is None else partial(_in_group, name)


def _in_group(name: str, item: Item) -> bool:
    return item.group == name


def measure(items: Iterable[Item], composite: Composite, seed: int = 0, resamples: int = 2000) -> Metric:
    """Value and 95 % interval of one run; see armor_eval.stats.intervals for the method and its coverage."""
    from .intervals import measure as _measure

    return _measure(items, composite, seed=seed, resamples=resamples)


# --- tallies ---------------------------------------------------------------------------------------------------------
# Items to per-cluster sums, one function a kind of score: the part of a composite that reads items.
#
# Each returns `cluster -> its S sums` and names its columns in its docstring. An item without a score (None) counts
# nowhere.


def scored_in_all(*runs: Mapping[str, Item]) -> list[list[Item]]:
    """Each run's items, without the score where another run has none: a circular group is then left out of all."""
    scored = set.intersection(*({i for i, it in run.items() if it.score is not None} for run in runs))
    return [
        [it if i in scored or it.score is None else it.model_copy(update={"score": None}) for i, it in run.items()]
        for run in runs
    ]


def tally_mean(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of scores, n)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for it in items:
        if it.score is not None:
            row = table[it.cluster]
            row[0] += it.score
            row[1] += 1
    return table


def tally_all_right(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (1 where every item of the cluster is right, 1): a circular group (left out with an unmeasured row)."""
    right: dict[str, bool | None] = {}
    for it in items:
        before = right.get(it.cluster, True)
        right[it.cluster] = None if it.score is None or before is None else before and bool(it.score)
    return {c: [float(r), 1.0] for c, r in right.items() if r is not None}


def tally_any_right(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (1 where any item of the cluster is right, 1): GenEval's % correct prompts."""
    table: dict[str, list[float]] = {}
    for it in items:
        if it.score is not None:
            table.setdefault(it.cluster, [0.0, 1.0])
            table[it.cluster][0] = max(table[it.cluster][0], float(bool(it.score)))
    return table


def tally_by_group(groups: tuple[str, ...], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (right, n) for each group in turn."""
    at = {g: 2 * i for i, g in enumerate(groups)}
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (2 * len(groups)))
    for it in items:
        if it.score is not None:
            if it.group not in at:
                raise ValueError(f"item {it.id}: group {it.group!r} is not one of {', '.join(groups)}")
            row, k = table[it.cluster], at[it.group]
            row[k] += it.score
            row[k + 1] += 1
    return table
