"""`ablate-stages`: which parts are trained when, and what each scheme keeps (Tables 4, 5, Figures 6, 9).

Schemes: everything in one stage with and without the new embeddings, at two lengths; the three stages; a text head of
which only the <imgbos> row is trained; stage 2 without embeddings; the three stages on a backbone that learned nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from armor_eval.ablations import judging
from armor_eval.ablations.arms import Arm, ArmResult, Bench, Judgement, Part, evenly, told_cost
from armor_eval.ablations.base import get_base
from armor_eval.ablations.findings import HOLDS, retention, share_difference, sign, span
from armor_eval.ablations.heads import in_first_process, materials, run_arms
from armor_eval.ablations.plan import StagesPlan
from armor_eval.ablations.record import Recorder, accuracy_metric
from armor_eval.report.prose import load_statements
from armor_eval.runs.bundle import refuse_other_kind
from armor_eval.runs.schema import RunStatus
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.sheets import Tile, contact_sheet
from trainer.stages import SCHEMES

log = logging.getLogger(__name__)

NOTE = "right answers after over the base's before; ti2t training data are picture descriptions, as ShareGPT4V's are"


def parts_of(plan: StagesPlan, name: str) -> tuple[Part, ...]:
    """A scheme's stages at the plan's lengths."""
    stages = SCHEMES[name].stages
    if len(stages) == 1:
        # A level learning rate makes the state after half of the steps that of a run of half the length.
        short = plan.one_stage_steps
        return (Part(stages[0], 2 * short, "constant", (short,)),)
    judged = {2: evenly(plan.stage_steps[1], plan.pictures, plan.evaluate_every)}
    lengths = zip(stages, plan.stage_steps, strict=True)
    return tuple(Part(stage, n, judged_at=judged.get(i, ())) for i, (stage, n) in enumerate(lengths, 1))


def arms_of(plan: StagesPlan) -> list[Arm]:
    for name in plan.schemes:
        if name not in SCHEMES:
            raise unknown_name("scheme", name, SCHEMES)
    # The adapter is drawn at random, alike in all: copied, the twin's would be a copy of random blocks and the others'
    # of trained ones, and the twin would differ in two things.
    return [
        Arm(name, seed, SCHEMES[name].heads, "random", parts_of(plan, name))
        for seed in plan.seeds
        for name in plan.schemes
    ]


def ablate_stages(plan: StagesPlan, out: Path, command: list[str], say: Callable[[str], None] = log.info) -> RunStatus:
    """Run what is missing and write the bundle; returns its status."""
    arms = arms_of(plan)
    if plan.data:
        raise UserError(
            "retention is measured by the embedded profile's questions: ablate-stages reads no other data",
            "train with armor-train stage, measure with armor-eval understanding, compare with armor-eval compare",
        )
    refuse_other_kind(out, "ablate-stages")
    base = get_base(plan, out / "work", say=say)
    pools, bench = materials(plan, base, ("t2t", "t2i", "t2ti", "ti2t"), ("t2t", "t2i", "t2ti"))
    recorder = Recorder(out, "ablate-stages", plan, base, bench, command)
    untrained = {name for name in plan.schemes if SCHEMES[name].backbone == "random"}
    twin = get_base(plan, out / "work", random_backbone=True) if untrained else base
    bases = {arm.key: twin if arm.name in untrained else base for arm in arms}
    before = judging.answer(base.model.eval(), base.processor, bench.questions)
    recorder.add_base(before, bench)
    results = run_arms(arms, bases, pools, bench, recorder, say)

    def write() -> RunStatus:
        report(plan, results, before, bench, recorder, out)
        return recorder.measure()

    return in_first_process(write)


def moments(plan: StagesPlan, name: str) -> list[tuple[str, str, int]]:
    """(label, stage, step) at which a scheme's understanding is told."""
    parts = parts_of(plan, name)
    if len(parts) == 1:
        short = plan.one_stage_steps
        lengths = ((short, "10 epochs"), (2 * short, "20 epochs"))
        return [(f"{steps} steps ('{epochs}')", parts[0].stage, steps) for steps, epochs in lengths]
    return [(f"after stage {p.stage[0]}", p.stage, p.steps) for p in parts]


