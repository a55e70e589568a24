"""The numbers of everything that is scored, by the benchmark's name: a family's for a declared one, a suite's own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.runs.comparable import HONESTY
from armor_eval.stats.composite import (
    UNIT,
    Composite,
    accuracy,
    fraction,
    in_group,
    tally_any_right,
    tally_by_group,
    tally_mean,
    task_mean,
)
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.geneval.prompts import TASKS
from armor_eval.tasks.interleaved import ueval
from armor_eval.tasks.interleaved.rubrics import RUBRICS
from armor_eval.tasks.suites import declare as suites
from armor_eval.tasks.suites.reductions import REDUCTIONS, tally_number
from armor_eval.tasks.understanding.declare import benchmarks, of_run
from armor_model.base.errors import did_you_mean

if TYPE_CHECKING:
    from armor_eval.runs.schema import Run


def geneval() -> list[Composite]:
    """GenEval's summary: the mean of its tasks' means, each task, images and prompts."""
    columns = tuple(f"{t}:{part}" for t in TASKS for part in ("right", "n"))
    make = partial(Composite, unit="score", bounds=UNIT)
    overall = make("overall", columns=columns, tally=partial(tally_by_group, TASKS), formula=task_mean, primary=True)
    plain = partial(make, columns=("right", "n"), formula=fraction, proportion=True)
    tasks = [plain(t, tally=tally_mean, keep=in_group(t)) for t in TASKS]
    return [overall, *tasks, plain("images", tally=tally_mean), plain("prompts", tally=tally_any_right)]


def text(metrics: Mapping[str, bool]) -> list[Composite]:
    """Means over documents of the numbers that lm-eval gave each, the task's first one primary. `metrics`: name ->
    whether higher is better."""
    return [
        Composite(
            *(name, ("sum", "n"), partial(tally_number, name if at else None), fraction, "score"),
            direction="higher" if higher else "lower",
            bounds=(0.0, math.inf) if at else UNIT,
            primary=not at,
        )
        for at, (name, higher) in enumerate(metrics.items())
    ]


JUDGED_ANSWERS: dict[str, Callable[[], list[Composite]]] = {
    **{name: rubric.composites for name, rubric in RUBRICS.items()},
    **dict.fromkeys(ueval.PROTOCOLS, ueval.composites),
    "armor-pairwise-v1": lambda: [accuracy("wins")],
    HONESTY: lambda: [accuracy("right against wrong", keep=lambda item: "/clear/" in item.id)],
}
"""What a judge gives to answers of the user's own, of any number, and what is known of that judge."""
SUITES: dict[str, Callable[[], list[Composite]]] = {
    "geneval": geneval,
    "modality": lambda: [accuracy()],
    "interleaved": lambda: [accuracy("all right")],
    **JUDGED_ANSWERS,
}
"""What is not an understanding benchmark."""


def formula_names() -> dict[str, str]:
    """Every benchmark that has a score -> its family's name, or its own."""
    declared = {name: suite.reduction for name, suite in suites.suites().items()}
    return {name: b.family for name, b in benchmarks().items()} | {name: name for name in SUITES} | declared


def composites_for(benchmark: str) -> list[Composite]:
    """The numbers of a benchmark, exactly one of them primary. The formulas are the same in both profiles.

    Raises KeyError with the known names when the benchmark has no declared score.
    """
    known = formula_names()
    name = {k.lower(): v for k, v in known.items()}.get(benchmark.lower())
    if name is None:
        hint = did_you_mean(benchmark, known)
        raise KeyError(f"no score is declared for benchmark {benchmark!r}{hint} - known: {', '.join(known)}")
    if name in REDUCTIONS:
        suite = {k.lower(): s for k, s in suites.suites().items()}[benchmark.lower()]
        return _checked(REDUCTIONS[name].composites(suite), benchmark)
    return _checked(SUITES[name]() if name in SUITES else FAMILIES[name].composites(), name)


def composites_of(run: Run) -> list[Composite]:
    """The numbers of a run's benchmark, also of one whose declaration came from outside and stands in the run."""
    if run.kind == "suite":
        suite = suites.of_run(run)
        return _checked(REDUCTIONS[suite.reduction].composites(suite), run.benchmark)
    if run.kind == "text":
        return text(run.extras["metrics"])
    declared = of_run(run)
    return composites_for(run.benchmark) if declared is None else _checked(declared.scoring.composites(), run.benchmark)


def primary_of(run: Run) -> Composite:
    """The headline's."""
    return next(c for c in composites_of(run) if c.primary)


def _checked(made: list[Composite], name: str) -> list[Composite]:
    if sum(c.primary for c in made) != 1 or max(Counter(c.name for c in made).values()) > 1:
        raise AssertionError(f"{name} must declare one primary score and no name twice")
    return made
