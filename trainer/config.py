"""The configuration tree: what a training is told, as dataclasses with documented fields, validated when built.

A field's text is also its option's help (trainer.configure).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from armor_model.base.jsons import JsonObject
from trainer.stages import KINDS

Count = Annotated[int, Field(ge=1)]
"""At least one."""
Amount = Annotated[int, Field(ge=0)]
"""Zero or more."""
CODE = {"set by code": True}
"""Metadata of fields that callers give in Python: no file and no option sets them."""


def parse_counts(value: object) -> object:
    """`t2i=100,t2ti=50` to counts by type, the rest as it is. Raises ValueError for an unknown type or no count."""
    if not isinstance(value, str):
        return value
    counts: dict[str, int] = {}
    for part in value.split(","):
        kind, _, number = part.strip().partition("=")
        if kind not in KINDS:
            raise ValueError(f"--mix: unknown type {kind!r}; known: {', '.join(KINDS)}")
        if not number.isdigit() or not int(number):
            raise ValueError(f"--mix: {part.strip()!r} is not {kind}=COUNT")
        counts[kind] = int(number)
    return counts


@dataclass(frozen=True)
class Optimization:
    """How a stage walks, apart from what it learns."""

    steps: Amount = 0
    """Optimizer steps in all; 0 takes the stage's passes over its data."""
    batch_size: Count = 64
    """Conversations in one optimizer step, over all processes and accumulation steps."""
    lr: float = 1e-4
    """AdamW's peak learning rate. The paper prints none; 1e-4 is our default for InternVL2.5's sizes."""
    muon_lr: float | None = None
    """Peak rate of Muon for hidden matrices, before its RMS matching to AdamW; without it AdamW has everything."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape after the warm-up: half a cosine down to `floor`, or level (constant)."""
    warmup: Amount = 0
    """Steps of linear warm-up from zero."""
    floor: float = 0.0
    """The cosine's end, as a share of the peak."""
    weight_decay: float = 0.0
    """Decoupled; applied to matrices only, so gains and biases stay free."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    clip: float = 1.0
    """Largest gradient norm over all trained parameters; 0 turns clipping off."""
    accumulate: Count = 1
    """Micro-batches in one step; `batch_size` is split evenly over them."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """fp32; bf16, with what learns kept in fp32; auto: what accelerate's launcher says, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute the decoder's blocks in the backward pass instead of keeping their activations."""
    compile: bool = False
    """Compile every transformer block with torch.compile; the first steps take minutes longer."""
    ema: float = 0.0
    """Decay of an exponential moving average of what learns, e.g. 0.999; the average is what is judged, sampled and
    saved at the end. 0 keeps none."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 1 or self.accumulate < 1:
            raise ValueError("batch_size and accumulate must be at least 1, steps not below 0")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} micro-batches")
        if self.warmup < 0 or 0 < self.steps < self.warmup:
            raise ValueError(f"warmup {self.warmup} is not within the {self.steps} steps")
        for name in ("lr", "muon_lr"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise ValueError(f"{name} {rate:g} is not above 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} are not both in [0, 1)")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema {self.ema:g} is not in [0, 1)")
        for name in ("clip", "weight_decay", "floor"):  # a negative norm would turn every gradient round
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name):g} is not 0 or more")

    def factor(self, step: int) -> float:
        """Learning rate of optimizer step `step` (from 0) as a share of the peak."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class LoopOptions:
    """Where a run writes, how often, and who watches."""

    out: Path | None = field(default=None, metadata=CODE)
    """Directory of log and checkpoints; None keeps nothing (tests, experiments)."""
    save_every: Amount = 0
    """Steps between checkpoints; 0 writes one at the end only."""
    keep: Count = 2
    """Checkpoints kept beside the best one."""
    log_every: Count = 10
    """Steps that one log line averages over."""
    evaluate_every: Amount = field(default=0, metadata=CODE)
    """Steps between calls of `evaluate`; 0 never."""
    resume: bool = False
    """Go on from the last complete checkpoint of the run directory, if there is one."""
    pack_to: Count | None = None
    """Pack examples into rows of this many positions; without it each example is padded on a row of its own."""
    tensorboard: bool = False
    """Write TensorBoard events beside the log."""
    track: tuple[str, ...] = ()
    """Tracker that gets the log's numbers too, by accelerate's name (wandb, mlflow, comet_ml, aim); repeatable. Needs
    its package and an account."""
    bar: bool = field(default=True, metadata=CODE)
    """Show a progress bar where stderr is a terminal."""
    on_step: Callable[[int, dict[str, float]], None] | None = field(default=None, metadata=CODE)
    """Hears every step and the last means, for a bar of the caller's own."""
    evaluate: Callable[[Any, int], dict[str, float]] | None = field(default=None, metadata=CODE)
    """Judge the model as it is: (model, step) -> numbers for the log; the one called `score` says which is best."""
    sample: Callable[[Any, int], JsonObject] | None = field(default=None, metadata=CODE)
    """Draw samples: (model, step) -> name -> PIL image, kept beside the log (the paper's Figure 6)."""
    sample_every: Amount = 0
    """Steps between sample images (Figure 6); 0 none, but with `evaluate` where there is one."""
    workers: Amount | None = None
    """Processes that prepare each process's batches; by default 4 beside a GPU, else a thread."""
    ahead: Count = 2
    """Steps that each of them prepares ahead."""
    bad_images: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of conversations, held-out ones too, whose images may be bad, and are replaced by the next record; over it
    the run stops."""
    shard: bool = False
    """Shard parameters, gradients and optimizers over the processes (FSDP2) instead of copying them (DDP)."""
    replicas: Count = 1
    """With `shard`: copies of the sharded model (HSDP) whose gradients are summed, e.g. one a machine of 8 GPUs."""
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    """Of one device in the precision used, for the model FLOPs utilisation (MFU); by default its vendor's for bf16."""
    given: dict[str, int] = field(default_factory=dict, metadata=CODE)
    """Conversations that the caller has, by type, so that the plan can name what is not used."""


