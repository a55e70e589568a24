"""What drop is tolerated, and which other limits fail the gate: a small TOML file, committed next to a baseline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError

from armor_eval.runs.comparable import COMPARED
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.parsing import fault_of, toml_of

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
