"""armor-nano from nothing: image tokenizer -> understanding model -> WoHG stages 1, 2, 3, in the shapes world.

armor-train nano --out DIR [--seed 0] [--random-backbone]
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonView
from armor_model.base.runtime import keep_freed_memory
from armor_model.bases import base_name_of, find_base
from trainer.batches import Example
from trainer.bundle import Training
from trainer.config import LoopOptions, Optimization
from trainer.configure import document
from trainer.loader import Mixture, counts_of
from trainer.logs import HEADS
from trainer.loop import Cost, Loop, Outcome
from trainer.shapes.data import Codes, make_pool, vq_batches, warm_up_vision
from trainer.shapes.lessons import (
    AFTER,
    APART,
    CHANGE,
    CHANGE_BOTH,
    CHANGE_TOLD,
    CHOICE,
    COMPOSED,
    DECLINE,
    HARD,
    LESSONS,
    LOOKUP,
    OUTSIDE,
    PLAN,
    REVISED,
    REWORDED,
    SHORT,
    TALK,
    TALK_BASE,
    TOLD,
    WORDED,
    WORDED_BASE,
    WORDED_BOTH,
    WORDED_TEXT,
)
from trainer.shapes.walk import Phase, Walk
from trainer.shapes.world import held_out_sha256
from trainer.stages import KINDS, STAGES
from trainer.vq import VQOptimization, VQOutcome, train_patch_vq

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

JUDGE = "judge"
"""The phase behind the training, which is the caller's."""


@dataclass(frozen=True)
class NanoStage:
    """One stage of the recipe: whose declaration, on which mixture, how it walks."""

    stage: str
    """Name in trainer.stages.STAGES."""
    mixture: dict[str, int]
    """Share of each type or lesson (trainer.shapes.lessons); scaled to the steps."""
    how: Optimization
    """The walk; its steps are the stage's."""
    condition_dropout: float = 0.0
    """Share of t2i requests that are emptied."""


@dataclass(frozen=True)
class NanoRecipe:
    """Everything that decides how armor-nano comes out."""

    seed: int = 0
    """Of everything."""
    version: int = 1
    """How pools are drawn: 1 as the bundled checkpoint's were, types whose names are anagrams (t2ti, ti2t) from one
    seed; 2 each from a seed of its own."""
    preset: str = "armor-nano"
    """Sizes of the model: a name that armor_model.presets knows, `armor-nano` or `armor-nano-BASE`."""
    adapter_init: str = "random"
    """`random`, or `copy` of the last decoder blocks: after 400 steps of stage 2 on one base, image loss .409 against
    .424 (one seed)."""
    vq: VQOptimization = field(default_factory=VQOptimization)
    """Of the image tokenizer's training."""
    vision_steps: int = 250
    """Of the vision warm-up."""
    pools: dict[str, int] = field(
        default_factory=lambda: {
            SHORT: 32_000,
            LOOKUP: 16_000,
            CHOICE: 48_000,
            HARD: 32_000,
            PLAN: 32_000,
            TOLD: 16_000,
            DECLINE: 8000,
            AFTER: 8000,
            "ti2t": 24_000,
            "t2t": 6000,
            "t2i": 16_000,
            COMPOSED: 24_000,
            "t2ti": 6000,
            APART: 12_000,
            OUTSIDE: 6000,
            WORDED: 16_000,
            WORDED_TEXT: 6000,
            WORDED_BOTH: 10_000,
            WORDED_BASE: 16_000,
            CHANGE: 12_000,
            CHANGE_TOLD: 16_000,
            CHANGE_BOTH: 8000,
            TALK: 16_000,
            TALK_BASE: 12_000,
            REWORDED: 24_000,
            REVISED: 10_000,
        }
    )
    """Conversations of each type, tokenised once and read again and again."""
    stages: tuple[NanoStage, ...] = ()
    """In their order."""
    random_backbone: bool = False
    """The twin: neither vision warm-up nor base training, the rest unchanged."""


