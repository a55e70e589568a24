"""What drop is tolerated, and which other limits fail the gate: a small TOML file, committed next to a baseline;
and `armor-eval power`: what drop a comparison can see at all."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError

from armor_eval.compare.formats import plain
from armor_eval.runs.comparable import COMPARED
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.parsing import fault_of, toml_of

if TYPE_CHECKING:
    from armor_eval.compare.sources import Source
    from armor_eval.stats.composite import Composite

COMPARABLE_FIELDS = tuple(COMPARED)
"""What must agree before a number is computed. `decoding.seed` and `seeds` may differ: that is an A/A comparison."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Limits(_Part):
    """Counts that fail the gate themselves, as a share of the items of the candidate."""

    errors: float = Field(default=0.0, ge=0, le=1)
    """Items without any answer. More than this: INCOMPLETE."""
    judge_failed: float = Field(default=0.01, ge=0, le=1)
    """Items that the judge could not rate. More than this, in either run: INCOMPLETE."""
    unparsed_rise: float = Field(default=0.02, ge=0, le=1)
    """Unreadable answers beyond the base's share (they count as wrong already). More than this: REGRESSION."""


class Cost(_Part):
    """Candidate / base; only judged on the same kind of device. Left out = not gated."""

    seconds_ratio: PositiveFloat | None = None
    """Of wall seconds an item."""
    memory_ratio: PositiveFloat | None = None
    """Of peak memory."""


class Comparability(_Part):
    ignore: list[Literal[COMPARABLE_FIELDS]] = Field(default_factory=list)  # type: ignore[valid-type]
    """Fields that may differ all the same; each one is printed with the verdict."""


class Statistics(_Part):
    seed: int = Field(default=0, ge=0)
    resamples: int = Field(default=10_000, ge=0, le=1_000_000)
    """Of the joint cluster bootstrap that is reported beside the deciding interval; 0 leaves it out."""


DEFAULT_TOLERANCE = {"%": 1.0, "points": 20.0, "score": 0.01, "grade": 0.05}


