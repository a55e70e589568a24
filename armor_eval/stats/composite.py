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
    geneval          prompt                task, as printed      one item a picture
    modality         prompt                kind (t2t, ti2t ...)

Formulas are those of VLMEvalKit (vlmeval/dataset/utils: `report_acc`, `mcq_circular_eval`, `MME_rating`, `POPE_rating`,
`Hallusion_rating`, `MMVet_acc`, `LLaVABench_score`) and of GenEval's summary; tests/stats holds ours equal to theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from armor_model.base.errors import did_you_mean

from .tallies import (
    tally_all_right,
    tally_any_right,
    tally_by_group,
    tally_hallusion,
    tally_llavabench,
    tally_mean,
    tally_mme,
    tally_pope,
    tally_pope_categories,
)

if TYPE_CHECKING:
    from armor_eval.runs.schema import Item, Metric

Tally = Callable[[Sequence["Item"]], dict[str, list[float]]]
"""Items to `cluster -> its S sums`."""

MME_PERCEPTION = (
    "OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene",
)  # fmt: skip
MME_REASONING = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")
GENEVAL_TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
POPE_CATEGORIES = ("adversarial", "popular", "random")
MMVET_CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")


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
    unit: str
    """`%` (0..100), `points` (MME) or `score` (0..1)."""
    direction: Literal["higher", "lower"]
    bounds: tuple[float, float]
    """The range that intervals are clipped to; the upper end may be infinite."""
    columns: tuple[str, ...]
    tally: Tally = field(repr=False)
    formula: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    """sums [..., S] -> value [...]; nan where undefined."""
    primary: bool = False
    """The number reported for the benchmark."""
    keep: Callable[[Item], bool] | None = field(default=None, repr=False)
    """Which items belong to the score at all (MMMU's validation split, one GenEval task ...)."""
    proportion: bool = False
    """True where columns are (right, n): with n = 1 in every cluster it is a plain proportion (Wilson, McNemar)."""

    def cluster_sums(self, items: Iterable[Item]) -> ClusterSums:
        """Items -> sums by cluster, clusters in sorted order. Raises ValueError on a score that is not finite."""
        kept = [it for it in items if self.keep is None or self.keep(it)]
        for it in kept:
            if it.score is not None and not np.isfinite(it.score):
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
        return value if np.isfinite(value) else None


def ratio(top: np.ndarray, bottom: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """top / bottom, and `empty` where the denominator is 0."""
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    quotient = np.full(np.broadcast(top, bottom).shape, empty)
    np.divide(top, bottom, out=quotient, where=bottom != 0)
    return quotient


# --- formulas: sums [..., S] -> value [...] --------------------------------------------------------------------------


def percent(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 1])


def fraction(sums: np.ndarray) -> np.ndarray:
    return ratio(sums[..., 0], sums[..., 1])


def mme_points(sums: np.ndarray) -> np.ndarray:
    """Sum over categories of 100 * (acc + acc+); a category without items adds nothing, as in `MME_rating`."""
    acc = ratio(sums[..., 0::4], sums[..., 1::4], empty=0.0)
    plus = ratio(sums[..., 2::4], sums[..., 3::4], empty=0.0)
    points = 100.0 * (acc + plus).sum(axis=-1)
    return np.where(sums[..., 1::4].sum(axis=-1) > 0, points, np.nan)


def hallusion_mean(sums: np.ndarray) -> np.ndarray:
    a_acc, f_acc, q_acc = (ratio(sums[..., at], sums[..., at + 1]) for at in (0, 2, 4))
    mean: np.ndarray = 100.0 * (a_acc + f_acc + q_acc) / 3
    return mean


def column_percent(top: int, bottom: int, sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., top], sums[..., bottom])


def pope_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of "Yes": 0 where precision + recall is 0, as in `POPE_rating`."""
    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    f1 = 100.0 * ratio(2 * tp, 2 * tp + fp + fn, empty=0.0)
    return np.where(sums[..., 4] > 0, f1, np.nan)


def pope_category_f1(place: int, sums: np.ndarray) -> np.ndarray:
    return pope_f1(sums[..., 5 * place : 5 * place + 5])


def pope_mean_f1(sums: np.ndarray) -> np.ndarray:
    """Unweighted mean of the categories' F1, what most papers print; undefined where a category has no items."""
    mean: np.ndarray = np.mean([pope_category_f1(place, sums) for place in range(len(POPE_CATEGORIES))], axis=0)
    return mean


