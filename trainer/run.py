"""One stage from the command line: shards in, a trained checkpoint folder out.

armor-train stage --stage 2 --model armor-8b --data shards --out run
torchrun --nproc-per-node 8 -m trainer stage --stage 2 --model armor-8b --data shards --out run --shard
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from armor_model.base.errors import UserError
from trainer.stages import KINDS, STAGES, Stage


@dataclass(frozen=True)
class StageRequest:
    """What `armor-train stage` was asked; the fields are its options, where their meaning stands."""

    stage: str
    data: list[Path]
    model: str
    out: Path
    batch_size: int = 64
    steps: int | None = None
    share: float = 1.0
    mix: str | None = None
    lr: float = 1e-4
    schedule: str = "cosine"
    warmup: int = 0
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    precision: str | None = None
    gradient_checkpointing: bool = False
    shard: bool = False
    pack_to: int | None = None
    condition_dropout: float | None = None
    save_every: int = 500
    keep: int = 2
    resume: bool = False
    log_every: int = 10
    tensorboard: bool = False
    sample_every: int = 0
    sample_prompt: list[str] = field(default_factory=list)
    save_dtype: str | None = None
    seed: int = 0


def declared(name: str) -> Stage:
    """A stage by name. Raises UserError with a suggestion."""
    if name in STAGES:
        return STAGES[name]
    near = difflib.get_close_matches(name, STAGES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(f"unknown stage {name!r}{hint}; known: {', '.join(STAGES)}")


def parse_mix(text: str) -> dict[str, int]:
    """`t2i=100,t2ti=50` to counts. Raises UserError for a type that does not exist or a count that is none."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        kind, _, number = part.strip().partition("=")
        if kind not in KINDS:
            raise UserError(f"--mix: unknown type {kind!r}; known: {', '.join(KINDS)}")
        if not number.isdigit() or not int(number):
            raise UserError(f"--mix: {part.strip()!r} is not {kind}=COUNT")
        counts[kind] = int(number)
    return counts


def stage_of(asked: StageRequest) -> Stage:
    """The declared stage with what the options change. Raises UserError."""
    if asked.share <= 0:
        raise UserError(f"--share {asked.share:g} is not above 0")
    try:
        stage = declared(asked.stage).scaled(asked.share)
        if asked.mix is not None:
            stage = replace(stage, mixture=parse_mix(asked.mix))
        if asked.condition_dropout is not None:
            stage = replace(stage, condition_dropout=asked.condition_dropout)
    except ValueError as error:
        raise UserError(str(error)) from error
    return stage


def check(asked: StageRequest) -> None:
    """What can be seen to be wrong before anything heavy is loaded. Raises UserError."""
    choices = {
        "schedule": ("cosine", "constant"),
        "precision": (None, "fp32", "bf16"),
        "save_dtype": (None, "float32", "bfloat16", "float16"),
    }
    for name, known in choices.items():
        if getattr(asked, name) not in known:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is one of {', '.join(filter(None, known))}, not {getattr(asked, name)!r}")
    if bool(asked.sample_every) != bool(asked.sample_prompt):
        raise UserError("samples need both --sample-every STEPS and at least one --sample-prompt TEXT")
    model = asked.out / "model"
    if model.exists() and not (asked.resume and (asked.out / "checkpoints").is_dir()):
        raise UserError(f"{model} is there already: choose another --out, or go on with its run by --resume")
    if model.exists() and Path(asked.model).resolve() == model.resolve():
        raise UserError(f"--model {model} is where this run writes; choose another --out")
    for folder in asked.data:
        if not folder.is_dir():
            raise UserError(f"no directory of shards at {folder}: make it with armor-train tokenize")


def run_stage(asked: StageRequest) -> dict[str, Any] | None:
    """Load, train, and write `<out>/model` (the whole checkpoint, trained parts merged) and, last, `<out>/result.json`.

    Returns the result in the main process, None in the others. Raises UserError and RunFailed.
    """
    stage = stage_of(asked)
    check(asked)

    import torch

    from armor_model import bundled, load
    from armor_model.loading import quiet_transformers
    from trainer import devices
    from trainer.checkpoints import save_model
    from trainer.data.shards import Shards
    from trainer.loader import Mixture
    from trainer.loop import Loop, LoopOptions
    from trainer.objective import freeze
    from trainer.optim import Optimization

    quiet_transformers()
    precision = asked.precision or devices.asked_precision() or "fp32"
    model, processor = load(bundled("armor-nano") if asked.model == "armor-nano" else asked.model)
    save_as = getattr(torch, asked.save_dtype) if asked.save_dtype else model.dtype
    if precision == "fp32":
        model = model.float()
    else:  # master weights of what learns; what is frozen stays as it was published, half the memory of fp32
        freeze(model, stage)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    pools = Shards(asked.data, processor).pools()
    missing = [kind for kind, count in stage.mixture.items() if count and kind not in pools]
    if missing:
        raise UserError(f"--data holds no {', '.join(missing)}; add some, or name other counts: --mix t2i=COUNT,...")
    try:
        mixture = Mixture(pools, stage.mixture, asked.batch_size, asked.seed, stage.condition_dropout)
        how = Optimization(
            steps=asked.steps or len(mixture) * stage.epochs,
            batch_size=asked.batch_size,
            lr=asked.lr,
            schedule=asked.schedule,
            warmup=asked.warmup,
            weight_decay=asked.weight_decay,
            clip=asked.clip,
            accumulate=asked.accumulate,
            precision=precision,
            gradient_checkpointing=asked.gradient_checkpointing,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    options = LoopOptions(
        asked.out,
        save_every=asked.save_every,
        keep=asked.keep,
        log_every=asked.log_every,
        resume=asked.resume,
        pack_to=asked.pack_to,
        tensorboard=asked.tensorboard,
        sample=drawer(processor, asked.sample_prompt, asked.seed) if asked.sample_prompt else None,
        sample_every=asked.sample_every,
        shard=asked.shard or devices.asked_to_shard(),
    )
    loop = Loop(model, stage, mixture, how, options)
    outcome = loop.run()
    trained = devices.whole_model(model, loop.main, save_as)
    if not loop.main:
        return None
    save_model(trained.to(save_as), processor, asked.out / "model")
    result = {
        "stage": stage.name,
        "steps": outcome.steps,
        "losses": outcome.losses,
        "cost": {**asdict(outcome.cost), "device_days": outcome.cost.device_days},
        "processes": loop.accelerator.num_processes,
        "sharded": options.shard,
        "model": str(asked.out / "model"),
    }
    (asked.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def drawer(processor: Any, prompts: Sequence[str], seed: int) -> Callable[[Any, int], dict[str, Any]]:
    """What LoopOptions.sample wants: (model, step) -> {name: PIL image}; prompt number i is drawn with seed + i."""
    names = [
        f"{i:02d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40]}" for i, prompt in enumerate(prompts)
    ]

    def sample(model: Any, step: int) -> dict[str, Any]:
        from armor_model import draw

        processor.vq.to(next(model.parameters()).device)
        pictures = draw(model, processor, list(prompts), seeds=[seed + i for i in range(len(prompts))])
        return dict(zip(names, pictures, strict=True))

    return sample