class Policy(_Part):
    tolerance: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    """By unit (`"%"`, `points`, `score`, `grade`), benchmark (`MMB`) or `BENCHMARK/METRIC`; the most special one holds.

    In the metric's own unit. Defaults: 1 %, 20 points, 0.01, 0.05 of a grade.
    """
    limits: Limits = Field(default_factory=Limits)
    cost: Cost = Field(default_factory=Cost)
    comparability: Comparability = Field(default_factory=Comparability)
    statistics: Statistics = Field(default_factory=Statistics)

    def tolerance_of(self, benchmark: str, metric: str, unit: str) -> float:
        for key in (f"{benchmark}/{metric}", benchmark, unit):
            if key in self.tolerance:
                return self.tolerance[key]
        return DEFAULT_TOLERANCE.get(unit, 0.0)

    def sha256(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_policy(path: Path | None) -> Policy:
    """The policy file, or the defaults. Raises UserError in one line for whatever is wrong with it."""
    if path is None:
        return Policy()
    try:
        raw = toml_of(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such policy file: {path}") from None
    except ValueError as error:
        raise UserError(f"{path} is not TOML: {error}") from None
    try:
        policy = Policy.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = Policy.model_fields if len(first["loc"]) == 1 else _fields_of(str(first["loc"][0]))
            near = did_you_mean(str(first["loc"][-1]), known)
            raise UserError(f"{path}: unknown key {where}{near}", f"known: {', '.join(known)}") from None
        raise UserError(f"{path}: {fault_of(error)}") from None
    _check_tolerance_keys(path, policy)
    return policy


def _fields_of(section: str) -> list[str]:
    parts: dict[str, type[BaseModel]] = {
        "limits": Limits,
        "cost": Cost,
        "comparability": Comparability,
        "statistics": Statistics,
    }
    return list(parts[section].model_fields) if section in parts else []


def _check_tolerance_keys(path: Path, policy: Policy) -> None:
    """A tolerance for a benchmark or metric that does not exist would silently leave the default in force."""
    from armor_eval.stats.retention import METRIC, NAME
    from armor_eval.tasks.formulas import composites_for, formula_names

    benchmarks = [*formula_names(), NAME]
    for key in policy.tolerance:
        benchmark, _, metric = key.partition("/")
        if key in DEFAULT_TOLERANCE:
            continue
        if benchmark not in benchmarks:
            known = [*DEFAULT_TOLERANCE, *benchmarks]
            near = did_you_mean(benchmark, known)
            raise UserError(f"{path}: tolerance for unknown {benchmark!r}{near}", f"known: {', '.join(known)}")
        names = [METRIC] if benchmark == NAME else [c.name for c in composites_for(benchmark)]
        if metric and metric not in names:
            near = did_you_mean(metric, names)
            raise UserError(f"{path}: {benchmark} has no metric {metric!r}{near}", f"known: {', '.join(names)}")


ONE = "# MMB = 0.5          # one benchmark's numbers"
_EXAMPLE = """\
# What `armor-eval compare` tolerates. A drop is judged in the metric's own unit.
[tolerance]
"%" = 1.0            # every percentage
points = 20.0        # MME
score = 0.01         # GenEval
grade = 0.05         # a judge's mean of a rubric
{lines}
# "POPE/F1" = 0.5    # one number
# retention = 2.0    # what is kept of --reference, in points of percent

[limits]
errors = 0.0
judge_failed = 0.01
unparsed_rise = 0.02

# [cost]
# seconds_ratio = 1.5
# memory_ratio = 1.2
"""


def example(tolerances: Mapping[str, float] | None = None) -> str:
    """A policy file to begin with; `tolerances` of benchmarks whose size cannot decide at the default."""
    lines = [f"{f'{name} = {value:g}':<20} # what its size decides" for name, value in (tolerances or {}).items()]
    return _EXAMPLE.replace("{lines}", "\n".join(lines) or ONE)


# --- what `armor-eval power` says: detectable drops and needed sizes, from assumptions or from two real runs ---------


CHANGED = 0.1
"""Share of groups that two equal models are taken to answer differently, where no two runs say it."""
SIZES: dict[str, tuple[int, int, str]] = {
    "MME-P": (2114, 1057, ""),
    "POPE": (5127, 500, ""),
    "MMVet": (218, 200, ""),
    "LLaVABench": (60, 24, ""),
    "geneval": (2212, 553, ""),
    "modality": (400, 48, ""),
    "interleaved": (500, 400, ""),
    "MMB_TEST": (6666, 1784, ""),
    "MMB_V11": (4329, 1164, "size assumed: that of MMBench's first version"),
    "MMB_TEST_V11": (6666, 1784, "size assumed: that of MMBench's first version"),
    "HallusionBench": (951, 165, "size assumed: one set for each of its 165 original pictures"),
}
"""Benchmark -> (items, groups that are resampled together, what of it is a guess), where `benchmarks/` does not say."""

ONE_ITEM = {"MME": 0.75, "MME-P": 0.75, "HallusionBench": 0.34}
"""Share of its group's weight that one item carries where all-or-nothing parts count too: acc and acc+ of an image's
two questions; aAcc, fAcc and qAcc of a set of 5.8 items, 2.1 figures and 2.75 questions. Else 1 / items a group."""


def size_of(benchmark: str) -> tuple[int, int, str]:
    """Items and groups of the published data, and what of it is assumed (empty: nothing)."""
    from armor_eval.tasks.formulas import JUDGED_ANSWERS
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.understanding.declare import benchmarks

    if benchmark in SIZES:
        return SIZES[benchmark]
    if (suite := suites().get(benchmark)) is not None:
        if suite.prompts is None:
            raise UserError(f"{benchmark} declares no number of prompts", "give --clusters or --runs")
        return suite.prompts * suite.samples, suite.prompts, ""
    if benchmark in JUDGED_ANSWERS:
        raise UserError(f"{benchmark} judges answers of any number", "give --clusters or --runs")
    declared = benchmarks()[benchmark]
    rows = declared.official.rows
    if rows is None:
        raise UserError(f"{benchmark} declares no number of rows", "give --clusters or --runs")
    known = declared.official.clusters is not None or declared.cluster == "item"
    return rows, declared.official.clusters or rows, "" if known else "size assumed: one question a picture"


@dataclass(frozen=True)
class Plan:
    benchmark: str
    metric: str
    unit: str
    clusters: int
    items_per_cluster: float
    changed: float
    flip: float
    """Change of the number, times the groups, that one changed group makes."""
    assumed: str
    detectable: float | None
    """Drop that is seen with 80 % power at this size."""
    drop: float | None
    needed: int | None
    """Groups that see `drop` with 80 % power."""
    passing: int | None
    """Groups at which an equal model passes with 80 % power, the tolerance being `drop`."""
    tolerance: float
    """The smallest tolerance at which an equal model passes with 80 % power at this size: a policy's, in the unit."""
    caught: float | None
    """Drop that is called a regression with 80 % power at that tolerance."""

    def as_dict(self) -> dict:
        return asdict(self)

    def in_words(self) -> str:
        items = round(self.clusters * self.items_per_cluster)
        lines = [
            f"{self.benchmark}, {self.metric}: {items:,} items in {self.clusters:,} groups; {self.assumed}",
            f"a true drop of {self._shown(self.detectable)} is seen with 80 % power (two-sided test at 5 %)"
            if self.detectable is not None
            else "no drop can be seen with 80 % power at this size",
            f"this size decides at a tolerance of {self._shown(self.tolerance)}: an equal model passes with 80 % power"
            + (f", and so is a drop of {self._shown(self.caught)} called a regression" if self.caught else ""),
        ]
        if self.drop is not None:
            lines.append(f"to see a drop of {self._shown(self.drop)}: {self._size(self.needed)}")
            lines.append(
                f"for an equal model to PASS at tolerance {self._shown(self.drop)}: {self._size(self.passing)}"
            )
        return "\n".join(lines)

    def _shown(self, value: float | None) -> str:
        return plain(value, self.unit, False)

    def _size(self, clusters: int | None) -> str:
        if clusters is None:
            return "more than ten million groups"
        return f"{clusters:,} groups, about {round(clusters * self.items_per_cluster):,} items"


def plan(
    benchmark: str, drop: float | None, clusters: int | None, changed: float, runs: tuple[Path, Path] | None
) -> Plan:
    """Raises UserError for an unknown benchmark, a drop out of range, or runs that cannot be compared."""
    from armor_eval.stats.power import (
        clusters_needed,
        detectable_drop,
        exceeding_drop,
        passing_clusters,
        passing_tolerance,
    )
    from armor_eval.tasks.formulas import composites_for, formula_names

    known = formula_names()
    try:
        composite = next(c for c in composites_for(benchmark) if c.primary)
    except KeyError as error:
        raise UserError(str(error.args[0])) from None
    benchmark = next(name for name in known if name.lower() == benchmark.lower())
    span = _span(composite)
    if drop is not None and not 0 < drop < span:
        raise UserError(f"--drop {drop:g} is not between 0 and {span:g} {composite.unit}")
    assumed = f"assumed: equal models differ in {changed:.1%} of the groups, each by one item"
    if runs is not None:
        groups, per, changed, flip, binary = _observed(benchmark, runs)
        assumed = f"as in {runs[0]} against {runs[1]}: {changed:.1%} of the groups would differ between equal models"
    else:
        items, groups, guess = size_of(benchmark)
        per = items / groups
        flip, binary = _flip(benchmark, known[benchmark], span, items, groups)
        if guess and clusters is None:
            assumed += f"; {guess}"
    size = clusters or groups
    detectable, tolerance = detectable_drop(size, changed, flip, binary), passing_tolerance(size, changed, flip)
    return Plan(
        benchmark,
        composite.name,
        composite.unit,
        size,
        per,
        changed,
        flip,
        assumed,
        detectable,
        drop,
        clusters_needed(drop, changed, flip, binary) if drop else None,
        passing_clusters(drop, changed, flip) if drop else None,
        tolerance,
        None if detectable is None else max(detectable, exceeding_drop(tolerance, size, changed, flip)),
    )


def tolerances(sources: Sequence[Source]) -> dict[str, float]:
    """Benchmark -> a tolerance that runs of this size can decide, in two digits; none where the default is enough."""
    from armor_eval.stats.power import passing_tolerance
    from armor_eval.tasks.formulas import formula_names, primary_of

    found: dict[str, float] = {}
    families = formula_names()  # a policy knows no others
    for source in sources:
        name, composite = source.run.benchmark, primary_of(source.run)
        [primary] = [m for m in source.scores.metrics if m.primary] if source.scores else [None]
        if name not in families or primary is None or primary.clusters < 2:
            continue
        flip, _ = _flip(name, families[name], _span(composite), primary.n, primary.clusters)
        tolerance = passing_tolerance(primary.clusters, CHANGED, flip)
        digits = 10.0 ** (math.floor(math.log10(tolerance)) - 1)
        if tolerance > DEFAULT_TOLERANCE.get(composite.unit, 0.0):
            found[name] = max(found.get(name, 0.0), round(math.ceil(tolerance / digits) * digits, 6))
    return found


def _span(composite: Composite) -> float:
    low, high = composite.bounds
    return high - low if high < float("inf") else 100.0


def _flip(benchmark: str, family: str, span: float, items: int, groups: int) -> tuple[float, bool]:
    """The change, times the groups, that one changed group makes; whether a group is right or wrong as a whole."""
    binary = items == groups or family == "circular"
    return (span if binary else span * ONE_ITEM.get(benchmark, groups / items)), binary


def _observed(benchmark: str, runs: tuple[Path, Path]) -> tuple[int, float, float, float, bool]:
    """Groups, items a group, share that changes without a difference, flip size, binary - from two runs."""
    from armor_eval.compare.gate import compare_sources
    from armor_eval.compare.sources import find
    from armor_eval.stats.paired import compare_sums
    from armor_eval.tasks.formulas import composites_for

    sides = []
    for path in runs:
        found = [s for s in find(path) if s.run.benchmark == benchmark]
        if not found:
            raise UserError(f"{path} holds no run of {benchmark}")
        sides.append(found[0])
    base, candidate = sides
    checked = compare_sources(base, candidate, Policy())
    if not checked.metrics:
        raise UserError(f"{runs[0]} and {runs[1]} cannot be compared: {checked.reasons[0]}")
    composite = next(c for c in composites_for(benchmark) if c.primary)
    sums = composite.cluster_sums(base.items.values())
    paired = compare_sums(sums, composite.cluster_sums(candidate.items.values()), composite, resamples=0)
    changed = paired.flips.share_without_difference(paired.clusters)
    return paired.clusters, sums.items / paired.clusters, changed, paired.flips.mean_size, paired.binary
