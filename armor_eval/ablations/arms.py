"""Trains one arm through its stages and judges it; a finished arm is a file, an interrupted one goes on."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from armor_eval.ablations import judging
from armor_eval.ablations.base import Base, new_arm
from armor_eval.ablations.plan import Plan
from armor_model.base.files import write_file
from armor_model.base.jsons import JsonObject
from trainer.config import LoopOptions, Optimization
from trainer.stages import STAGES

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor
    from trainer.loop import Loop, Outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One stage of an arm, at this ablation's size."""

    stage: str
    """Name in trainer.stages.STAGES, whose mixture it is trained on."""
    steps: int
    """Optimizer steps."""
    schedule: Literal["cosine", "constant"] = "cosine"
    judged_at: tuple[int, ...] = ()
    """Steps at which drawings and answers are judged, beside the end."""


@dataclass(frozen=True)
class Arm:
    name: str
    seed: int
    heads: str
    init: str
    parts: tuple[Part, ...]

    @property
    def key(self) -> str:
        return f"{self.name}/seed{self.seed}"

    @property
    def steps(self) -> int:
        return sum(p.steps for p in self.parts)


@dataclass
class Judgement:
    """What an arm could do at one moment."""

    stage: str
    step: int
    """Of the stage."""
    answers: list[str] = field(default_factory=list)
    drawn: list[bool] = field(default_factory=list)
    """Whether the detector finds what was asked for; empty where nobody here can tell."""
    reasons: list[str] = field(default_factory=list)
    """What it missed, empty where a drawing is right."""
    images: list[str] = field(default_factory=list)
    """File names in the arm's folder, one a request."""


@dataclass
class ArmResult:
    """All that is kept of an arm."""

    identity: str
    name: str
    seed: int
    curves: list[tuple[int, str, float]]
    """(step over all stages, name, value)."""
    judgements: list[Judgement]
    cpu_seconds: float
    images_seen: int
    tokens: int
    device_seconds: float

    def last(self, stage: str | None = None) -> Judgement:
        """The last judgement, of a stage if one is named."""
        return [j for j in self.judgements if stage is None or j.stage == stage][-1]


@dataclass
class Bench:
    """What every arm is asked."""

    questions: Sequence[judging.ShortQuestion]
    drawings: Sequence[judging.DrawingRequest]
    validation: Callable[[ArmorModel], dict[str, float]]
    reader: judging.ImageJudge | None = None
    """None leaves drawings to the eye."""

    def judge(self, model: ArmorModel, processor: ArmorProcessor, stage: str, step: int, folder: Path) -> Judgement:
        """Answers and drawings of a model as it is; images are written to the folder."""
        was = model.training
        model.eval()
        images = judging.draw_all(model, processor, self.drawings)
        found = Judgement(stage, step, judging.answer(model, processor, self.questions) if self.questions else [])
        model.train(was)
        if self.reader is not None:
            found.drawn, found.reasons = self.reader.read(self.drawings, images)
        folder.mkdir(parents=True, exist_ok=True)
        for request, image in zip(self.drawings, images, strict=True):
            name = f"{stage}-{step:06d}-{request.id}.png"
            image.save(folder / name)
            found.images.append(name)
        write_file(folder / f"judged-{stage}-{step:06d}.json", json.dumps(asdict(found)))
        return found


def identity_of(arm: Arm, plan: Plan, base: Base) -> str:
    """Names the work of an arm: another plan, base or start begins afresh beside it."""
    return f"{plan.identity()}-{base.fingerprint[:16]}-{arm.init}"


def finished(arm: Arm, base: Base, plan: Plan, folder: Path) -> ArmResult | None:
    """What was finished under the same plan, or None."""
    done = folder / "result.json"
    if not done.is_file():
        return None
    stored = json.loads(done.read_text(encoding="utf-8"))
    if stored["identity"] != identity_of(arm, plan, base):
        log.info("%s was trained under another plan: trained again", arm.key)
        return None
    stored["judgements"] = [Judgement(**j) for j in stored["judgements"]]
    stored["curves"] = [tuple(c) for c in stored["curves"]]
    return ArmResult(**stored)


def run_arm(arm: Arm, base: Base, pools: JsonObject, bench: Bench, plan: Plan, folder: Path) -> ArmResult:
    """Train and judge, or read what was finished under the same plan. Every process returns the same result."""
    from trainer import devices

    known = finished(arm, base, plan, folder)
    if known is not None:
        return known
    state = devices.start()
    work = folder / identity_of(arm, plan, base)
    model = new_arm(base, arm.heads, arm.init, arm.seed).to(state.device)
    curves = [(0, f"eval/{k}", v) for k, v in bench.validation(model.eval()).items()]
    before, costs = 0, []
    judgements: list[Judgement] = []
    for part in arm.parts:
        costs.append(_run_part(part, arm, model, base, pools, bench, plan, work).cost)
        state.wait_for_everyone()  # the first process has closed the log that all read now
        curves += [(before + step, name, value) for step, name, value in _logged(work / part.stage / "log.jsonl")]
        judgements += _judged(work, part.stage)
        before += part.steps
    result = ArmResult(
        work.name,
        arm.name,
        arm.seed,
        curves,
        judgements,
        cpu_seconds=sum(c.cpu_seconds for c in costs),
        images_seen=sum(c.images_seen for c in costs),
        tokens=sum(c.tokens for c in costs),
        device_seconds=sum(c.device_seconds for c in costs),
    )
    if state.is_main_process:
        write_file(folder / "result.json", json.dumps(asdict(result)))
        for part in arm.parts:  # with the result written nobody resumes from them, and at 8B they are large
            shutil.rmtree(work / part.stage / "checkpoints", ignore_errors=True)
    state.wait_for_everyone()
    log.info("%s: %d steps, %.0f CPU-seconds", arm.key, arm.steps, result.cpu_seconds)
    return result


