"""Two runs in, one verdict out: comparability first, then every score's paired statistics, then the policy's rule.

    PASS            the difference's lower bound is above -tolerance
    REGRESSION      its upper bound is below 0, the drop exceeds the tolerance, and p (Holm over the primary
                    numbers of all benchmarks) is at most 0.05
    INCONCLUSIVE    neither

One exception: a candidate with the base's own model fingerprint whose every answer is identical has no difference to
be uncertain about, and passes at any size.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.compare.policy import Policy
from armor_eval.compare.record import (
    EXIT_CODES,
    STRICT_INCONCLUSIVE,
    BenchmarkResult,
    Check,
    Comparison,
    FlipRecord,
    MetricResult,
    Side,
    Slice,
    Verdict,
    worst,
)
from armor_eval.compare.sources import Source, differences, find, item_differences, pair, unusable
from armor_eval.runs.comparable import outcomes_of, reservations_of
from armor_eval.runs.schema import Item
from armor_model.base.errors import UserError
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from armor_eval.stats.composite import ClusterSums
    from armor_eval.stats.paired import Paired

ALPHA = 0.05
TEXT = 240
"""Characters kept of a flip's texts."""
MAX_SLICES = 60


def compare(
    base: Path,
    candidate: Path,
    policy: Policy,
    policy_name: str = "defaults",
    strict: bool = False,
    reference: Path | None = None,
) -> Comparison:
    """Compare two runs or two folders of runs, and what they keep of a reference's scores where one is given.

    Raises UserError for paths that hold nothing to compare.
    """
    pairs = pair(find(base), find(candidate))
    if not any(b and c for b, c in pairs):
        names = [", ".join(sorted({s.run.benchmark for s in side if s})) for side in zip(*pairs, strict=True)]
        raise UserError(f"no benchmark is in both: base has {names[0]}, candidate has {names[1]}")
    results, notes = [], []
    for ours, theirs in pairs:
        if ours is None:
            run = not_none(theirs).run
            notes.append(f"{run.benchmark} ({run.profile}) is new in the candidate and not compared")
        elif theirs is None:
            reason = "the candidate has no run of it"
            results.append(_head(ours, None).model_copy(update={"verdict": "INCOMPLETE", "reasons": [reason]}))
        else:
            results.append(compare_sources(ours, theirs, policy))
    if reference is not None:
        from armor_eval.compare.retention import compare_retention

        results.append(compare_retention(pairs, results, find(reference), policy))
    decide(results)
    verdict = worst([r.verdict for r in results])
    code = STRICT_INCONCLUSIVE if strict and verdict == "INCONCLUSIVE" else EXIT_CODES[verdict]
    return Comparison(
        verdict=verdict,
        exit_code=code,
        strict=strict,
        base=str(base),
        candidate=str(candidate),
        policy=policy_name,
        policy_sha256=policy.sha256(),
        seed=policy.statistics.seed,
        resamples=policy.statistics.resamples,
        benchmarks=results,
        notes=notes,
    )


def _head(base: Source, candidate: Source | None) -> BenchmarkResult:
    run = base.run
    sides = {"base": _side(base), "candidate": _side(candidate) if candidate else None}
    return BenchmarkResult(benchmark=run.benchmark, profile=run.profile, data=run.data.name, verdict="PASS", **sides)


def _side(source: Source) -> Side:
    run, counts = source.run, dict(source.scores.counts) if source.scores else {}
    n = sum(counts.values())
    return Side(
        path=str(source.path),
        run_id=run.run_id,
        model=run.model.name,
        fingerprint=run.model.fingerprint,
        status=run.status,
        counts=counts,
        seconds_per_item=run.wall_seconds / n if n and run.wall_seconds else None,
        peak_memory_bytes=run.peak_memory_bytes,
        git_commit=run.git_commit,
        reservations=reservations_of(run),
    )


def compare_sources(base: Source, candidate: Source, policy: Policy) -> BenchmarkResult:
    """One benchmark's numbers and checks; verdicts of numbers are set by `decide`, which sees all benchmarks."""
    result = _head(base, candidate)
    forbidding, ignored = differences(base.run, candidate.run, policy.comparability.ignore)
    result.reasons = [f"ignored by the policy: {line}" for line in ignored]
    if forbidding:
        return result.stopped("NOT COMPARABLE", forbidding)
    blocked = [why for why in (unusable(base, "base"), unusable(candidate, "candidate")) if why]
    if blocked:
        return result.stopped("INCOMPLETE", blocked)
    why = item_differences(base.items, candidate.items)
    if why:
        return result.stopped("NOT COMPARABLE", [why])

    ids = list(base.items)
    measured = [i for i in ids if base.items[i].score is not None and candidate.items[i].score is not None]
    result.items, result.unmeasured = len(measured), len(ids) - len(measured)
    result.checks = _checks(base, candidate, policy)
    if why := _uneven(base, candidate):  # the candidate may be shown to be worse, but not to be as good
        if "reservations" in policy.comparability.ignore:
            result.reasons.append(f"ignored by the policy: {why}")
        else:
            result.checks.append(Check(name="reservations", verdict="NOT COMPARABLE", reason=why))
    if not measured:
        return result.stopped("INCOMPLETE", ["no item has a score in both runs"])
    try:
        result.metrics = _metrics(base, candidate, len(measured) == len(ids), policy)
    except ValueError as error:
        return result.stopped("NOT COMPARABLE", [str(error)])
    if base.run.model.fingerprint == candidate.run.model.fingerprint and _identical(base.items, candidate.items):
        not_none(result.primary).reason = "same model, every answer identical"
    result.slices = _slices(base.items, candidate.items, measured)
    result.flips = _flips(base.items, candidate.items, measured)
    return result


