"""`ablate-heads`: forward switching against one head (the paper's Figures 7 and 8), with the adapter initialised alike.

Curves, convergence table, drawing accuracy, text kept, picture pairs at equal steps, and a verdict in words.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState

from armor_eval.ablations import judging
from armor_eval.ablations.arms import Arm, ArmResult, Bench, Part, run_arm, say_budget, seconds_a_step
from armor_eval.ablations.base import Base, get_base
from armor_eval.ablations.findings import area, faster, mean_interval, retention, share_difference, steps_to
from armor_eval.ablations.plan import HeadsPlan, Plan
from armor_eval.ablations.record import Recorder, accuracy_metric
from armor_eval.ablations.sheets import sheet
from armor_eval.errors import UserError
from armor_eval.runs.schema import Metric, RunStatus

log = logging.getLogger(__name__)

LEVELS = (3.0, 2.0, 1.5, 1.0, 0.7)
"""Image losses (nats a token, over image tokens) of the convergence table."""
SHOWN = 4
"""Prompts of the picture pairs."""


def arms_of(plan: HeadsPlan) -> list[Arm]:
    """Every arm of every seed; seeds outermost, so that an interrupted run holds whole pairs."""
    moments = tuple(sorted({max(1, plan.steps // 3), max(1, 2 * plan.steps // 3), plan.steps}))
    made = []
    for seed in plan.seeds:
        for name in plan.arms:
            heads, dash, init = name.partition("-")
            if not dash or heads not in ("switching", "single") or init not in ("random", "copy"):
                raise UserError(
                    f"unknown arm {name!r}", "expected switching-random, single-random, switching-copy, single-copy"
                )
            part = Part("figure7", plan.steps, {"t2i": 50, "t2ti": 50}, judged_at=moments)
            made.append(Arm(name, seed, heads, init, (part,)))
    return made


def ablate_heads(plan: HeadsPlan, out: Path, command: list[str], say: Any = log.info) -> RunStatus:
    """Run what is missing and write the bundle; returns its status."""
    arms = arms_of(plan)
    base = get_base(plan, out / "work")
    recorder = Recorder(out, "ablate-heads", plan, base, command)
    pools, bench = materials(plan, base, ("t2i", "t2ti"), ("t2i", "t2ti"))
    say(say_budget(arms, plan, seconds_a_step(arms[0], base, pools, plan), base.cpu_seconds / 60))
    results: list[ArmResult] = []
    for i, arm in enumerate(arms):
        say(f"arm {i + 1} of {len(arms)}: {arm.key}")
        results.append(run_arm(arm, base, pools, bench, plan, out / "work" / arm.key))
        recorder.add_arm(results[-1], bench, out / "work" / arm.key / results[-1].identity)
    if not PartialState().is_main_process:
        return "complete"  # the first process writes the bundle
    before = judging.answer(base.model.eval(), base.processor, bench.questions) if bench.questions else []
    recorder.add_base(before, bench)
    report(plan, results, base, before, bench, recorder, out)
    return recorder.finish()


def materials(plan: Plan, base: Base, kinds: tuple[str, ...], judged: tuple[str, ...]) -> tuple[dict[str, Any], Bench]:
    """What is trained on and what every arm is asked: of the shapes world, or of tokenised data at any size."""
    if plan.data:
        pools, held = base.shards(plan, kinds)
        return pools, Bench(
            [], judging.own_prompts(plan.prompts, 0), judging.Validation.of(base, held, plan.batch_size)
        )
    pools = {kind: base.pool(kind, plan.pool, 0) for kind in kinds if kind != "ti2t"}
    if "ti2t" in kinds:
        pools["ti2t"] = base.descriptions(plan.pool, 0)
    questions, wanted = judging.questions(plan.questions, 0), judging.wanted(plan.drawings, 0)
    return pools, Bench(questions, wanted, judging.Validation(base, judged, plan.validation, 0))


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
            accuracy_metric(f"drawing/{name}", [r.last().drawn for r in runs], [w.id for w in bench.wanted])
        )
        kept = [
            [judging.right(s, q.gold) for s, q in zip(r.last().answers, bench.questions, strict=True)] for r in runs
        ]
        value, interval = retention([sum(k) / len(k) for k in zip(*kept, strict=True)], knew)
        recorder.metrics.append(
            Metric(name=f"text kept/{name}", value=value, unit="share", n=len(knew), clusters=len(knew), ci95=interval,
                   method="bootstrap over questions, 2000 resamples, seed 0, mean over seeds",
                   note="right answers after over before this training; no understanding data is in it")
        )  # fmt: skip
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
    last, interval = mean_interval([curve(r, "eval/image_renormalised")[-1][1] for r in runs])
    made.append(_seed_metric(f"image loss, end/{name}", last, interval, len(runs)))
    for level in LEVELS:
        reached = [steps_to(curve(r, "eval/image_renormalised"), level) for r in runs]
        whole = [s for s in reached if s is not None]
        value, interval = mean_interval(whole) if len(whole) == len(runs) else (None, None)
        note = None if value is not None else f"reached by {len(whole)} of {len(runs)} seeds"
        made.append(_seed_metric(f"steps to {level:g}/{name}", value, interval, len(runs), "steps", note))
    return made


def _seed_metric(
    name: str,
    value: float | None,
    interval: tuple[float, float] | None,
    seeds: int,
    unit: str = "nats",
    note: str | None = None,
) -> Metric:
    return Metric(name=name, value=value, unit=unit, direction="lower", n=seeds, clusters=seeds, ci95=interval,
                  method="Student's t over seeds" if interval else None, note=note)  # fmt: skip


def _verdicts(plan: HeadsPlan, by_arm: dict[str, list[ArmResult]], recorder: Recorder) -> None:
    words = []
    pairs = {"matched": ("switching-random", "single-random"), "unmatched": ("switching-copy", "single-random"),
             "matched copy": ("switching-copy", "single-copy")}  # fmt: skip
    for label, (a, b) in pairs.items():
        if a not in by_arm or b not in by_arm:
            continue
        areas = [[area(curve(r, "eval/image_renormalised")) for r in by_arm[name]] for name in (a, b)]
        verdict, evidence = faster(*areas, quick=plan.quick)
        printed = [sum(area(curve(r, "eval/image")) for r in by_arm[name]) / len(by_arm[name]) for name in (a, b)]
        start = [curve(by_arm[name][0], "eval/image")[0][1] for name in (a, b)]
        evidence += (
            f"; as printed the losses start at {start[0]:.2f} and {start[1]:.2f} (one softmax is over the whole "
            f"vocabulary) and average {printed[0]:.3f} and {printed[1]:.3f}"
        )
        words.append(f"{label} ({a} against {b}): {evidence} -> {verdict}")
        if label == "matched":
            recorder.claims["faster-convergence"] = {"verdict": verdict, "evidence": evidence}
        if plan.data:
            continue
        drawn = [[r.last().drawn for r in by_arm[name]] for name in (a, b)]
        gap, interval = share_difference(*drawn)
        told = f"drawing {gap:+.3f}" + (f" [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else "")
        better = "undecided"
        if not plan.quick and len(by_arm[a]) >= 3 and interval is not None:
            better = "supported" if interval[0] > 0 else "contradicted" if interval[1] < 0 else "undecided"
        words.append(f"{label}: {told} after {plan.steps} steps -> {better}")
        if label == "matched":
            recorder.claims["better-pictures-at-equal-epochs"] = {
                "verdict": better, "evidence": f"{told} (right shares, {len(by_arm[a])} seeds, interval over prompts)",
            }  # fmt: skip
    stamp = "QUICK RUN, NO VERDICT. " if plan.quick else ""
    recorder.verdict = stamp + "Figure 7's claim, image loss over image tokens. " + ". ".join(words) + "."


def _figure8(plan: HeadsPlan, by_arm: dict[str, list[ArmResult]], bench: Bench, recorder: Recorder, out: Path) -> None:
    """Pictures of the same prompts at equal steps, arm under arm, first seed."""
    if not bench.wanted:
        return
    chosen = [i for i, w in enumerate(bench.wanted) if w.id.endswith("-00")][:SHOWN]
    rows = []
    columns: list[str] = []
    for name, runs in by_arm.items():
        result = runs[0]
        folder = out / "work" / f"{name}/seed{result.seed}" / result.identity
        columns = [f"step {j.step}" for j in result.judgements]
        for i in chosen:
            label = f"{name}: {bench.wanted[i].prompt}"
            rows.append((label, [folder / j.pictures[i] for j in result.judgements]))
    rows.sort(key=lambda row: row[0].partition(": ")[2])
    recorder.add_figure("figure8", "Figure 8: the same prompts at equal steps", sheet(rows, columns))
