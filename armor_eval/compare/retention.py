"""How much of a reference model's understanding both runs keep, as one more number that gates.

`compare BASE CANDIDATE --reference ORIGINAL`: every understanding benchmark of the two is divided by the reference's
score of it; the mean of these shares is compared like any other score, clusters resampled in all three runs at once
(armor_eval.stats.retention). With the base itself as the reference it says what the candidate keeps of the base.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from armor_eval.compare.policy import Policy
from armor_eval.compare.record import BenchmarkResult, MetricResult, Verdict
from armor_eval.compare.sources import Source, differences, item_differences, unusable
from armor_eval.stats.retention import METRIC, NAME
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
    result = BenchmarkResult(benchmark=NAME, profile=profile, data=f"{len(arms.triples)} benchmarks", verdict="PASS")
    if arms.different:
        return _stop(result, "NOT COMPARABLE", arms.different)
    if arms.missing or not arms.triples:
        return _stop(result, "INCOMPLETE", arms.missing or ["no understanding benchmark is in all three"])
    try:
        result.metrics = _metrics(arms.triples, policy)
    except ValueError as error:
        return _stop(result, "NOT COMPARABLE", [str(error)])
    primary = not_none(result.primary)
    result.items = primary.n
    kept = {r.benchmark: r.primary for r in results if r.primary is not None}
    same = "same model, every answer identical"
    if all(kept[base.run.benchmark].reason == same for base, _, _ in arms.triples):
        primary.reason = same
    return result


def _stop(result: BenchmarkResult, verdict: Verdict, reasons: list[str]) -> BenchmarkResult:
    result.verdict, result.reasons = verdict, reasons
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
    from armor_eval.stats.retention import Part
    from armor_eval.stats.tallies import scored_in_all
    from armor_eval.tasks.formulas import primary_of

    ours: list[Part] = []
    theirs: list[Part] = []
    for triple in triples:
        run = triple[0].run
        composite = primary_of(run)
        *arms, third = (composite.cluster_sums(items) for items in scored_in_all(*(s.items for s in triple)))
        for side, own in zip((ours, theirs), arms, strict=True):
            side.append(Part(run.benchmark, run.data.name, composite, own, third))
    found = [_metric(ours, theirs, METRIC, True, policy)]
    for base, candidate in zip(ours, theirs, strict=True) if len(triples) > 1 else ():
        found.append(_metric([base], [candidate], f"{base.benchmark} kept", False, policy))
    return found


def _metric(base: list, candidate: list, name: str, primary: bool, policy: Policy) -> MetricResult:
    from armor_eval.compare.gate import fill
    from armor_eval.stats.paired import compare_sums
    from armor_eval.stats.resample import stream
    from armor_eval.stats.retention import retention

    composite, ours = retention(base, name)
    _, theirs = retention(candidate, name)
    row = MetricResult(
        name=name,
        unit="%",
        direction="higher",
        primary=primary,
        base=None,
        candidate=None,
        tolerance=policy.tolerance_of(NAME, METRIC, "%"),
    )
    settings = policy.statistics
    return fill(row, compare_sums(ours, theirs, composite, settings.resamples, stream(settings.seed, name)), ours)
