"""What a training takes. Its plan, told before it starts: what learns, how often each source is read, what is not used,
and the memory that stays. And its floating-point operations, for the model FLOPs utilisation (MFU): what the
mathematics needs over what the devices could do in that time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from armor_model.bases import BaseModel
from armor_model.processing import ProcessorSettings
from trainer.batches import Batch
from trainer.config import Optimization
from trainer.loader import Mixture
from trainer.objective import count_labels
from trainer.optim import is_hidden_matrix
from trainer.stages import PARTS, Stage

if TYPE_CHECKING:
    from armor_model.config import ArmorFields
    from armor_model.modeling import ArmorModel

TARGET_MFU = 0.40
"""Of an estimate before anything is measured: published trainers of vision-language models reach 0.30 to 0.40."""


@dataclass(frozen=True)
class Plan:
    """What a run will do; `lines` for a terminal."""

    stage: str
    trained: dict[str, int]
    """Parameters that learn, by part."""
    parameters: int
    """Of the whole model."""
    steps: int
    passes: float
    """Over the stage's counts."""
    reads: dict[str, tuple[int, int]]
    """By type: conversations that are read, and how many there are."""
    unused: dict[str, int]
    """Types that were given and that the stage does not read."""
    batch: tuple[int, int, int]
    """Processes, micro-batches, conversations of a process in each."""
    shards: int
    """What parameters, gradients and moments are split into."""
    memory: dict[str, int]
    """Bytes that stay in each process; activations come on top."""

    def lines(self) -> list[str]:
        """For a log or a terminal."""
        parts = ", ".join(f"{name} {short(n)}" for name, n in self.trained.items())
        processes, micro, size = self.batch
        told = [
            f"stage {self.stage} trains {short(sum(self.trained.values()))} of {short(self.parameters)} parameters: "
            f"{parts}",
            f"{self.steps:,} steps of {processes * micro * size} conversations ({processes} processes x {micro} "
            f"micro-batches x {size}), {self.passes:.3g} passes",
        ]
        for kind, (read, there) in self.reads.items():
            often = f"each {read / there:.1f} times" if read > there else f"{read / there:.0%} of them once"
            told.append(f"{kind}: {read:,} readings of {there:,} conversations, {often}")
        if self.unused:
            told.append("not used by this stage: " + ", ".join(f"{kind} {n:,}" for kind, n in self.unused.items()))
        sizes = ", ".join(f"{name} {n / 1e9:.3g}" for name, n in self.memory.items())
        where = f" ({self.shards} shards)" if self.shards > 1 else ""
        told.append(f"GB in each process{where}: {sizes}; activations on top")
        return told