@dataclass(frozen=True)
class StageConfig:
    """Everything that `armor-train stage` is told."""

    __pydantic_config__ = ConfigDict(coerce_numbers_to_str=True)  # stage = 2

    stage: str = ""
    """1, 2, 3 or another declared stage (see: armor-train stages)."""
    data: tuple[Path, ...] = ()
    """Directory of shards (armor-train tokenize); repeatable."""
    image_root: Path | None = None
    """Where the images to look at lie now (of held-out shards too), if not where they lay beside the shards."""
    model: str = ""
    """Checkpoint to start from."""
    out: Path | None = None
    """Run directory: configuration, log, checkpoints, run record, and the model at the end."""
    share: float = 1.0
    """Share of the stage's counts."""
    mix: Annotated[dict[str, int] | None, BeforeValidator(parse_counts)] = None
    """Counts of one pass instead of the stage's: t2i=100,t2ti=50."""
    epochs: Count | None = None
    """Passes over the counts instead of the stage's; with `steps` those count."""
    trains: tuple[str, ...] = ()
    """Part that learns, instead of the stage's (see: armor-train stages); repeatable."""
    alpha: float | None = None
    """Weight of the text loss instead of the stage's."""
    beta: float | None = None
    """Weight of the image loss instead of the stage's."""
    lora: Amount = 0
    """Rank of low-rank additions to the decoder's matrices, which learn and are merged at the end; 0 keeps the decoder
    frozen, as the paper does. Needs the package peft."""
    condition_dropout: float | None = None
    """Share of t2i requests that are emptied, instead of the stage's."""
    sample_prompt: tuple[str, ...] = ()
    """Prompt to draw, into <out>/samples; repeatable."""
    eval_data: tuple[Path, ...] = ()
    """Directory of held-out shards, whose losses by type are measured during training; repeatable."""
    eval_every: Amount = 0
    """Steps between those; 0 measures them at the end only."""
    eval_limit: Count = 256
    """Most held-out conversations of each type."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention kernel; by default transformers' choice, torch's own (sdpa)."""
    push_to_hub: str | None = None
    """Hub id ORG/NAME that the model at the end is uploaded to, as a private repository."""
    ask: tuple[str, ...] = ()
    """Prompt to answer freely with text and images, into <out>/samples, every `sample_every` steps; repeatable."""
    save_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the model at the end: float32, bfloat16, float16; by default as loaded."""
    seed: Amount = 0
    """Order of the data, and the sample images."""
    profile: Literal["official", "shapes"] = "official"
    """Label of the run record: whose data were read, official or shapes."""
    optimization: Optimization = Optimization(precision="auto")
    """The walk."""
    loop: LoopOptions = LoopOptions(save_every=500)
    """Checkpoints, logs and processes."""

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"--share {self.share:g} is not a number above 0")
        if self.eval_every and not self.eval_data:
            raise ValueError(f"--eval-every {self.eval_every} needs --eval-data DIR, held-out shards")
        if bool(self.loop.sample_every) != bool(self.sample_prompt or self.ask):
            raise ValueError("samples need both --sample-every STEPS and at least one --sample-prompt or --ask TEXT")


@dataclass(frozen=True)
class VQConfig:
    """Everything that `armor-train vqgan` is told."""

    images: tuple[Path, ...] = ()
    """Image, or directory of them; repeatable."""
    out: Path | None = None
    """Checkpoint folder to write: --model with the new image tokenizer."""
    model: str = "armor-nano"
    """Checkpoint whose image tokenizer is trained anew."""
    steps: Annotated[int, Field(ge=10)] = 400
    """Steps; the first 30 % without quantisation."""
    batch_size: Count = 64
    """Images in a step."""
    lr: float = 3e-3
    """Peak learning rate."""
    foreground: float = 0.0
    """Extra weight of what is not white; 5 for drawings."""
    limit: Count = 20_000
    """Most images held in memory."""
    seed: Amount = 0
    """Of weights, batches and codebook."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"--lr is above 0, not {self.lr:g}")