def pope_precision(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 0] + sums[..., 1], empty=0.0)


def pope_recall(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 0] + sums[..., 2], empty=0.0)


def task_mean(sums: np.ndarray) -> np.ndarray:
    """Unweighted mean of the task means, over the tasks that have items."""
    top, n = sums[..., 0::2], sums[..., 1::2]
    return ratio(ratio(top, n, empty=0.0).sum(axis=-1), (n > 0).sum(axis=-1))


# --- the registry ----------------------------------------------------------------------------------------------------

PERCENT, POINTS_ALL, POINTS_PERCEPTION, UNIT = (0.0, 100.0), (0.0, 2800.0), (0.0, 2000.0), (0.0, 1.0)


def _in_group(name: str, item: Item) -> bool:
    return item.group == name


def _in_capability(name: str, item: Item) -> bool:
    return name in (item.group or "")  # a substring test, as in `MMVet_acc`


def _in_validation(item: Item) -> bool:
    return bool(item.extras.get("split", "validation") == "validation")


def accuracy(name: str = "accuracy", primary: bool = True, keep: Callable[[Item], bool] | None = None) -> Composite:
    """Mean of the scores x 100."""
    return Composite(
        name, "%", "higher", PERCENT, ("right", "n"), tally_mean, percent, primary, keep=keep, proportion=True
    )