def at(result: ArmResult, stage: str, step: int) -> Judgement:
    return next(j for j in result.judgements if (j.stage, j.step) == (stage, step))


def report(
    plan: StagesPlan, results: Sequence[ArmResult], before: Sequence[str], bench: Bench, recorder: Recorder, out: Path
) -> None:
    """Metrics, figures and verdicts of finished arms, into the recorder."""
    knew = [judging.right(s, q.gold) for s, q in zip(before, bench.questions, strict=True)]
    ids = [q.id for q in bench.questions]
    recorder.metrics.append(accuracy_metric("understanding/base", [knew], ids))
    kept: dict[tuple[str, str], tuple[float | None, tuple[float, float] | None]] = {}
    for name in plan.schemes:
        runs = [r for r in results if r.name == name]
        for label, stage, step in moments(plan, name):
            arm = f"{name}, {label}"
            found = [at(r, stage, step) for r in runs]
            right = [[judging.right(s, q.gold) for s, q in zip(j.answers, bench.questions, strict=True)] for j in found]
            mean = [sum(k) / len(k) for k in zip(*right, strict=True)]
            kept_metric = retention(f"kept/{arm}", mean, knew, NOTE)
            kept[name, label] = kept_metric.value, kept_metric.ci95
            recorder.metrics += [
                kept_metric,
                accuracy_metric(f"understanding/{arm}", right, ids),
                accuracy_metric(f"drawing/{arm}", [j.drawn for j in found], [w.cluster for w in bench.drawings]),
            ]
    _verdicts(plan, results, kept, bench, recorder)
    _figures(plan, results, bench, recorder, out)


def _verdicts(plan: StagesPlan, results: Sequence[ArmResult], kept: dict, bench: Bench, recorder: Recorder) -> None:
    """The paper's three statements about stages, each from intervals; none from a quick run."""
    stated = {s.key: s.statement.rstrip(".") for s in load_statements().claims}
    words = [
        f"Schemes of one stage had {2 * plan.one_stage_steps} steps of {plan.optimization.batch_size} conversations, "
        f"those of three {' + '.join(map(str, plan.stage_steps))}; {told_cost(results)}"
    ]
    for key, told, verdict in (*_forgetting(plan, kept), *_drawing(plan, results, [w.cluster for w in bench.drawings])):
        verdict = "undecided" if plan.quick else verdict
        recorder.claims[key] = {"verdict": verdict, "evidence": told}
        words.append(f"The paper: {stated[key]}. The claim {HOLDS[verdict]}: {told}")
    for (name, label), (value, interval) in kept.items():
        if name.startswith("wohg") and label.endswith("3") and value is not None:
            words.append(f"{name} keeps {value:.3f}{span(interval, '.3f')} of the base's right answers in the end")
    seeds = f"{len(plan.seeds)} seed{'s' if len(plan.seeds) > 1 else ''}, intervals over questions or prompts"
    words.append(f"{seeds}: what another training would give is not in them")
    recorder.verdict = ("QUICK RUN, NO VERDICT. " if plan.quick else "") + "\n".join(f"{line}." for line in words)


