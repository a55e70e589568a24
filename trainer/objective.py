"""The loss of one batch under a stage, as a module: what DDP and FSDP wrap, so every trained part is used through one
forward.

Shapes: B rows, T positions, D model width.
"""

from __future__ import annotations

from torch import Tensor, nn

from armor_model.losses import IGNORE, Sums, summed_losses
from trainer.batches import Batch
from trainer.stages import ADAPTER, TEXT, VISUAL, Stage, part_of


def freeze(model: nn.Module, stage: Stage) -> list[str]:
    """Let exactly the stage's parts require gradients; returns the trained parameters' names in order.

    A part that no loss of the stage reaches stays frozen although the stage names it (Table 5's stage 1: beta = 0
    and an adapter): with several processes, DDP would wait for its gradient for ever.
    """
    single = model.config.heads == "single"
    trained = []
    for name, parameter in model.named_parameters():
        parts = part_of(name, model.base)
        on = any(part in stage.trains for part in parts)
        if single and name.startswith("lm_head"):
            on = False  # the single head took its place; a parameter without a gradient would stall DDP
        if not single and not stage.beta and parts[0] in (ADAPTER, VISUAL):
            on = False
        if not single and not stage.alpha and parts[0] in TEXT:
            on = False
        parameter.requires_grad_(on)
        if on:
            trained.append(name)
    return trained


def recompute_blocks(model: nn.Module) -> None:
    """Gradient checkpointing: blocks that a gradient passes are run again in the backward pass instead of kept.

    transformers also makes the outputs of every embedding require gradients, the ViT's included, for the reentrant
    kind; here that would only send a backward pass through frozen parts (the whole ViT in stages 1 and 3).
    """
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    model.disable_input_require_grads()


def count_labels(batch: Batch) -> tuple[int, int]:
    """Positions that the text head and the visual head are asked about."""
    return int((batch.text_labels != IGNORE).sum()), int((batch.image_labels != IGNORE).sum())


class Objective(nn.Module):
    """Both summed losses on a model; one whose weight (alpha, beta) is 0 is not computed."""

    def __init__(self, model: nn.Module, stage: Stage, every_part: bool = False, sharded: bool = False) -> None:
        """every_part: run every trained part in every forward, at weight zero where nobody asks. With several processes
        one may have no image to draw, or to look at, while another has: DDP and FSDP wait for all of them in each
        part. sharded: frozen parts have to be gathered together as well."""
        super().__init__()
        self.model = model
        self.stage = stage
        self.every_part = every_part
        parts = model.parts()
        looking = [*parts["vision"], *parts["projector"]]
        self.every_look = every_part and (sharded or any(p.requires_grad for p in looking))

    def forward(self, batch: Batch) -> Sums:
        model, stage = self.model, self.stage
        position_ids = model.place(batch.input_ids, batch.pixels, batch.attention_mask, batch.position_ids)
        hidden_BTD = model.backbone(self._embed(batch), batch.attention_mask, position_ids)
        text_BT = batch.text_labels if stage.alpha else None
        image_BT = batch.image_labels if stage.beta else None
        return summed_losses(model, hidden_BTD, text_BT, image_BT, batch.attention_mask, position_ids, self.every_part)

    def _embed(self, batch: Batch) -> Tensor:
        model = self.model
        embeds_BTD = model.embed(batch.input_ids, batch.pixels)
        if self.every_look and batch.pixels is None:
            [features] = model.base.image_features(model.model, [model.base.blank(model.config).to(embeds_BTD)])
            embeds_BTD = embeds_BTD + 0 * features.sum().to(embeds_BTD.dtype)
        return embeds_BTD