def default_recipe(seed: int = 0, base: str = "internvl") -> NanoRecipe:
    """The recipe of the bundled checkpoint, which is built on InternVL; on another base with a decoder of its sizes.
    Raises UserError for an unknown base."""
    return NanoRecipe(
        seed=seed,
        preset="armor-nano" if find_base(base).name == "internvl" else f"armor-nano-{base}",
        stages=(
            NanoStage(
                "base",
                {SHORT: 70, LOOKUP: 30},
                Optimization(900, 128, lr=4e-3, muon_lr=4e-3, warmup=30, floor=0.5, weight_decay=0.01, accumulate=2),
            ),
            NanoStage(
                "base",
                {CHOICE: 37, SHORT: 21, "ti2t": 26, "t2t": 8, DECLINE: 8},
                Optimization(1300, 128, lr=4e-3, muon_lr=4e-3, warmup=20, floor=0.02, weight_decay=0.01, accumulate=4),
            ),
            NanoStage(
                "base",
                {
                    **{PLAN: 22, TOLD: 6, CHOICE: 17, HARD: 14, SHORT: 7, APART: 6, "ti2t": 6, "t2t": 4, DECLINE: 3},
                    **{AFTER: 3, WORDED_BASE: 7, OUTSIDE: 3, CHANGE_TOLD: 8, TALK_BASE: 8},
                },
                Optimization(2100, 128, lr=3e-3, muon_lr=3e-3, warmup=20, floor=0.02, weight_decay=0.01, accumulate=4),
            ),
            NanoStage(
                "1",
                {
                    **{"t2t": 12, WORDED_TEXT: 14, "ti2t": 16, "t2i": 12, WORDED: 14, "t2ti": 16, WORDED_BOTH: 16},
                    **{OUTSIDE: 8, TALK: 16, CHANGE_BOTH: 6},
                },
                Optimization(400, 64, lr=3e-3, warmup=10, floor=0.05, accumulate=2),
            ),
            NanoStage(
                "2",
                {"t2i": 8, COMPOSED: 44, WORDED: 18, "t2ti": 5, WORDED_BOTH: 6, CHANGE: 10, CHANGE_BOTH: 4, TALK: 14},
                Optimization(1800, 64, lr=3e-3, muon_lr=5e-3, warmup=50, floor=0.02, weight_decay=0.3, accumulate=2),
                condition_dropout=0.1,
            ),
            NanoStage(
                "3",
                {
                    **{"t2t": 6, WORDED_TEXT: 8, "ti2t": 18, "t2i": 6, WORDED: 8, COMPOSED: 14, "t2ti": 8},
                    **{WORDED_BOTH: 12, OUTSIDE: 8, TALK: 22, CHANGE_BOTH: 6},
                },
                Optimization(400, 64, lr=1e-3, warmup=10, floor=0.05, accumulate=2),
                condition_dropout=0.1,
            ),
            NanoStage(
                "3",
                {
                    **{"t2t": 4, WORDED_TEXT: 5, "ti2t": 12, "t2i": 3, WORDED: 5, COMPOSED: 18, "t2ti": 4},
                    **{WORDED_BOTH: 9, OUTSIDE: 9, REWORDED: 32, REVISED: 16, CHANGE_BOTH: 3},
                },
                Optimization(1000, 64, lr=2e-3, muon_lr=3e-3, warmup=20, floor=0.02, weight_decay=0.3, accumulate=2),
                condition_dropout=0.1,
            ),
        ),
    )


@dataclass
class StageReport:
    """What one step of the recipe took and came to."""

    name: str
    steps: int
    cpu_seconds: float
    losses: dict[str, float]
    cost: Cost | None = None


@dataclass
class NanoOutcome:
    """The trained model, and a report for each step of the recipe."""

    model: ArmorModel
    processor: ArmorProcessor
    vq: VQOutcome
    reports: list[StageReport]

    @property
    def cpu_seconds(self) -> float:
        """Of all steps."""
        return sum(report.cpu_seconds for report in self.reports)

    @property
    def steps(self) -> int:
        """Optimizer steps of all kinds."""
        return sum(report.steps for report in self.reports)

    @property
    def cost(self) -> Cost:
        """Of all steps; what is not a stage counts with its CPU time."""
        each = [r.cost or Cost(device_seconds=r.cpu_seconds, cpu_seconds=r.cpu_seconds) for r in self.reports]
        return Cost(*(sum(getattr(cost, field.name) for cost in each) for field in fields(Cost)))


