"""What an ablation trains, as data: arms, seeds, steps, what is measured. `--config FILE.toml` overrides any field."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from armor_eval.errors import UserError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int, Field(ge=1)]


class Plan(BaseModel):
    """Shared by both ablations. One optimizer step reads `batch_size` conversations; steps are the budget."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    base: str = "train"
    """The understanding model to start from: `train` (the recipe's own base, kept in the output folder), `bundled`
    (armor-nano's frozen parts; its text head has been through ARMOR's training), or a checkpoint folder."""
    base_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the recipe's base training, for `base = "train"`."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Each seed draws new parts' initial weights, and the data order, anew; arms of one seed share both."""
    batch_size: int = Field(default=64, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    warmup: int = Field(default=30, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = Field(default=2, ge=1)
    """Micro-batches of a step. A step's conversations are sorted by length first, so each pads least; the gradient is
    the same up to rounding, in every arm."""
    gradient_checkpointing: bool = False
    pool: int = Field(default=2500, ge=1)
    """Conversations of each type that are made and tokenised; steps read them round and round."""
    data: tuple[str, ...] = ()
    """Folders of `armor-train tokenize` to train on, at any size; without any the shapes world is read. Curves and
    picture pairs come from them too; drawing accuracy and understanding do not (their judges read the shapes world)."""
    prompts: tuple[str, ...] = ()
    """What is drawn for the picture pairs where `data` is given."""
    evaluate_every: int = Field(default=20, ge=1)
    """Steps between points of the curves."""
    validation: int = Field(default=128, ge=1)
    """Held-back conversations of each type that the curves' losses are means over."""
    questions: int = Field(default=12, ge=1)
    """Understanding questions of each of the world's 16 types, half of them as multiple choice."""
    drawings: int = Field(default=20, ge=1)
    """Pictures of each of GenEval's six tasks, over its held-out prompts (1 to 24 a task)."""
    quick: bool = False
    """Stamped: no verdict is drawn from it."""

    @model_validator(mode="after")
    def _splits(self) -> Self:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into accumulate = {self.accumulate}")
        if len(set(self.seeds)) < max(1, len(self.seeds)):
            raise ValueError("seeds must be different numbers, one at least")
        return self

    @classmethod
    def read(cls, config: Path | None, *, small: bool = False, **overrides: Any) -> Self:
        """The plan with a TOML file's fields and the caller's on top; `small` starts from the quick plan, and stamps it
        whatever the file says. Raises UserError in one line."""
        fields: dict[str, Any] = {}
        if config is not None:
            try:
                fields = tomllib.loads(config.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
                raise UserError(f"cannot read {config}: {error}") from error
        start = cls.for_quick() if small else {}
        given = {k: v for k, v in overrides.items() if v is not None} | ({"quick": True} if small else {})
        try:
            cls.model_validate({**start, **fields})  # the file is right or wrong whatever the command line says
            return cls.model_validate({**start, **fields, **given})
        except ValidationError as error:
            first = error.errors()[0]
            known = ", ".join(cls.model_fields)
            where = "".join(f"{p}: " for p in first["loc"])
            said = first["msg"].removeprefix("Value error, ")
            raise UserError(f"{config or 'plan'}: {where}{said}", f"known fields: {known}") from error

    @classmethod
    def for_quick(cls) -> dict[str, Any]:
        """Fields of the `--quick` plan."""
        return {}

    def identity(self) -> str:
        """Hash of everything that a finished arm depends on: another plan does not take its result over."""
        fields = self.model_dump(mode="json", exclude={"seeds", "arms", "schemes"})
        fields = {k: v for k, v in fields.items() if v or k not in ("data", "prompts")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


class HeadsPlan(Plan):
    """`ablate-heads`."""

    arms: tuple[str, ...] = ("switching-random", "single-random", "switching-copy")
    """`heads-init`: switching or single head, adapter initialised at random or as a copy of the last blocks. The
    first two are the matched pair; the third against the second is the unmatched comparison."""
    steps: int = Field(default=400, ge=2)

    @classmethod
    def for_quick(cls) -> dict[str, Any]:
        return {
            "base": "bundled", "base_share": 0.05, "seeds": (0,), "arms": ("switching-random", "single-random"),
            "steps": 48, "evaluate_every": 8, "validation": 32, "questions": 1, "drawings": 2, "pool": 300, "warmup": 6,
            "quick": True,
        }  # fmt: skip


class StagesPlan(Plan):
    """`ablate-stages`."""

    seeds: tuple[Seed, ...] = (0,)
    schemes: tuple[str, ...] = (
        "one-stage-no-embeddings", "one-stage", "wohg", "wohg-imgbos", "wohg-no-embeddings", "random-backbone",
    )  # fmt: skip
    one_stage_steps: int = Field(default=250, ge=1)
    """Steps that stand for the paper's 10 epochs; its 20 epochs are twice as many."""
    stage_steps: tuple[Steps, Steps, Steps] = (80, 400, 60)
    """Steps of the stages 1, 2, 3."""
    pictures: int = Field(default=6, ge=2)
    """How often Figure 6's prompts are drawn over stage 2."""

    @classmethod
    def for_quick(cls) -> dict[str, Any]:
        return {
            "base": "bundled", "base_share": 0.05, "schemes": ("one-stage", "wohg"), "one_stage_steps": 20,
            "stage_steps": (15, 40, 10), "evaluate_every": 10, "validation": 32, "questions": 2, "drawings": 2,
            "pool": 300, "warmup": 5, "pictures": 2, "quick": True,
        }  # fmt: skip
