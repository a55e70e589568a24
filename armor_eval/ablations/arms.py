"""Trains one arm through its stages and judges it; a finished arm is a file, an interrupted one goes on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from armor_eval.ablations import judging
from armor_eval.ablations.base import Base, new_arm
from armor_eval.ablations.plan import Plan
from armor_eval.runs.journal import replace_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One stage of an arm, at this ablation's size."""

    stage: str
    """Name in trainer.stages.STAGES."""
    steps: int
    mixture: dict[str, int]
    """Shares of the types."""
    schedule: str = "cosine"
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
    pictures: list[str] = field(default_factory=list)
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

    def last(self, stage: str | None = None) -> Judgement:
        """The last judgement, of a stage if one is named."""
        return [j for j in self.judgements if stage is None or j.stage == stage][-1]


@dataclass
class Bench:
    """What every arm is asked."""

    questions: Sequence[judging.Asked]
    wanted: Sequence[judging.Wanted]
    validation: Callable[[Any], dict[str, float]]

    def judge(self, model: Any, processor: Any, stage: str, step: int, folder: Path) -> Judgement:
        """Answers and drawings of a model as it is; pictures are written to the folder."""
        was = model.training
        model.eval()
        pictures = judging.draw_all(model, processor, self.wanted)
        found = Judgement(stage, step, judging.answer(model, processor, self.questions) if self.questions else [])
        model.train(was)
        found.drawn = judging.drawn_right(self.wanted, pictures)
        folder.mkdir(parents=True, exist_ok=True)
        for request, picture in zip(self.wanted, pictures, strict=True):
            name = f"{stage}-{step:06d}-{request.id}.png"
            picture.save(folder / name)
            found.pictures.append(name)
        replace_file(folder / f"judged-{stage}-{step:06d}.json", json.dumps(asdict(found)))
        return found


def run_arm(arm: Arm, base: Base, pools: dict[str, Any], bench: Bench, plan: Plan, folder: Path) -> ArmResult:
    """Train and judge, or read what was finished under the same plan."""
    identity = f"{plan.identity()}-{base.fingerprint[:16]}"
    done = folder / "result.json"
    if done.is_file():
        stored = json.loads(done.read_text(encoding="utf-8"))
        if stored["identity"] == identity:
            stored["judgements"] = [Judgement(**j) for j in stored["judgements"]]
            stored["curves"] = [tuple(c) for c in stored["curves"]]
            return ArmResult(**stored)
        log.info("%s was trained under another plan: trained again", arm.key)
    clock = time.process_time()
    work = folder / identity
    model = new_arm(base, arm.heads, arm.init, arm.seed)
    curves = [(0, f"eval/{k}", v) for k, v in bench.validation(model.eval()).items()]
    images = tokens = before = 0
    judgements: list[Judgement] = []
    cpu = 0.0
    for part in arm.parts:
        outcome = _run_part(part, arm, model, base, pools, bench, plan, work)
        curves += [(before + step, name, value) for step, name, value in _logged(work / part.stage / "log.jsonl")]
        judgements += _judged(work, part.stage)
        before += part.steps
        images, tokens, cpu = (
            images + outcome.cost.images_seen,
            tokens + outcome.cost.tokens,
            cpu + outcome.cost.cpu_seconds,
        )
    result = ArmResult(identity, arm.name, arm.seed, curves, judgements, cpu, images, tokens)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(done, json.dumps(asdict(result)))
    log.info("%s: %d steps, %.0f CPU-seconds", arm.key, arm.steps, time.process_time() - clock)
    return result


def _run_part(
    part: Part, arm: Arm, model: Any, base: Base, pools: dict[str, Any], bench: Bench, plan: Plan, work: Path
) -> Any:
    from trainer.loop import Loop, LoopOptions
    from trainer.mixture import Mixture
    from trainer.optim import Optimization
    from trainer.stages import STAGES

    at = {*part.judged_at, part.steps}

    def evaluate(trained: Any, step: int) -> dict[str, float]:
        numbers = bench.validation(trained)
        if step in at:
            found = bench.judge(trained, base.processor, part.stage, step, work)
            if found.drawn:
                numbers["drawing"] = sum(found.drawn) / len(found.drawn)
        return numbers

    share = sum(part.mixture.values())
    counts = {kind: -(-n * part.steps * plan.batch_size // share) for kind, n in part.mixture.items()}
    how = Optimization(
        part.steps, plan.batch_size, lr=plan.lr, warmup=min(plan.warmup, part.steps // 2), schedule=part.schedule,
        floor=0.02,
        accumulate=plan.accumulate, precision=plan.precision, gradient_checkpointing=plan.gradient_checkpointing,
    )  # fmt: skip
    every = _divisor(plan.evaluate_every, at)
    options = LoopOptions(
        out=work / part.stage, resume=True, log_every=every, evaluate_every=every, save_every=max(1, part.steps // 3),
        keep=1, evaluate=evaluate,
    )  # fmt: skip
    stage = replace(STAGES[part.stage], mixture=counts)
    lengths = {kind: pool.lengths for kind, pool in pools.items()} if plan.data else None
    mixture = Mixture(pools, counts, plan.batch_size, arm.seed, lengths=lengths)
    return Loop(model, stage, mixture, how, options).run()


def _divisor(every: int, at: set[int]) -> int:
    """The largest interval up to `every` that meets every step in `at`."""
    import math

    common = math.gcd(*at)
    return next(n for n in range(min(every, common), 0, -1) if common % n == 0)


def _logged(file: Path) -> list[tuple[int, str, float]]:
    """Curve points of a stage's log: validation losses, drawing accuracy and the training losses."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        step = record.pop("step")
        kept += [(step, name, float(v)) for name, v in record.items() if name.startswith(("eval/", "loss/"))]
    return kept


def _judged(work: Path, stage: str) -> list[Judgement]:
    files = sorted(work.glob(f"judged-{stage}-*.json"))
    return [Judgement(**json.loads(f.read_text(encoding="utf-8"))) for f in files]


def say_budget(arms: Sequence[Arm], plan: Plan, seconds_a_step: float, base_minutes: float) -> str:
    """What the run will cost, in a line, before it starts."""
    steps = sum(a.steps for a in arms)
    by_arm = ", ".join(f"{name} {n}" for name, n in {a.name: a.steps for a in arms}.items())
    minutes = steps * seconds_a_step / 60 + base_minutes
    return (
        f"budget: {len(arms)} arms ({len({a.seed for a in arms})} seed(s)), steps per arm: {by_arm}; "
        f"about {minutes:.0f} CPU-minutes in all ({seconds_a_step:.2f} s a step measured, base {base_minutes:.0f}); "
        "interrupt at any time, the same command goes on"
    )


def seconds_a_step(arm: Arm, base: Base, pools: dict[str, Any], plan: Plan) -> float:
    """CPU-seconds of one training step, measured on two of them."""
    import copy

    from trainer.loop import Loop, LoopOptions
    from trainer.mixture import Mixture
    from trainer.optim import Optimization
    from trainer.stages import STAGES

    model = copy.deepcopy(new_arm(base, arm.heads, arm.init, arm.seed))
    part = arm.parts[0]
    counts = dict.fromkeys(part.mixture, 4 * plan.batch_size)
    loop = Loop(
        model, replace(STAGES[part.stage], mixture=counts), Mixture(pools, counts, plan.batch_size, 0),
        Optimization(3, plan.batch_size, lr=plan.lr), LoopOptions(bar=False),
    )  # fmt: skip
    loop.run()
    return loop.cost.cpu_seconds / 3
