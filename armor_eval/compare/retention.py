"""How much of a reference model's understanding both runs keep, as one more number that gates.

`compare BASE CANDIDATE --reference ORIGINAL`: every understanding benchmark of the two is divided by the reference's
score of it; the mean of these shares is compared like any other score, clusters resampled in all three runs at once
(armor_eval.stats.retention). With the base itself as the reference it says what the candidate keeps of the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from armor_eval.compare.policy import Policy
from armor_eval.compare.record import BenchmarkResult, MetricResult
from armor_eval.compare.sources import Source, differences, find, item_differences, unusable
from armor_eval.runs.bundle import read_head
from armor_eval.runs.comparable import differing
from armor_eval.stats import retention as stats
from armor_eval.stats.composite import scored_in_all
from armor_eval.stats.intervals import interval
from armor_eval.tasks.formulas import primary_of
from armor_model.base.errors import UserError
from armor_model.base.optional import not_none


@dataclass
class _Arms:
    """The benchmarks that the three runs share, and why others do not count."""

    triples: list[tuple[Source, Source, Source]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)


def compare_retention(
    pairs: list[tuple[Source | None, Source | None]],
    results: list[BenchmarkResult],
    reference: list[Source],
    policy: Policy,
) -> BenchmarkResult:
    """The retention of both runs against the reference; its verdict is set by `gate.decide`, with all others.

    INCOMPLETE where a benchmark of the base has no usable run in the candidate or the reference: a mean over other
    benchmarks would be another number. NOT COMPARABLE where the reference was asked otherwise, or scores 0.
    """
    arms = _arms(pairs, results, reference, policy)
    profile = arms.triples[0][0].run.profile if arms.triples else "-"
    result = BenchmarkResult(
        benchmark=stats.NAME, profile=profile, data=f"{len(arms.triples)} benchmarks", verdict="PASS"
    )
    if arms.different:
        return result.stopped("NOT COMPARABLE", arms.different)
    if arms.missing or not arms.triples:
        return result.stopped("INCOMPLETE", arms.missing or ["no understanding benchmark is in all three"])
    try:
        result.metrics = _metrics(arms.triples, policy)
    except ValueError as error:
        return result.stopped("NOT COMPARABLE", [str(error)])
    primary = not_none(result.primary)
    result.items = primary.n
    kept = {r.benchmark: r.primary for r in results if r.primary is not None}
    same = "same model, every answer identical"
    if all(kept[base.run.benchmark].reason == same for base, _, _ in arms.triples):
        primary.reason = same
    return result


def _arms(
    pairs: list[tuple[Source | None, Source | None]],
    results: list[BenchmarkResult],
    reference: list[Source],
    policy: Policy,
) -> _Arms:
    arms, by_key = _Arms(), {s.key: s for s in reference}
    measured = {r.benchmark for r in results if r.metrics}
    for base, candidate in pairs:
        if base is None or base.run.kind != "understanding":
            continue
        name, third = base.run.benchmark, by_key.get(base.key)
        if candidate is None or name not in measured:
            arms.missing.append(f"{name} is not comparable between base and candidate")
        elif third is None:
            arms.missing.append(f"the reference has no run of {name} ({base.run.profile})")
        elif why := unusable(third, "reference"):
            arms.missing.append(f"{name}: {why}")
        else:
            forbidding, _ = differences(base.run, third.run, policy.comparability.ignore, "reference")
            odd = item_differences(base.items, third.items, "reference")
            arms.different += [f"{name}: {line}" for line in [*forbidding, *([odd] if odd else [])]]
            arms.triples.append((base, candidate, third))
    return arms


def _metrics(triples: list[tuple[Source, Source, Source]], policy: Policy) -> list[MetricResult]:
    """The mean, which gates, then each benchmark's share. Raises ValueError where a share is undefined."""
    ours: list[stats.Part] = []
    theirs: list[stats.Part] = []
    for triple in triples:
        run = triple[0].run
        composite = primary_of(run)
        *arms, third = (composite.cluster_sums(items) for items in scored_in_all(*(s.items for s in triple)))
        for side, own in zip((ours, theirs), arms, strict=True):
            side.append(stats.Part(run.benchmark, run.data.name, composite, own, third))
    found = [_metric(ours, theirs, stats.METRIC, True, policy)]
    for base, candidate in zip(ours, theirs, strict=True) if len(triples) > 1 else ():
        found.append(_metric([base], [candidate], f"{base.benchmark} kept", False, policy))
    return found


def _metric(
    base: list[stats.Part], candidate: list[stats.Part], name: str, primary: bool, policy: Policy
) -> MetricResult:
    from armor_eval.compare.gate import fill
    from armor_eval.stats.intervals import stream
    from armor_eval.stats.paired import compare_sums

    composite, ours = stats.retention(base, name)
    _, theirs = stats.retention(candidate, name)
    tolerance = policy.tolerance_of(stats.NAME, stats.METRIC, "%")
    row = MetricResult(name=name, unit="%", direction="higher", primary=primary, tolerance=tolerance)
    settings = policy.statistics
    return fill(row, compare_sums(ours, theirs, composite, settings.resamples, stream(settings.seed, name)), ours)


# --- one run against one base, for understanding --retention and the card --------------------------------------------
# The number and its interval are `armor_eval.stats.retention`'s: what both runs find hard does not count as noise, and
# nothing is drawn at random. Defined only where `compare` would compare the two; a question that has no score in one of
# them counts in neither.


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
    """Benchmark -> the base's run of it. UserError where one is missing or not whole: asked before measuring too."""
    found = {source.run.benchmark: source for source in find(base)}
    for name in benchmarks:
        if name not in found:
            raise UserError(f"{base} holds no run of {name}", f"it holds {', '.join(found)}")
        _refuse_unusable(found[name], "base")
    return found


def _refuse_unusable(source: Source, side: str) -> None:
    if why := unusable(source, side):
        raise UserError(f"{source.path}: {why}", "retention needs complete runs")


def _part(own: Source, base: Source) -> stats.Part:
    _refuse_unusable(own, "candidate")
    other = ", ".join(differing(base.run, own.run)) or item_differences(base.items, own.items, "other run")
    if other:
        raise UserError(f"{own.path} and {base.path} differ in {other}: what is kept cannot be told")
    composite = primary_of(own.run)
    mine, theirs = (composite.cluster_sums(items) for items in scored_in_all(own.items, base.items))
    return stats.Part(own.run.benchmark, own.run.data.name, composite, mine, theirs)


def _scores(part: stats.Part) -> tuple[float, float]:
    """Of the base and of the run."""
    base, own = (float(part.composite.formula(side.sums_CS.sum(axis=0))) for side in (part.reference, part.own))
    return base, own


def _kept(parts: list[stats.Part]) -> tuple[float, tuple[float, float] | None]:
    try:
        composite, sums = stats.retention(parts)
    except ValueError as error:
        raise UserError(str(error)) from None
    ci95, _ = interval(sums.sums_CS, composite, "jackknife", 0, 0)
    return float(composite.formula(sums.sums_CS.sum(axis=0))), ci95
