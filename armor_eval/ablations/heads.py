"""`ablate-heads`: forward switching against one head (the paper's Figures 7 and 8), with the adapter initialised alike.

Curves, convergence table, drawing accuracy, text kept, image pairs at equal steps, and a verdict in words.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from armor_eval.ablations import judging
from armor_eval.ablations.arms import Arm, ArmResult, Bench, Part, evenly, run_arm, say_budget, told_cost
from armor_eval.ablations.base import Base, get_base
from armor_eval.ablations.findings import HOLDS, area, faster, mean_interval, retention, sign, span, steps_to
from armor_eval.ablations.plan import HeadsPlan, Plan
from armor_eval.ablations.record import Recorder, accuracy_metric
from armor_eval.runs.bundle import refuse_other_kind
from armor_eval.runs.schema import Metric, RunStatus
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.sheets import Tile, contact_sheet
from trainer.stages import SCHEMES

log = logging.getLogger(__name__)

LEVELS = (3.0, 2.0, 1.5, 1.0, 0.7)
"""Image losses (nats a token, over image tokens) of the convergence table."""
NOTE = "right answers after over before this training; no understanding data is in it"
SHOWN = 4
"""Prompts of the image pairs."""


def arms_of(plan: HeadsPlan) -> list[Arm]:
    """Every arm of every seed; seeds outermost, so that an interrupted run holds whole pairs."""
    moments = evenly(plan.steps, 3, plan.evaluate_every)
    made = []
    for seed in plan.seeds:
        for name in plan.arms:
            heads, dash, init = name.partition("-")
            if not dash or heads not in ("switching", "single") or init not in ("random", "copy"):
                raise UserError(
                    f"unknown arm {name!r}", "expected switching-random, single-random, switching-copy, single-copy"
                )
            (stage,) = SCHEMES["switching" if heads == "switching" else "normal"].stages
            made.append(Arm(name, seed, heads, init, (Part(stage, plan.steps, judged_at=moments),)))
    return made


def ablate_heads(plan: HeadsPlan, out: Path, command: list[str], say: Callable[[str], None] = log.info) -> RunStatus:
    """Run what is missing and write the bundle; returns its status, in every process."""
    arms = arms_of(plan)
    refuse_other_kind(out, "ablate-heads")
    base = get_base(plan, out / "work", say=say)
    pools, bench = materials(plan, base, ("t2i", "t2ti"), ("t2i", "t2ti"))
    recorder = Recorder(out, "ablate-heads", plan, base, bench, command)
    results = run_arms(arms, dict.fromkeys([a.key for a in arms], base), pools, bench, recorder, say)

    def write() -> RunStatus:
        before = judging.answer(base.model.eval(), base.processor, bench.questions) if bench.questions else []
        recorder.add_base(before, bench)
        report(plan, results, base, before, bench, recorder, out)
        return recorder.measure()

    return in_first_process(write)


def run_arms(
    arms: Sequence[Arm],
    bases: dict[str, Base],
    pools: JsonObject,
    bench: Bench,
    recorder: Recorder,
    say: Callable[[str], None],
) -> list[ArmResult]:
    """Every arm's result, trained where it is not finished, and recorded. `bases`: arm key -> what it starts from."""
    plan, work = recorder.plan, recorder.out / "work"
    say(say_budget(arms, bases, pools, plan, work))
    results = []
    for number, arm in enumerate(arms, 1):
        say(f"arm {number} of {len(arms)}: {arm.key}")
        result = run_arm(arm, bases[arm.key], pools, bench, plan, work / arm.key)
        recorder.add_arm(result, bench, work / arm.key / result.identity)
        results.append(result)
    return results


def materials(plan: Plan, base: Base, kinds: tuple[str, ...], judged: tuple[str, ...]) -> tuple[JsonObject, Bench]:
    """What is trained on and what every arm is asked: of the embedded profile, or of tokenised data at any size."""
    if plan.data:
        pools, held = base.shards(plan, kinds)
        validation = judging.Validation(base, held, plan.optimization.batch_size)
        return pools, Bench([], judging.own_prompts(plan.prompts, 0), validation)
    world = plan.world
    data = world.TrainingData(base.processor)
    pools = {kind: data.training(kind, plan.pool) for kind in kinds}
    held = [example for kind in judged for example in data.held_back(kind, plan.validation)]
    questions, drawings = world.questions(plan.questions), world.drawings(plan.drawings)
    return pools, Bench(questions, drawings, judging.Validation(base, held), world.DrawingReader())


