"""Floating-point operations of a training step, for the model FLOPs utilisation (MFU): what the mathematics needs over
what the devices could do in that time.

Two operations a parameter and position forward, two for the gradient of what goes in (where something below learns),
two for the weight's own (where it learns). Recomputation does not count, nor do attention's scores (2 % of the 8B's
forward pass at 1,024 positions): the number is a lower bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from armor_model.bases import BaseModel
from armor_model.processing import ProcessorSettings
from trainer.batches import Batch
from trainer.objective import count_labels
from trainer.stages import PARTS, Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel

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


def _patches_a_feature(base: BaseModel, config: Any) -> float:
    """Of the smallest image. A class token is left out."""
    image, patch = base.blank(config), config.vision_config.patch_size
    settings = ProcessorSettings(0, 0, 0, **base.processor_settings(config, {}))
    patches = image.numel() // 3 // (patch if isinstance(patch, int) else patch[0]) ** 2
    return patches / sum(base.image_text(image, settings)[1])


class Flops:
    """Counts a stage's operations by batch. Made before the model is sharded."""

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
