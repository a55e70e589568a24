"""WoHG's stages, and every training scheme of the paper's ablations, declared as data.

A stage says which parts of the model learn, how the two losses weigh, and how many conversations of each type it sees
(paper section 3.4, Figure 5 and Tables 4 and 5; the README says where they disagree). The loop reads these
declarations and holds no branch of its own. `armor-train stages` prints them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from armor_model.bases import BaseModel

Kind = Literal["t2t", "ti2t", "t2i", "t2ti", "ti2ti", "refuse"]
KINDS: tuple[str, ...] = ("t2t", "ti2t", "t2i", "t2ti", "ti2ti", "refuse")
"""The paper's types; `ti2ti`, which it never trains; and `refuse`, drawing requests that a base model declines."""

PARTS: dict[str, str] = {
    "embeddings": "the input rows of the base's own vocabulary",
    "vision": "the vision tower",
    "projector": "what lies between vision tower and decoder",
    "decoder": "the text decoder's blocks and its final norm",
    "new_embeddings": "the input rows of <imgbos>, <imgend>, <imgpad> and the image codes",
    "adapter": "the blocks of the visual branch and the norm behind them",
    "text_head": "the base's output rows",
    "imgbos_row": "the one output row of <imgbos>",
    "visual_head": "the output rows of <imgend>, <imgpad> and the image codes",
    "lora": "low-rank additions to the decoder's matrices (--lora)",
}
"""What can be trained or frozen: the names of the model's own `parts()`. The single head is `text_head` and
`visual_head` both."""

FROZEN_ALWAYS = ("embeddings", "vision", "projector", "decoder")
"""Parts that no stage of the paper trains ("freeze the weights of the original text tokens", Figure 5)."""

EMBEDDINGS, ADAPTER, IMGBOS, VISUAL = "new_embeddings", "adapter", "imgbos_row", "visual_head"
TEXT = ("text_head", IMGBOS)
"""The paper's "text output layer": the base's rows and the row of <imgbos>."""


@dataclass(frozen=True)
class Stage:
    """What learns, from what, with which weights."""

    name: str
    """What `--stage` takes."""
    trains: tuple[str, ...]
    """Names out of PARTS; everything else is frozen."""
    alpha: float
    """Weight of the text loss, equation (3)."""
    beta: float
    """Weight of the image loss, equation (3)."""
    mixture: dict[str, int] = field(default_factory=dict)
    """Conversations of each type in one pass; `scaled` shrinks them together."""
    epochs: int = 1
    """Passes over the mixture."""
    condition_dropout: float = 0.0
    """Share of image requests whose prompt is emptied, so that guidance has an unconditional branch."""
    source: str = ""
    """Where in the paper this comes from, or `ours`."""

    def __post_init__(self) -> None:
        unknown = set(self.trains) - set(PARTS)
        if unknown:
            raise ValueError(f"stage {self.name}: unknown parts {sorted(unknown)}; known: {', '.join(PARTS)}")
        if set(self.mixture) - set(KINDS):
            raise ValueError(f"stage {self.name}: unknown types {sorted(set(self.mixture) - set(KINDS))}")
        if not (0 <= self.alpha < math.inf and 0 <= self.beta < math.inf and self.alpha + self.beta > 0):
            raise ValueError(
                f"stage {self.name}: alpha {self.alpha} and beta {self.beta} must be >= 0, one of them > 0"
            )
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"stage {self.name}: condition_dropout {self.condition_dropout} is not in [0, 1)")
        if self.epochs < 1:
            raise ValueError(f"stage {self.name}: {self.epochs} epochs")

    @property
    def conversations(self) -> int:
        """Conversations of one pass."""
        return sum(self.mixture.values())

    def scaled(self, share: float) -> Stage:
        """The same stage on `share` of the data, at least one conversation of each type that it had."""
        return replace(self, mixture={k: max(1, round(n * share)) if n else 0 for k, n in self.mixture.items()})


