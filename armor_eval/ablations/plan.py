"""What an ablation trains, as data; `--config FILE.toml` and `--set a.b=c` override any field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from armor_eval.profiles import EMBEDDED, profile_of
from armor_model.base.errors import ArmorError, UserError
from armor_model.base.jsons import JsonObject
from trainer.config import Optimization
from trainer.configure import configure

HOW = Optimization(0, 64, lr=3e-3, warmup=30, floor=0.02, accumulate=2)
MOVED = {
    name: ("optimization", name)
    for name in ("batch_size", "lr", "warmup", "precision", "accumulate", "gradient_checkpointing")
}
"""Fields that plans of the last version held themselves."""

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int, Field(ge=1)]


class Plan(BaseModel):
    """Shared by both ablations. One optimizer step reads `batch_size` conversations; steps are the budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    base: str = "train"
    """The understanding model to start from: `train` (the recipe's own base, kept in the output folder), `bundled`
    (armor-nano's frozen parts; its text head has been through ARMOR's training), a checkpoint folder, or the name of
    another base that the recipe's is trained on (`qwen2_5_vl`, `smolvlm`, ...)."""
    base_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the recipe's base training, for `base = "train"`."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Each seed draws new parts' initial weights, and the data order, anew; arms of one seed share both."""
    optimization: Optimization = HOW
    """Of every stage; its steps and schedule are the scheme's. A step's conversations are sorted by length into
    micro-batches, so each pads least; the gradient is the same up to rounding, in every arm."""
    pool: int = Field(default=2500, ge=1)
    """Conversations of each type that are made and tokenised; steps read them round and round."""
    data: tuple[str, ...] = ()
    """Folders of `armor-train tokenize` to train on, at any size; without any the embedded profile's world is read.
    Curves and image pairs come from them too; drawing accuracy and understanding do not (the world's judges)."""
    prompts: tuple[str, ...] = ()
    """What is drawn for the image pairs where `data` is given."""
    evaluate_every: int = Field(default=20, ge=1)
    """Steps between points of the curves."""
    validation: int = Field(default=128, ge=1)
    """Held-back conversations of each type that the curves' losses are means over."""
    questions: int = Field(default=12, ge=1)
    """Understanding questions of each of the world's 16 types, half of them as multiple choice."""
    drawings: int = Field(default=20, ge=1)
    """Images of each of GenEval's six tasks, over its held-out prompts (1 to 24 a task)."""
    quick: bool = False
    """Stamped: no verdict is drawn from it."""

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.seeds)) < max(1, len(self.seeds)):
            raise ValueError("seeds must be different numbers, one at least")
        how = self.optimization
        if how.steps or how.schedule != HOW.schedule or how.precision == "auto":
            raise ValueError("optimization: steps and schedule are the scheme's, precision is fp32 or bf16")
        return self

    @classmethod
    def read(cls, config: Path | None, changes: Sequence[str] = (), *, small: bool = False, **options: object) -> Self:
        """The plan with a TOML file's fields, the caller's options and `--set` (`changes`) on top; `small` starts from
        the quick plan, and stamps it whatever the file says. Raises UserError in one line."""
        given: dict[tuple[str, ...], object] = {(name,): value for name, value in options.items() if value is not None}
        start = cls.model_validate(cls.for_quick()) if small else cls()
        try:
            return configure(start, config, changes, given | ({("quick",): True} if small else {}), MOVED)
        except ArmorError as error:
            raise UserError(error.message, error.hint) from error

    @classmethod
    def for_quick(cls) -> JsonObject:
        """Fields of the `--quick` plan."""
        return {}

    @property
    def world(self) -> ModuleType:
        """The guest's module: TrainingData, questions, drawings, DrawingReader, train_base, untrained_model."""
        return profile_of(EMBEDDED).part("ablations")

    def identity(self) -> str:
        """Hash of everything that a finished arm depends on: another plan does not take its result over."""
        fields = self.model_dump(mode="json", exclude={"seeds", "arms", "schemes", "optimization"})
        fields = {k: v for k, v in fields.items() if v or k not in ("data", "prompts")}
        # By the names that the last version had, which kept these beside the others.
        fields |= {k: v for k, v in asdict(self.optimization).items() if k in MOVED or v != getattr(HOW, k)}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


class HeadsPlan(Plan):
    """`ablate-heads`."""

    arms: tuple[str, ...] = ("switching-random", "single-random", "switching-copy")
    """`heads-init`: switching or single head, adapter initialised at random or as a copy of the last blocks. The
    first two are the matched pair; the third against the second is the unmatched comparison."""
    steps: int = Field(default=400, ge=2)

    @classmethod
    def for_quick(cls) -> JsonObject:
        return {
            "base": "bundled",
            "base_share": 0.05,
            "seeds": (0,),
            "arms": ("switching-random", "single-random"),
            "steps": 48,
            "evaluate_every": 8,
            "validation": 32,
            "questions": 1,
            "drawings": 2,
            "pool": 300,
            "optimization": replace(HOW, warmup=6),
            "quick": True,
        }


class StagesPlan(Plan):
    """`ablate-stages`."""

    seeds: tuple[Seed, ...] = (0,)
    schemes: tuple[str, ...] = (
        "one-stage-no-embeddings",
        "one-stage",
        "wohg",
        "wohg-imgbos",
        "wohg-no-embeddings",
        "random-backbone",
    )
    one_stage_steps: int = Field(default=250, ge=1)
    """Steps that stand for the paper's 10 epochs; its 20 epochs are twice as many."""
    stage_steps: tuple[Steps, Steps, Steps] = (80, 400, 60)
    """Steps of the stages 1, 2, 3."""
    pictures: int = Field(default=6, ge=2)
    """How often Figure 6's prompts are drawn over stage 2."""

    @classmethod
    def for_quick(cls) -> JsonObject:
        return {
            "base": "bundled",
            "base_share": 0.05,
            "schemes": ("one-stage", "wohg"),
            "one_stage_steps": 20,
            "stage_steps": (15, 40, 10),
            "evaluate_every": 10,
            "validation": 32,
            "questions": 2,
            "drawings": 2,
            "pool": 300,
            "optimization": replace(HOW, warmup=5),
            "pictures": 2,
            "quick": True,
        }