def _run_part(
    part: Part, arm: Arm, model: ArmorModel, base: Base, pools: JsonObject, bench: Bench, plan: Plan, work: Path
) -> Outcome:

    at = {*part.judged_at, part.steps}

    def evaluate(trained: ArmorModel, step: int) -> dict[str, float]:
        numbers = bench.validation(trained)
        if step in at:
            found = bench.judge(trained, base.processor, part.stage, step, work)
            if found.drawn:
                numbers["drawing"] = sum(found.drawn) / len(found.drawn)
        return numbers

    how = _optimization(part, part.steps, plan)
    every = _divisor(plan.evaluate_every, at)
    options = LoopOptions(
        out=work / part.stage,
        resume=True,
        log_every=every,
        evaluate_every=every,
        save_every=max(1, part.steps // 3),
        keep=1,
        evaluate=evaluate,
    )
    return _loop(model, part, arm.seed, pools, how, options).run()


def _optimization(part: Part, steps: int, plan: Plan) -> Optimization:
    warmup = min(plan.optimization.warmup, steps // 2)
    return replace(plan.optimization, steps=steps, warmup=warmup, schedule=part.schedule)


def _loop(model: ArmorModel, part: Part, seed: int, pools: JsonObject, how: Optimization, options: LoopOptions) -> Loop:
    from trainer.loader import Mixture, counts_of
    from trainer.loop import Loop

    counts = counts_of(STAGES[part.stage].mixture, how)
    stage = replace(STAGES[part.stage], mixture=counts)
    return Loop(model, stage, Mixture(pools, counts, how.batch_size, seed), how, options)


def evenly(steps: int, count: int, every: int) -> tuple[int, ...]:
    """About `count` moments up to the last step, on the curves' grid: a moment beside it makes the grid as fine as
    their greatest common divisor (133, 266 and 400 had every step evaluated, which doubled an arm's cost)."""
    return tuple(
        sorted({max(1, min(steps, round(steps * k / count / every) * every)) for k in range(1, count)} | {steps})
    )


def _divisor(every: int, at: set[int]) -> int:
    """The largest interval up to `every` that meets every step in `at`."""
    import math

    common = math.gcd(*at)
    return next(n for n in range(min(every, common), 0, -1) if common % n == 0)


LOSSES = ("loss/image", "loss/text")


def _logged(file: Path) -> list[tuple[int, str, float]]:
    """Curve points of a stage's log: validation losses, drawing accuracy and the training losses, not split by type."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        step = record.pop("step")
        kept += [(step, name, float(v)) for name, v in record.items() if name in LOSSES or name.startswith("eval/")]
    return kept


def _judged(work: Path, stage: str) -> list[Judgement]:
    files = sorted(work.glob(f"judged-{stage}-*.json"))
    return [Judgement(**json.loads(f.read_text(encoding="utf-8"))) for f in files]


def told_cost(results: Iterable[ArmResult]) -> str:
    """What an arm's training took, a mean over seeds: CPU-minutes of all processes."""
    by_name: dict[str, list[float]] = {}
    for r in results:
        by_name.setdefault(r.name, []).append(r.cpu_seconds / 60)
    means = ", ".join(f"{name} {sum(m) / len(m):.2g}" for name, m in by_name.items())
    return f"trained in CPU-minutes: {means}"


def say_budget(arms: Sequence[Arm], bases: dict[str, Base], pools: JsonObject, plan: Plan, work: Path) -> str:
    """What is left to do and what it costs, in a line, before it starts. A step's cost is measured on two of them.

    `bases`: arm key -> what it starts from.
    """
    left = [a for a in arms if finished(a, bases[a.key], plan, work / a.key) is None]
    told = ", ".join(f"{name} {n}" for name, n in {a.name: a.steps for a in arms}.items())
    seeds = len({a.seed for a in arms})
    told = f"budget: {len(arms)} arms ({seeds} seed{'s' if seeds > 1 else ''}), steps per arm: {told}"
    if not left:
        return f"{told}; every arm is finished, nothing is trained"
    each, unit = _seconds_a_step(left[0], bases[left[0].key], pools, plan)
    minutes = sum(a.steps for a in left) * each / 60
    done = f"; {len(arms) - len(left)} arms are finished" if len(left) < len(arms) else ""
    return (
        f"{told}{done}; about {minutes:.1f} {unit}-minutes of training left ({each:.2f} s a step measured), judging "
        "apart; interrupt at any time, the same command goes on"
    )


def _seconds_a_step(arm: Arm, base: Base, pools: JsonObject, plan: Plan) -> tuple[float, str]:
    """(seconds of one training step, `CPU` or `device`), over all processes."""

    model = new_arm(base, arm.heads, arm.init, arm.seed)
    steps = 2
    loop = _loop(model, arm.parts[0], 0, pools, _optimization(arm.parts[0], steps, plan), LoopOptions(bar=False))
    loop.run()
    on_cpu = loop.accelerator.device.type == "cpu"
    used = loop.cost.cpu_seconds if on_cpu else loop.cost.device_seconds
    return used / steps, "CPU" if on_cpu else "device"