def in_first_process(write: Callable[[], RunStatus]) -> RunStatus:
    """The bundle is written by the first process; the others wait until it stands, and return with it."""
    from trainer import devices

    state = devices.start()
    status = write() if state.is_main_process else "complete"
    state.wait_for_everyone()
    return status


def report(
    plan: HeadsPlan,
    results: list[ArmResult],
    base: Base,
    before: list[str],
    bench: Bench,
    recorder: Recorder,
    out: Path,
) -> None:
    """Metrics, figures and verdicts of finished arms, into the recorder."""
    by_arm = {name: [r for r in results if r.name == name] for name in plan.arms}
    knew = [judging.right(said, q.gold) for said, q in zip(before, bench.questions, strict=True)]
    for name, runs in by_arm.items():
        recorder.metrics += _convergence(name, runs)
        if plan.data:
            continue
        recorder.metrics.append(
            accuracy_metric(f"drawing/{name}", [r.last().drawn for r in runs], [w.cluster for w in bench.drawings])
        )
        kept = [
            [judging.right(s, q.gold) for s, q in zip(r.last().answers, bench.questions, strict=True)] for r in runs
        ]
        mean = [sum(k) / len(k) for k in zip(*kept, strict=True)]
        recorder.metrics.append(retention(f"text kept/{name}", mean, knew, NOTE, "questions, mean over seeds"))
    _verdicts(plan, by_arm, recorder)
    _figure8(plan, by_arm, bench, recorder, out)


def curve(result: ArmResult, name: str) -> list[tuple[int, float]]:
    return [(step, value) for step, n, value in result.curves if n == name]


def _convergence(name: str, runs: list[ArmResult]) -> list[Metric]:
    made = []
    for what, series in (("image loss, mean over the run", "eval/image_renormalised"), ("as printed", "eval/image")):
        areas = [area(curve(r, series)) for r in runs]
        value, interval = mean_interval(areas)
        label = what if series.endswith("renormalised") else f"image loss {what}, mean over the run"
        made.append(_seed_metric(f"{label}/{name}", value, interval, len(runs)))
    value, interval = mean_interval([area(curve(r, "eval/text")) for r in runs])
    made.append(_seed_metric(f"text loss, mean over the run/{name}", value, interval, len(runs)))
    last, interval = mean_interval([curve(r, "eval/image_renormalised")[-1][1] for r in runs])
    made.append(_seed_metric(f"image loss, end/{name}", last, interval, len(runs)))
    for level in LEVELS:
        reached = [steps_to(curve(r, "eval/image_renormalised"), level) for r in runs]
        whole = [s for s in reached if s is not None]
        mean, spread = mean_interval(whole) if len(whole) == len(runs) else (None, None)
        note = None if mean is not None else f"reached by {len(whole)} of {len(runs)} seeds"
        made.append(_seed_metric(f"steps to {level:g}/{name}", mean, spread, len(runs), "steps", note))
    return made


def _seed_metric(
    name: str,
    value: float | None,
    interval: tuple[float, float] | None,
    seeds: int,
    unit: str = "nats",
    note: str | None = None,
) -> Metric:
    return Metric(
        name=name,
        value=value,
        unit=unit,
        direction="lower",
        n=seeds,
        clusters=seeds,
        ci95=interval,
        method="Student's t over seeds" if interval else None,
        note=note,
    )


PAIRS = {
    "matched start": ("switching-random", "single-random"),
    "unmatched start": ("switching-copy", "single-random"),
    "matched start, copied blocks": ("switching-copy", "single-copy"),
}
"""What is compared: arm a (forward switching) against arm b (one head). The first pair decides the paper's claims."""


