"""One stage from the command line: shards in, a trained checkpoint folder out.

accelerate launch --num_processes 8 -m trainer stage --stage 2 --model armor-8b --data shards --out run
"""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from trainer.errors import DataError
from trainer.stages import STAGES, Stage


@dataclass(frozen=True)
class StageRequest:
    """What `armor-train stage` was asked; the fields are its options."""

    stage: str
    data: list[Path]
    model: str
    out: Path
    batch_size: int = 64
    steps: int | None = None
    share: float = 1.0
    lr: float = 1e-4
    schedule: str = "cosine"
    warmup: int = 0
    accumulate: int = 1
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    pack_to: int | None = None
    condition_dropout: float | None = None
    save_every: int = 500
    keep: int = 2
    resume: bool = False
    tensorboard: bool = False
    seed: int = 0


def declared(name: str) -> Stage:
    """A stage by name. Raises DataError with a suggestion."""
    if name in STAGES:
        return STAGES[name]
    near = difflib.get_close_matches(name, STAGES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise DataError(f"unknown stage {name!r}{hint}; known: {', '.join(STAGES)}")


def run_stage(asked: StageRequest) -> None:
    """Load, train, and write `<out>/model` (the whole checkpoint, trained parts merged) and `<out>/result.json`."""
    stage = declared(asked.stage).scaled(asked.share)
    if asked.condition_dropout is not None:
        stage = replace(stage, condition_dropout=asked.condition_dropout)
    for name, choices in (("schedule", ("cosine", "constant")), ("precision", ("fp32", "bf16"))):
        if getattr(asked, name) not in choices:
            raise DataError(f"--{name} is one of {', '.join(choices)}, not {getattr(asked, name)!r}")

    from armor_model import bundled, load, save
    from armor_model.loading import quiet_transformers
    from trainer.data.shards import Shards
    from trainer.loop import Loop, LoopOptions
    from trainer.mixture import Mixture
    from trainer.optim import Optimization

    quiet_transformers()
    model, processor = load(bundled("armor-nano") if asked.model == "armor-nano" else asked.model)
    model = model.float()  # master weights; bf16 is the arithmetic's type, not the parameters'
    pools = Shards(asked.data, processor).pools()
    try:
        mixture = Mixture(pools, stage.mixture, asked.batch_size, asked.seed, stage.condition_dropout)
        how = Optimization(
            steps=asked.steps or len(mixture) * stage.epochs,
            batch_size=asked.batch_size,
            lr=asked.lr,
            schedule=asked.schedule,
            warmup=asked.warmup,
            accumulate=asked.accumulate,
            precision=asked.precision,
            gradient_checkpointing=asked.gradient_checkpointing,
        )
    except ValueError as error:
        raise DataError(str(error)) from error
    options = LoopOptions(
        asked.out,
        save_every=asked.save_every,
        keep=asked.keep,
        resume=asked.resume,
        pack_to=asked.pack_to,
        tensorboard=asked.tensorboard,
    )
    loop = Loop(model, stage, mixture, how, options)
    outcome = loop.run()
    trained = loop.trained_parameters()
    if loop.main:
        merge(model, trained)
        save(model, processor, asked.out / "model")
        result = {"stage": stage.name, "steps": outcome.steps, "losses": outcome.losses, "cost": asdict(outcome.cost)}
        result["cost"]["device_days"] = outcome.cost.device_days
        (asked.out / "result.json").write_text(json.dumps(result, indent=1) + "\n")


def merge(model, trained) -> None:
    """Write trained parameters (an adapter file's content) into a model."""
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in trained.items():
            parameters[name].copy_(value)