def _metrics(base: Source, candidate: Source, whole: bool, policy: Policy) -> list[MetricResult]:
    """Every number's comparison; `whole`: all items have a score in both runs."""
    from armor_eval.stats.composite import scored_in_all
    from armor_eval.stats.intervals import stream
    from armor_eval.stats.paired import compare_sums
    from armor_eval.tasks.formulas import composites_of

    benchmark = base.run.benchmark
    found, seed = [], stream(policy.statistics.seed, benchmark)
    ours, theirs = scored_in_all(base.items, candidate.items) if not whole else ([], [])
    for composite in composites_of(base.run):
        tolerance = policy.tolerance_of(benchmark, composite.name, composite.unit)
        of = {name: getattr(composite, name) for name in ("name", "unit", "direction", "primary")}
        row = MetricResult(**of, tolerance=tolerance)
        found.append(row)
        if whole:
            a, b = base.sums(composite), candidate.sums(composite)
        else:
            a, b = composite.cluster_sums(ours), composite.cluster_sums(theirs)
        try:
            paired = compare_sums(a, b, composite, policy.statistics.resamples, seed)
        except ValueError as error:
            if composite.primary:
                raise
            row.test = f"n/a: {error}"
            continue
        fill(row, paired, a)
    return found


def fill(row: MetricResult, paired: Paired, sums: ClusterSums) -> MetricResult:
    """The row with the comparison's numbers, the drop it would have seen, and the size that would decide."""
    from armor_eval.stats.power import clusters_to_decide, minimal_detectable_effect, passing_tolerance

    for name in ("base", "candidate", "delta", "ci95", "bootstrap_ci95", "p", "test", "clusters", "losses", "wins"):
        setattr(row, name, getattr(paired, name))
    row.n, row.mde = sums.items, minimal_detectable_effect(paired)
    if paired.ci95 is not None:
        changed = paired.flips.share_without_difference(paired.clusters)
        row.allows = passing_tolerance(paired.clusters, changed, paired.flips.mean_size)
    clusters = clusters_to_decide(paired, row.tolerance)
    row.decided_at = round(clusters * sums.items / paired.clusters) if clusters else None
    return row


def _checks(base: Source, candidate: Source, policy: Policy) -> list[Check]:
    limits, checks = policy.limits, []
    shares = {}
    for side, source in (("base", base), ("candidate", candidate)):
        counts: dict[str, int] = defaultdict(int)
        for item in source.items.values():
            counts[item.status] += 1
        shares[side] = {k: v / len(source.items) for k, v in counts.items()}
    for name, status, limit in (("errors", "error", limits.errors), ("judge", "judge_failed", limits.judge_failed)):
        worst_side = max(shares, key=lambda side: shares[side].get(status, 0.0))
        share = shares[worst_side].get(status, 0.0)
        verdict: Verdict = "INCOMPLETE" if share > limit else "PASS"
        checks.append(
            Check(name=name, verdict=verdict, reason=f"{share:.2%} {status} in the {worst_side}, limit {limit:.2%}")
        )
    rise = shares["candidate"].get("unparsed", 0.0) - shares["base"].get("unparsed", 0.0)
    verdict = "REGRESSION" if rise > limits.unparsed_rise else "PASS"
    was, now = (shares[side].get("unparsed", 0.0) for side in ("base", "candidate"))
    words = f"unreadable answers {was:.2%} -> {now:.2%}, allowed rise {limits.unparsed_rise:.2%}"
    checks.append(Check(name="unparsed", verdict=verdict, reason=words))
    return checks + _cost_checks(base, candidate, policy)


def _uneven(base: Source, candidate: Source) -> str | None:
    """How the answers put one side's number under a reservation that the other's does not have."""
    ours, theirs = (outcomes_of(side.run) for side in (base, candidate))
    if ours == theirs:
        return None
    return f"reservations differ: {', '.join(ours) or 'none'} in base, {', '.join(theirs) or 'none'} in candidate"