def _fourfold(categories: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{c}:{part}" for c in categories for part in ("right", "n", "pairs_right", "pairs"))


def _mme(name: str, categories: tuple[str, ...], bounds: tuple[float, float], primary: bool) -> Composite:
    return Composite(
        name, "points", "higher", bounds, _fourfold(categories), partial(tally_mme, categories), mme_points, primary,
        keep=lambda it: it.group not in MME_PERCEPTION + MME_REASONING or it.group in categories,
    )  # fmt: skip


def _hallusion() -> list[Composite]:
    columns = ("right", "n", "figures_right", "figures", "questions_right", "questions")
    plain = partial(Composite, unit="%", direction="higher", bounds=PERCENT, columns=columns)
    make, own = partial(plain, tally=tally_hallusion), partial(plain, tally=partial(tally_hallusion, own=True))
    return [
        make("mean of aAcc, fAcc, qAcc", formula=hallusion_mean, primary=True),
        make("aAcc", formula=partial(column_percent, 0, 1)),
        make("fAcc", formula=partial(column_percent, 2, 3)),
        make("qAcc", formula=partial(column_percent, 4, 5)),
        own("mean of aAcc, fAcc, qAcc, own grouping", formula=hallusion_mean),
        own("fAcc, own grouping", formula=partial(column_percent, 2, 3)),
        own("qAcc, own grouping", formula=partial(column_percent, 4, 5)),
    ]


def _pope() -> list[Composite]:
    columns = ("tp", "fp", "fn", "right", "n")
    plain = partial(Composite, unit="%", direction="higher", bounds=PERCENT)
    make = partial(plain, columns=columns, tally=tally_pope)
    each = partial(
        plain, columns=tuple(f"{c}:{part}" for c in POPE_CATEGORIES for part in columns),
        tally=partial(tally_pope_categories, POPE_CATEGORIES),
    )  # fmt: skip
    return [
        make("F1", formula=pope_f1, primary=True),
        make("accuracy", formula=partial(column_percent, 3, 4)),
        make("precision", formula=pope_precision),
        make("recall", formula=pope_recall),
        each("F1, mean of the categories", formula=pope_mean_f1),
        *(each(f"F1, {c}", formula=partial(pope_category_f1, place)) for place, c in enumerate(POPE_CATEGORIES)),
    ]


def _geneval() -> list[Composite]:
    columns = tuple(f"{t}:{part}" for t in GENEVAL_TASKS for part in ("right", "n"))
    make = partial(Composite, unit="score", direction="higher", bounds=UNIT)
    overall = make(
        "overall", columns=columns, tally=partial(tally_by_group, GENEVAL_TASKS), formula=task_mean, primary=True
    )
    plain = partial(make, columns=("right", "n"), formula=fraction, proportion=True)
    tasks = [plain(t, tally=tally_mean, keep=partial(_in_group, t)) for t in GENEVAL_TASKS]
    return [overall, *tasks, plain("images", tally=tally_mean), plain("prompts", tally=tally_any_right)]


def _mmb() -> list[Composite]:
    circular = Composite(
        "circular accuracy", "%", "higher", PERCENT, ("groups_right", "groups"), tally_all_right, percent,
        primary=True, proportion=True,
    )  # fmt: skip
    return [circular, accuracy("accuracy of single rows", primary=False)]


def _llavabench() -> list[Composite]:
    columns = ("model", "reference", "n")
    make = partial(Composite, unit="%", direction="higher", columns=columns, tally=tally_llavabench)
    return [
        # Above 100 the judge prefers the model to the reference: the ratio has no upper end.
        make("relative score", bounds=(0.0, float("inf")), formula=partial(column_percent, 0, 1), primary=True),
        make("model's own mark", bounds=PERCENT, formula=lambda s: 10.0 * ratio(s[..., 0], s[..., 2])),
        make("reference's mark", bounds=PERCENT, formula=lambda s: 10.0 * ratio(s[..., 1], s[..., 2])),
    ]


def _mmvet() -> list[Composite]:
    # A capability's mean counts each item once, as MM-Vet defines it. VLMEvalKit 0.0.20 counts an item of that one
    # capability alone twice (`MMVet_acc` keeps two tables in one dictionary); the overall score is unaffected.
    parts = [accuracy(c, primary=False, keep=partial(_in_capability, c)) for c in MMVET_CAPABILITIES]
    return [accuracy("score"), *parts]


_MME_TOTAL = ("perception + reasoning", MME_PERCEPTION + MME_REASONING, POINTS_ALL)
_MME_PERCEPTION = ("perception", MME_PERCEPTION, POINTS_PERCEPTION)
_MME_REASONING = ("reasoning", MME_REASONING, (0.0, 800.0))

REGISTRY: dict[str, Callable[[], list[Composite]]] = {
    "MMMU": lambda: [accuracy("validation accuracy", keep=_in_validation)],
    "MME": lambda: [_mme(*_MME_TOTAL, True), _mme(*_MME_PERCEPTION, False), _mme(*_MME_REASONING, False)],
    "MME-P": lambda: [_mme(*_MME_PERCEPTION, True)],
    "MMVet": _mmvet,
    "MMB": _mmb,
    "SEED": lambda: [accuracy()],
    "HallusionBench": _hallusion,
    "POPE": _pope,
    "LLaVABench": _llavabench,
    "geneval": _geneval,
    "modality": lambda: [accuracy()],
}


def formula_names() -> dict[str, str]:
    """Every benchmark that has a score -> the name of its formula here: MMBench's other splits are scored as MMB is."""
    from armor_eval.tasks.understanding.declare import benchmarks

    return {name: name for name in REGISTRY} | {name: b.composite for name, b in benchmarks().items()}


def composites_for(benchmark: str, profile: str = "official") -> list[Composite]:
    """The numbers of a benchmark, exactly one of them primary. The formulas are the same in both profiles.

    Raises KeyError with the known names when the benchmark has no declared score.
    """
    known = formula_names()
    name = {k.lower(): v for k, v in known.items()}.get(benchmark.lower())
    if name is None:
        hint = did_you_mean(benchmark, known)
        raise KeyError(f"no score is declared for benchmark {benchmark!r}{hint} - known: {', '.join(known)}")
    made = REGISTRY[name]()
    names = Counter(c.name for c in made)
    if sum(c.primary for c in made) != 1 or max(names.values()) > 1:
        raise AssertionError(f"{name} must declare one primary score and no name twice")
    return made


def measure(items: Iterable[Item], composite: Composite, seed: int = 0, resamples: int = 2000) -> Metric:
    """Value and 95 % interval of one run; see armor_eval.stats.intervals for the method and its coverage."""
    from .intervals import measure as _measure

    return _measure(items, composite, seed=seed, resamples=resamples)
