"""How much of a base model's understanding is kept (the paper says ~95 %): score / base score, with paired intervals.

The number and its interval are `armor_eval.stats.retention`'s: what both runs find hard does not count as noise, and
nothing is drawn at random. Defined only where `compare` would compare the two; a question that has no score in one of
them counts in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from armor_eval.compare.sources import Source, find, item_differences, unusable
from armor_eval.runs.bundle import read_head
from armor_eval.runs.comparable import differing
from armor_eval.stats import retention as kept
from armor_eval.stats.intervals import interval
from armor_eval.stats.tallies import scored_in_all
from armor_eval.tasks.formulas import primary_of
from armor_model.base.errors import UserError


@dataclass(frozen=True)
class Retention:
    benchmark: str
    base: float
    score: float
    kept: float
    """Percent of the base score."""
    ci95: tuple[float, float] | None


def retention(base: Path, runs: list[Path]) -> tuple[list[Retention], Retention]:
    """Per benchmark, and their unweighted mean. `base` is a bundle or a folder of bundles.

    Raises UserError where a benchmark has no base run, the two asked different questions, or one has no headline.
    """
    sources = [Source(path, *read_head(path)) for path in runs]
    bases = base_of(base, [source.run.benchmark for source in sources])
    parts = [_part(source, bases[source.run.benchmark]) for source in sources]
    rows = [Retention(part.benchmark, *_scores(part), *_kept([part])) for part in parts]
    return rows, Retention("mean", float("nan"), float("nan"), *_kept(parts))


def base_of(base: Path, benchmarks: Sequence[str]) -> dict[str, Source]:
    """Benchmark -> the base's run of it, without its controls. UserError where one is missing or not whole: asked
    before measuring too."""
    found = {source.run.benchmark: source for source in find(base)}
    for name in benchmarks:
        if name not in found:
            raise UserError(f"{base} holds no run of {name}", f"it holds {', '.join(found)}")
        _refuse_unusable(found[name], "base")
    return found


def _refuse_unusable(source: Source, side: str) -> None:
    if why := unusable(source, side):
        raise UserError(f"{source.path}: {why}", "retention needs complete runs")


def _part(own: Source, base: Source) -> kept.Part:
    _refuse_unusable(own, "candidate")
    other = ", ".join(differing(base.run, own.run)) or item_differences(base.items, own.items, "other run")
    if other:
        raise UserError(f"{own.path} and {base.path} differ in {other}: what is kept cannot be told")
    composite = primary_of(own.run)
    mine, theirs = (composite.cluster_sums(items) for items in scored_in_all(own.items, base.items))
    return kept.Part(own.run.benchmark, own.run.data.name, composite, mine, theirs)


def _scores(part: kept.Part) -> tuple[float, float]:
    """Of the base and of the run."""
    base, own = (float(part.composite.formula(side.sums_CS.sum(axis=0))) for side in (part.reference, part.own))
    return base, own


def _kept(parts: list[kept.Part]) -> tuple[float, tuple[float, float] | None]:
    try:
        composite, sums = kept.retention(parts)
    except ValueError as error:
        raise UserError(str(error)) from None
    ci95, _ = interval(sums.sums_CS, composite, "jackknife", 0, 0)
    return float(composite.formula(sums.sums_CS.sum(axis=0))), ci95