def _forgetting(plan: StagesPlan, kept: dict) -> list[tuple[str, str, str]]:
    """Does one stage lose understanding, more with more steps and with embeddings?"""
    names = [n for n in ("one-stage-no-embeddings", "one-stage") if n in plan.schemes]
    if not names:
        return []
    values = {key: v for key, v in kept.items() if key[0] in names and v[0] is not None}
    if len(values) < 2 * len(names):
        return [("one-stage-forgets", "the base answers nothing right, so nothing can be kept", "undecided")]
    told = ", ".join(f"{n} at {label} {v:.3f}{span(i, '.3f')}" for (n, label), (v, i) in values.items())
    short, long = (label for label, _, _ in moments(plan, names[0]))
    parts = {
        "loses understanding": all(i[1] < 1 for _, i in values.values()),
        "loses more with more steps": all(values[n, long][0] < values[n, short][0] for n in names),
    }
    if len(names) == 2:
        parts["loses more with embeddings trained"] = values[names[1], long][0] < values[names[0], long][0]
    nothing = all(i[0] > 0.95 for _, i in values.values())
    verdict = "supported" if all(parts.values()) else "contradicted" if nothing else "undecided"
    said = ", ".join(f"{part}: {'yes' if holds else 'no'}" for part, holds in parts.items())
    return [("one-stage-forgets", f"kept are {told} ({said})", verdict)]


def _drawing(plan: StagesPlan, results: Sequence[ArmResult], clusters: Sequence[str]) -> list[tuple[str, str, str]]:
    made = []
    full = [r for r in results if r.name == "wohg"]
    if full:
        steps = [j.step for j in full[0].judgements if j.stage == "2"]
        first, last = steps[0], steps[-1]
        then, before = ([at(r, "2", step).drawn for r in full] for step in (last, first))
        gap, interval = share_difference(then, before, clusters)
        was, now = (_right(full, "2", step) for step in (first, last))
        told = (
            f"right drawings go from {was:.3f} at step {first} to {now:.3f} at step {last} of stage 2, "
            f"{gap:+.3f}{span(interval)}"
        )
        made.append(("stage-two-improves-drawing", told, sign(interval)))
    without = [r for r in results if r.name == "wohg-no-embeddings"]
    if full and without:
        last = full[0].last("2").step
        gap, interval = share_difference(
            [at(r, "2", last).drawn for r in full], [at(r, "2-no-embeddings", last).drawn for r in without], clusters
        )
        losses = [_end_of_stage_two(runs, plan) for runs in (full, without)]
        told = (
            f"after stage 2 with the embeddings trained against without: right drawings {_right(full, '2', last):.3f} "
            f"against {_right(without, '2-no-embeddings', last):.3f}, {gap:+.3f}{span(interval)}; held-back image loss "
            f"{losses[0]:.3f} against {losses[1]:.3f} nats"
        )
        made.append(("embeddings-needed-in-stage-two", told, sign(interval)))
    return made


def _right(runs: Sequence[ArmResult], stage: str, step: int) -> float:
    """Share of right drawings over seeds."""
    drawn = [good for r in runs for good in at(r, stage, step).drawn]
    return sum(drawn) / len(drawn)


def _end_of_stage_two(runs: Sequence[ArmResult], plan: StagesPlan) -> float:
    step = sum(plan.stage_steps[:2])
    values = [next(v for s, n, v in r.curves if (s, n) == (step, "eval/image_renormalised")) for r in runs]
    return sum(values) / len(values)


def _figures(plan: StagesPlan, results: Sequence[ArmResult], bench: Bench, recorder: Recorder, out: Path) -> None:
    """Figure 6: the same prompts over stage 2; Figure 9: the same without trained embeddings."""
    chosen = [i for i, w in enumerate(bench.drawings) if w.id.endswith("-00")]
    for figure, name, stage in (("figure6", "wohg", "2"), ("figure9", "wohg-no-embeddings", "2-no-embeddings")):
        result = next((r for r in results if r.name == name), None)
        if result is None:
            continue
        folder = out / "work" / f"{name}/seed{result.seed}" / result.identity
        found = [j for j in result.judgements if j.stage == stage]
        rows = [(bench.drawings[i].prompt, [Tile(folder / j.images[i]) for j in found]) for i in chosen]
        title = f"Figure {figure[-1]}: the same prompts over stage 2" + (
            ", embeddings frozen" if figure == "figure9" else ""
        )
        sheet = contact_sheet(rows, columns=[f"step {j.step}" for j in found], side=96)
        recorder.add_figure(figure, title, sheet)