def _verdicts(plan: HeadsPlan, by_arm: dict[str, list[ArmResult]], recorder: Recorder) -> None:
    """The paper's two claims about each pair, in sentences that a reader can check against the table."""
    stamp = "QUICK RUN, NO VERDICT. " if plan.quick else ""
    batch = plan.optimization.batch_size
    size = f"{plan.steps} steps of {batch} conversations ({plan.steps * batch:,})"
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}"
    cost = told_cost(r for runs in by_arm.values() for r in runs)
    told = [
        f"{stamp}The paper: with forward switching the loss converges much faster than with one head (Figure 7), and "
        f"pictures are better at equal epochs (Figure 8). Here every arm had {size}, {seeds}, {cost}"
    ]
    for label, (a, b) in PAIRS.items():
        if a not in by_arm or b not in by_arm:
            continue
        verdict, evidence = _faster(plan, by_arm[a], by_arm[b])
        pair = f"{label} ({a} against {b})"
        told.append(f"Figure 7's claim {HOLDS[verdict]}, {pair}: {evidence}")
        if label == "matched start":
            recorder.claims["faster-convergence"] = {"verdict": verdict, "evidence": evidence}
        if plan.data:
            continue
        better, evidence = _better(plan, by_arm[a], by_arm[b])
        told.append(f"Figure 8's claim {HOLDS[better]}, {pair}: {evidence}")
        if label == "matched start":
            recorder.claims["better-pictures-at-equal-epochs"] = {"verdict": better, "evidence": evidence}
    kept = {m.name.partition("/")[2]: m for m in recorder.metrics if m.name.startswith("text kept/")}
    if kept:
        told.append("Right text answers after over before: " + ", ".join(_kept(name, m) for name, m in kept.items()))
    recorder.verdict = "\n".join(f"{line}." for line in told)


def _faster(plan: HeadsPlan, a: list[ArmResult], b: list[ArmResult]) -> tuple[str, str]:
    ours, theirs = ([area(curve(r, "eval/image_renormalised")) for r in runs] for runs in (a, b))
    verdict, evidence = faster(ours, theirs, quick=plan.quick)
    printed = [[area(curve(r, "eval/image")) for r in runs] for runs in (a, b)]
    gap, interval = mean_interval([x - y for x, y in zip(*printed, strict=True)])
    start = [curve(runs[0], "eval/image")[0][1] for runs in (a, b)]
    even = [curve(runs[0], "eval/image_renormalised")[0][1] for runs in (a, b)]
    evidence += (
        f"; as printed, each head over its own vocabulary, the difference is {gap:+.3f}{span(interval)}, because the "
        f"losses start at {start[0]:.2f} and {start[1]:.2f} before anything is learned (over image tokens both at "
        f"{even[0]:.2f} and {even[1]:.2f})"
    )
    text = [[area(curve(r, "eval/text")) for r in runs] for runs in (a, b)]
    gap, interval = mean_interval([x - y for x, y in zip(*text, strict=True)])
    evidence += (
        f"; text loss {sum(text[0]) / len(a):.3f} against {sum(text[1]) / len(b):.3f}, {gap:+.3f}{span(interval)}"
    )
    return verdict, evidence


def _better(plan: HeadsPlan, a: list[ArmResult], b: list[ArmResult]) -> tuple[str, str]:
    shares = [[sum(r.last().drawn) / len(r.last().drawn) for r in runs] for runs in (a, b)]
    gap, interval = mean_interval([x - y for x, y in zip(*shares, strict=True)])
    first, second = (sum(s) / len(s) for s in shares)
    evidence = (
        f"drawings right by the detector after {plan.steps} steps: {first:.3f} against {second:.3f}, difference "
        f"{gap:+.3f}{span(interval)} over {len(a)} seed{'s' if len(a) > 1 else ''} x {len(a[0].last().drawn)} pictures"
    )
    return ("undecided" if plan.quick or len(a) < 3 else sign(interval)), evidence


def _kept(name: str, metric: Metric) -> str:
    return f"{name} n/a" if metric.value is None else f"{name} {metric.value:.3f}{span(metric.ci95, '.3f')}"


def _figure8(plan: HeadsPlan, by_arm: dict[str, list[ArmResult]], bench: Bench, recorder: Recorder, out: Path) -> None:
    """Images of the same prompts at equal steps, arm under arm, first seed."""
    if not bench.drawings:
        return
    chosen = [i for i, w in enumerate(bench.drawings) if w.id.endswith("-00")][:SHOWN]
    rows = []
    columns: list[str] = []
    for name, runs in by_arm.items():
        result = runs[0]
        folder = out / "work" / f"{name}/seed{result.seed}" / result.identity
        columns = [f"step {j.step}" for j in result.judgements]
        for i in chosen:
            label = f"{name}: {bench.drawings[i].prompt}"
            rows.append((label, [Tile(folder / j.images[i]) for j in result.judgements]))
    rows.sort(key=lambda row: row[0].partition(": ")[2])
    sheet = contact_sheet(rows, columns=columns, side=96)
    recorder.add_figure("figure8", "Figure 8: the same prompts at equal steps", sheet)