def make_plan(
    model: ArmorModel,
    stage: Stage,
    mixture: Mixture,
    how: Optimization,
    given: Mapping[str, int],
    processes: int,
    shards: int,
) -> Plan:
    """Of a model whose trained parts require gradients. given: conversations by type, used or not."""
    trained = {name: sum(p.numel() for p in ps if p.requires_grad) for name, ps in model.parts().items()}
    asked, seen = sum(mixture.counts.values()), how.steps * how.batch_size
    sizes = memory(model, how)
    if processes > 1 and shards == 1:
        sizes["DDP's buckets"] = sizes["gradients"]
    return Plan(
        stage=stage.name,
        trained={name: n for name, n in trained.items() if n},
        parameters=sum(p.numel() for p in model.parameters()),
        steps=how.steps,
        passes=how.steps / len(mixture),
        reads={kind: (round(seen * n / asked), len(mixture.pools[kind])) for kind, n in mixture.counts.items()},
        unused={kind: n for kind, n in given.items() if kind not in mixture.counts},
        batch=(processes, how.accumulate, how.batch_size // how.accumulate // processes),
        shards=shards,
        memory={name: n // shards for name, n in sizes.items()},
    )


def memory(model: ArmorModel, how: Optimization) -> dict[str, int]:
    """Bytes that stay while a model trains: weights as they are, gradients like them, AdamW's two fp32 moments or
    Muon's one, the average. With fp32 masters 16 bytes a trained parameter; a frozen one is 2 or 4."""
    learns = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    every = sum(p.numel() for _, p in learns)
    one = sum(p.numel() for name, p in learns if how.muon_lr is not None and is_hidden_matrix(name, p))
    masters = sum(p.numel() * p.element_size() for _, p in learns)
    frozen = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    sizes = {"frozen weights": frozen, "trained weights": masters, "gradients": masters, "moments": 8 * every - 4 * one}
    return {**sizes, "average": 4 * every} if how.ema else sizes


def duration(seconds: float) -> str:
    """A time in the two units that matter: `3 h 20 min`, `2 d 4 h`."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(hours // 24)} d {int(hours % 24)} h"


def short(n: float) -> str:
    """A count in three digits: 721 M, 8.8 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f}"


# ---- floating-point operations

PEAKS = {
    "H200": 989.5,
    "H100": 989.5,
    "H800": 989.5,
    "GH200": 989.5,
    "B200": 2250.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "MI300X": 1307.4,
}
"""Dense bf16 teraflops by a part of the device's name, as the vendors print them (SXM modules)."""
DRAWS = ("t2i", "t2ti", "ti2ti")
"""Types whose rows pass the adapter."""


def peak_flops(device: torch.device, teraflops: float | None = None) -> float | None:
    """Operations a second of one device: as stated, else as its vendor does for bf16; None where nobody says."""
    if teraflops is not None:
        return teraflops * 1e12
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak * 1e12 for part, peak in PEAKS.items() if part in name), None)


def _patches_a_feature(base: BaseModel, config: ArmorFields) -> float:
    """Of the smallest image. A class token is left out."""
    image, patch = base.blank(config), config.vision_config.patch_size
    settings = ProcessorSettings(0, 0, 0, **base.processor_settings(config, {}))
    patches = image.numel() // 3 // (patch if isinstance(patch, int) else patch[0]) ** 2
    return patches / sum(base.image_text(image, settings)[1])


class Flops:
    """Counts a stage's operations by batch. Made before the model is sharded.

    Two operations a parameter and position forward, two for the gradient of what goes in (where something below
    learns), two for the weight's own (where it learns). Recomputation does not count, nor do attention's scores (2 % of
    the 8B's forward pass at 1,024 positions): the number is a lower bound.
    """

    def __init__(self, model: ArmorModel, stage: Stage) -> None:
        size = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
        learns = {name: sum(p.numel() for p in ps if p.requires_grad) for name, ps in model.parts().items()}

        def operations(part: str, below: float) -> int:
            return 2 * size[part] * (1 + bool(below)) + 2 * learns[part]

        seeing = learns["vision"], learns["vision"] or learns["projector"]
        into = learns["embeddings"] or learns["new_embeddings"] or seeing[1]
        out = into or learns["decoder"]
        single = model.config.heads == "single"
        self.drawing = stage.beta > 0 or single
        self.position = operations("decoder", out)
        self.drawn_position = operations("adapter", out or learns["adapter"])
        self.asked_text = operations("visual_head" if single else "text_head", out or (single and learns["adapter"]))
        self.asked_image = operations("visual_head", out or learns["adapter"])
        patches = _patches_a_feature(model.base, model.config)
        self.feature = operations("vision", seeing[0]) * patches + operations("projector", seeing[1])
        self.image_token_id = model.config.image_token_id
        assert set(size) <= set(PARTS)
        self.single, self.stage = single, stage

    def of(self, batch: Batch) -> float:
        """Of one micro-batch, forward and backward."""
        text, image = count_labels(batch)
        drawn = torch.tensor([self.single or name in DRAWS for name in batch.kind_names] + [False])
        rows = int(drawn[batch.kinds.cpu()].sum()) if self.drawing else 0  # padding's -1 is the last
        features = int((batch.input_ids == self.image_token_id).sum())
        total = batch.tokens * self.position + rows * self.drawn_position + features * self.feature
        total += text * self.asked_text * bool(self.stage.alpha) + image * self.asked_image * bool(self.stage.beta)
        return float(total)