def build(recipe: NanoRecipe) -> tuple[Any, Any]:
    """The untrained model and its processor."""
    from armor_model import build_word_tokenizer, new_model, preset
    from armor_model.presets import preset_dict
    from armor_model.processing import ArmorProcessor
    from trainer.shapes.language import vocabulary

    torch.manual_seed(recipe.seed)
    tokenizer = build_word_tokenizer(vocabulary(), base=base_name_of(preset_dict(recipe.preset)) or "")
    config = preset(recipe.preset, vocab_size=len(tokenizer))
    model = new_model(config)
    return model, ArmorProcessor.for_config(tokenizer, config)


def record(recipe: NanoRecipe, folder: Path, command: Sequence[str]) -> Training:
    """The run record of a training by this recipe, begun in `folder`."""
    settings = document(recipe)
    data = ("shapes-world", sha256_json([held_out_sha256(), settings["pools"], recipe.seed, recipe.version]))
    return Training.open(
        folder,
        name=recipe.preset,
        profile="shapes",
        command=command,
        settings=settings,
        start=None,
        data=(*data, sum(recipe.pools.values())),
        seed=recipe.seed,
        resume=True,
    )


def logs(work: Path | None) -> list[Path]:
    """Logs of the stages that `train_nano` kept in `work`, in their order."""
    files = () if work is None else work.glob("[0-9]*-*/log.jsonl")
    return sorted(files, key=lambda file: int(file.parent.name.split("-")[0]))


SECONDS = {
    "vqgan": 0.025,
    "vision": 0.030,
    "data": 13 / 21_600,
    "base": 0.52 / 128,
    "1": 0.35 / 64,
    "2": 0.61 / 64,
    "3": 0.70 / 64,
    JUDGE: 12.0,
}
"""CPU-seconds of a step, a conversation (data), an example (stages) or all (judge), of a
quiet `--scale 0.05`."""


def phases(recipe: NanoRecipe) -> list[Phase]:
    """What the recipe consists of, the judging of its model included, and what each part is expected to take."""
    walk = [Phase("vqgan", recipe.vq.steps, SECONDS["vqgan"])]
    if not recipe.random_backbone:
        walk.append(Phase("vision", recipe.vision_steps, SECONDS["vision"]))
    walk.append(Phase("data", sum(_pools(recipe).values()), SECONDS["data"]))
    for one in _stages(recipe):
        name = one.stage if one.stage == "base" else f"stage {one.stage}"
        walk.append(Phase(name, one.how.steps, SECONDS[one.stage] * one.how.batch_size))
    return [*walk, Phase(JUDGE, 1, SECONDS[JUDGE])]