def _cost_checks(base: Source, candidate: Source, policy: Policy) -> list[Check]:
    checks = []
    for name, limit, get in (
        ("seconds an item", policy.cost.seconds_ratio, lambda s: s.run.wall_seconds / max(1, len(s.items))),
        ("peak memory", policy.cost.memory_ratio, lambda s: s.run.peak_memory_bytes),
    ):
        if limit is None:
            continue
        if base.run.device.kind != candidate.run.device.kind:
            why = f"not judged: {base.run.device.kind} against {candidate.run.device.kind}"
            checks.append(Check(name=name, verdict="PASS", reason=why))
            continue
        before, after = get(base), get(candidate)
        if not before or not after:
            checks.append(Check(name=name, verdict="INCOMPLETE", reason="not recorded in one of the runs"))
            continue
        verdict: Verdict = "REGRESSION" if after / before > limit else "PASS"
        checks.append(Check(name=name, verdict=verdict, reason=f"{after / before:.2f} x the base, limit {limit:g} x"))
    return checks


def decide(results: list[BenchmarkResult]) -> None:
    """Set the verdicts: Holm over the primary numbers that have a p-value, then the rule of the module's text."""
    from armor_eval.stats.paired import holm

    tested = [r.primary for r in results if r.primary is not None and r.primary.p is not None]
    for row, adjusted in zip(tested, holm([not_none(r.p) for r in tested]), strict=True):
        row.p_holm = adjusted
    for result in results:
        primary = result.primary
        if primary is None:
            continue
        primary.verdict, primary.reason = judge(primary)
        if primary.verdict != "INCONCLUSIVE":
            primary.decided_at = None
        result.verdict = worst([primary.verdict, *(c.verdict for c in result.checks)])


def judge(row: MetricResult) -> tuple[Verdict, str]:
    """The non-inferiority rule for one primary number."""
    from armor_eval.compare.formats import plain

    if row.reason == "same model, every answer identical":
        return "PASS", row.reason
    if row.ci95 is None or row.delta is None:
        return "INCONCLUSIVE", row.test or "n/a"
    low, high = row.ci95
    if low > -row.tolerance:
        return "PASS", f"at worst {plain(low, row.unit)} against a tolerance of {plain(row.tolerance, row.unit, False)}"
    if high < 0 and -row.delta > row.tolerance and row.p_holm is not None:
        drop = f"a drop of {plain(-row.delta, row.unit, False)}"
        if row.p_holm <= ALPHA:
            return "REGRESSION", f"{drop}, p = {row.p_holm:.2g} after Holm"
        row.decided_at = None  # the interval has decided; the test of so many numbers has not
        return "INCONCLUSIVE", f"{drop}, but p = {row.p_holm:.3g} after Holm over all primary numbers does not show it"
    why = "the difference sits at the tolerance itself: no number of items decides"
    if row.decided_at:
        why = f"{row.decided_at:,} items would decide, if the difference stays as it is"
    if row.allows is not None and row.allows > row.tolerance:
        why += f"; at this size a tolerance of {plain(row.allows, row.unit, False)} decides"
    return "INCONCLUSIVE", why


def _identical(base: dict[str, Item], candidate: dict[str, Item]) -> bool:
    return all(
        item.score == candidate[i].score
        and item.output_images == candidate[i].output_images
        and output_hash(item) == output_hash(candidate[i])
        for i, item in base.items()
    )


def output_hash(item: Item) -> str:
    """Of the whole raw answer; a saved baseline keeps the hash where it cut the text."""
    kept = item.extras.get("output_sha256")
    return kept or hashlib.sha256((item.output or "").encode("utf-8", "surrogatepass")).hexdigest()


def _slices(base: dict[str, Item], candidate: dict[str, Item], measured: list[str]) -> list[Slice]:
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for i in measured:
        row = sums[base[i].group or ""]
        row[0] += 1
        row[1] += not_none(base[i].score)
        row[2] += not_none(candidate[i].score)
    if len(sums) < 2:
        return []
    rows = [Slice(group=g[:120], n=int(n), base=a / n, candidate=b / n) for g, (n, a, b) in sums.items()]
    return sorted(rows, key=lambda s: (s.candidate - s.base, s.group))[:MAX_SLICES]


def _flips(base: dict[str, Item], candidate: dict[str, Item], measured: list[str]) -> list[FlipRecord]:
    """Losses first, the largest first."""
    gains = {i: not_none(candidate[i].score) - not_none(base[i].score) for i in measured}
    changed = sorted((i for i, gain in gains.items() if gain), key=gains.__getitem__)
    return [
        FlipRecord(
            id=i,
            kind="lost" if gains[i] < 0 else "gained",
            group=_cut(base[i].group),
            base_score=base[i].score,
            candidate_score=candidate[i].score,
            prompt=_cut(candidate[i].prompt),
            gold=_cut(base[i].gold),
            base_output=_cut(base[i].output),
            candidate_output=_cut(candidate[i].output),
        )
        for i in changed
    ]


def _cut(value: object) -> str:
    """Text of bounded length without lone surrogates, which JSON and XML writers refuse."""
    text = "" if value is None else value if isinstance(value, str) else str(value)
    text = text if len(text) <= TEXT else text[:TEXT] + "\u2026"
    return text.encode("utf-8", "replace").decode("utf-8")