def _each(count: int) -> dict[str, int]:
    return {"t2t": count, "ti2t": count, "t2i": count, "t2ti": count}


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("1", (EMBEDDINGS, *TEXT), 1, 0, _each(100_000), source="section 3.4a, Figure 5a"),
        Stage(
            "2", (EMBEDDINGS, ADAPTER, VISUAL), 0, 1, {"t2i": 2_500_000, "t2ti": 2_500_000}, source="3.4b, Figure 5b"
        ),
        Stage("3", (EMBEDDINGS, ADAPTER, *TEXT, VISUAL), 1, 1, _each(50_000), source="section 3.4c, Figure 5c"),
        # Table 5 ticks all four parts; with beta = 0 the adapter and the visual head get no gradient and stay frozen
        # (trainer.objective.freeze), so this equals stage 1. It is kept because the table says so.
        Stage("1-table5", (EMBEDDINGS, ADAPTER, *TEXT, VISUAL), 1, 0, _each(100_000), source="Table 5"),
        Stage("1-imgbos", (EMBEDDINGS, IMGBOS), 1, 0, _each(100_000), source="ours: no original logit can change"),
        Stage("3-imgbos", (EMBEDDINGS, ADAPTER, IMGBOS, VISUAL), 1, 1, _each(50_000), source="ours, as 1-imgbos"),
        Stage(
            "2-no-embeddings", (ADAPTER, VISUAL), 0, 1, {"t2i": 2_500_000, "t2ti": 2_500_000}, source="6.3, Figure 9"
        ),
        # Section 4.4: "a 0.5M dataset to train 5 epochs"; the even split over the image types is ours.
        Stage(
            "figure7",
            (EMBEDDINGS, ADAPTER, *TEXT, VISUAL),
            1,
            1,
            {"t2i": 250_000, "t2ti": 250_000},
            epochs=5,
            source="Figure 7",
        ),
        *(
            Stage(
                f"one-stage-{epochs}{'' if embeddings else '-no-embeddings'}",
                (*((EMBEDDINGS,) if embeddings else ()), ADAPTER, *TEXT, VISUAL),
                1,
                1,
                # The paper says "a large dataset with interleaved text and images"; the size is not printed. Ours:
                # stage 3's.
                _each(50_000),
                epochs=epochs,
                source="Table 4",
            )
            for epochs in (10, 20)
            for embeddings in (False, True)
        ),
        # Before ARMOR there is an understanding model. Only armor-nano needs it: the paper starts from InternVL2.5.
        Stage(
            "base",
            ("embeddings", "vision", "projector", "decoder", "text_head"),
            1,
            0,
            {"t2t": 60_000, "ti2t": 120_000, "refuse": 20_000},
            source="ours: stands in for InternVL2.5's own training",
        ),
    )
}


@dataclass(frozen=True)
class Scheme:
    """A whole training: stages in their order, on a model with switching heads or with one."""

    name: str
    """What an ablation's plan takes."""
    stages: tuple[str, ...]
    """Names in STAGES."""
    heads: Literal["switching", "single"] = "switching"
    """Forward switching between two heads, or one head over all tokens."""
    backbone: Literal["trained", "random"] = "trained"
    """The understanding model it starts from, or one that has learned nothing."""
    source: str = ""
    """Where in the paper this comes from, or `ours`."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.stages if name not in STAGES]
        if unknown:
            raise ValueError(f"scheme {self.name}: unknown stages {unknown}")


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("wohg", ("1", "2", "3"), source="section 3.4"),
        Scheme("wohg-table5", ("1-table5", "2", "3"), source="Table 5"),
        Scheme("wohg-imgbos", ("1-imgbos", "2", "3-imgbos"), source="ours"),
        Scheme("wohg-no-embeddings", ("1", "2-no-embeddings", "3"), source="Figure 9"),
        Scheme("stage1-only", ("1",), source="Table 5 as Figure 5a draws it"),
        Scheme("stage1-table5-only", ("1-table5",), source="Table 5"),
        Scheme("switching", ("figure7",), "switching", source="Figures 7 and 8"),
        Scheme("normal", ("figure7",), "single", source="Figures 7 and 8, the arm called Normal"),
        *(
            Scheme(name, (name,), source="Table 4")
            for name in ("one-stage-10-no-embeddings", "one-stage-10", "one-stage-20-no-embeddings", "one-stage-20")
        ),
        # With a level learning rate half of 20 epochs is 10: one run stands for both lengths.
        Scheme("one-stage-no-embeddings", ("one-stage-20-no-embeddings",), source="Table 4"),
        Scheme("one-stage", ("one-stage-20",), source="Table 4"),
        Scheme("random-backbone", ("1", "2", "3"), backbone="random", source="ours"),
    )
}


def part_of(parameter: str, base: BaseModel) -> tuple[str, ...]:
    """The part(s) of PARTS that a parameter of an ARMOR on this base belongs to.

    Two for the single head, which is text and visual head at once. A name that no rule knows is an error: an unnoticed
    parameter would be frozen or trained by accident.
    """
    if ".lora_" in parameter:
        return ("lora",)
    of_base = (
        *((path, ("vision",)) for path in base.vision_paths),
        *((path, ("projector",)) for path in base.projector_paths),
        (f"{base.decoder_path}.embed_tokens", ("embeddings",)),
        (base.decoder_path, ("decoder",)),
    )
    for fragment, parts in (*_PREFIXES, *of_base):
        if parameter == fragment or parameter.startswith(fragment + "."):
            return parts
    raise KeyError(f"parameter {parameter!r} belongs to no known part")


_PREFIXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("new_embeddings", (EMBEDDINGS,)),
    ("imgbos_head", (IMGBOS,)),
    ("adapter", (ADAPTER,)),
    ("adapter_norm", (ADAPTER,)),
    ("visual_head", (VISUAL,)),
    ("single_head", ("text_head", VISUAL)),
    ("lm_head", ("text_head",)),
)