def train_nano(recipe: NanoRecipe, out: Path | None = None, walk: Walk | None = None) -> NanoOutcome:
    """Run the whole recipe in this process; all of `walk` but the judging.

    With `out`, stages keep logs and checkpoints there, and a run that was killed goes on from them, bit for bit.
    """
    walk = walk or Walk(phases(recipe), bar=False)
    reports: list[StageReport] = []
    clock = time.process_time()

    def lap(name: str, steps: int, losses: dict[str, float], told: str, cost: Cost | None = None) -> None:
        nonlocal clock
        used = time.process_time() - clock if cost is None else cost.cpu_seconds
        reports.append(StageReport(name, steps, used, losses, cost))
        walk.done(f"{f'{steps:,} steps, ' if steps else ''}{used:.0f} CPU-seconds, {told}")
        clock = time.process_time()

    keep_freed_memory()
    model, processor = build(recipe)
    vq = processor.vq
    vq_outcome = train_patch_vq(
        vq, vq_batches(recipe.seed, 64), recipe.vq, recipe.seed, lambda step, _: walk.at(step + 1)
    )
    lap("vqgan", recipe.vq.steps, {"psnr": vq_outcome.psnr}, f"{vq_outcome.psnr:.1f} dB")
    if not recipe.random_backbone:
        accuracy = warm_up_vision(model, processor, recipe.vision_steps, recipe.seed, on_step=walk.at)
        lap("vision", recipe.vision_steps, {"accuracy": accuracy}, f"{accuracy:.1%} of cells named")
    codes = Codes(vq)
    pools: dict[str, list[Example]] = {}
    for kind, n in _pools(recipe).items():
        pools[kind] = make_pool(processor, codes, kind, n, recipe.seed, recipe.version)
        walk.at(sum(map(len, pools.values())), kind)
    sizes = {kind: float(len(pool)) for kind, pool in pools.items()}
    lap("data", 0, sizes, f"{sum(sizes.values()):,.0f} conversations of {len(sizes)} kinds")
    for number, nano_stage in enumerate(_stages(recipe)):
        if nano_stage.stage == "1":
            model.init_new_parts(recipe.adapter_init)
        work = None if out is None else out / f"{number}-{nano_stage.stage}"
        outcome = run_stage(model, nano_stage, pools, recipe.seed, work, walk)
        lap(nano_stage.stage, outcome.steps, outcome.losses, _losses(outcome.losses), outcome.cost)
    model.eval()
    return NanoOutcome(model, processor, vq_outcome, reports)


def run_stage(
    model: ArmorModel,
    nano_stage: NanoStage,
    pools: Mapping[str, list[Example]],
    seed: int,
    out: Path | None,
    walk: Walk,
) -> Outcome:
    """Train one stage of the recipe on pools of tokenised conversations."""
    how, dropout = nano_stage.how, nano_stage.condition_dropout
    counts = counts_of(nano_stage.mixture, how)
    kinds = {kind: sum(n for pool, n in counts.items() if LESSONS.get(pool, pool) == kind) for kind in KINDS}
    declared = STAGES[nano_stage.stage]
    # Vision and projector stay as the warm-up left them, which names every cell without error: trained along, the first
    # noisy steps unlearn it.
    trains = tuple(part for part in declared.trains if part not in ("vision", "projector"))
    stage = replace(declared, trains=trains, mixture=kinds, condition_dropout=dropout)
    mixture = Mixture(pools, counts, how.batch_size, seed, dropout)
    options = LoopOptions(
        out=out,
        bar=False,
        on_step=lambda step, losses: walk.at(step, _losses(losses)),
        log_every=50,
        save_every=100 if out else 0,
        keep=1,
        resume=out is not None,
    )
    return Loop(model, stage, mixture, how, options).run()


def _losses(losses: JsonView) -> str:
    """`loss text 0.083, image 0.265`, of what there is."""
    told = [f"{name} {losses[f'loss/{name}']:.3f}" for name in HEADS if f"loss/{name}" in losses]
    return f"loss {', '.join(told)}" if told else ""


def _pools(recipe: NanoRecipe) -> dict[str, int]:
    """The pools that some stage reads."""
    needed = {kind for stage in _stages(recipe) for kind in stage.mixture}
    return {kind: n for kind, n in recipe.pools.items() if kind in needed}


def _stages(recipe: NanoRecipe) -> list[NanoStage]:
    return [s for s in recipe.stages if not (recipe.random_backbone and s.stage == "base")]


def scaled(recipe: NanoRecipe, share: float) -> NanoRecipe:
    """Fewer steps and fewer conversations, everything else alike (tests, a quick look)."""

    def shorter(how: Optimization) -> Optimization:
        steps = max(1, round(how.steps * share))
        return replace(how, steps=steps, warmup=min(how.warmup, steps // 2))

    return replace(
        recipe,
        vq=replace(recipe.vq, steps=max(40, round(recipe.vq.steps * share))),
        vision_steps=max(1, round(recipe.vision_steps * share)),
        pools={kind: max(64, round(n * share)) for kind, n in recipe.pools.items()},
        stages=tuple(replace(s, how=shorter(s.how)) for s in recipe.stages),
    )
