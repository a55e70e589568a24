"""The loss of one batch under a stage, as a module: what DDP and FSDP wrap, so every trained part is used through one
forward.

Shapes: B rows, T positions, N supervised positions, D model width, V original vocabulary, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.losses import IGNORE, head_losses, supervised
from trainer.stages import ADAPTER, TEXT, VISUAL, Stage, part_of


class Sums(NamedTuple):
    """Summed losses of one batch in nats; the caller divides by counts over all processes, not by its own."""

    text: Tensor
    image: Tensor
    text_each: Tensor | None
    """(N,) of every supervised position in reading order, detached, for the log; None where the head is not asked."""
    image_each: Tensor | None


def freeze(model: nn.Module, stage: Stage) -> list[str]:
    """Let exactly the stage's parts require gradients; returns the trained parameters' names in order.

    A part that no loss of the stage reaches stays frozen although the stage names it (Table 5's stage 1: beta = 0
    and an adapter): with several processes, DDP would wait for its gradient for ever.
    """
    single = model.config.heads == "single"
    trained = []
    for name, parameter in model.named_parameters():
        parts = part_of(name)
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
        one may have no picture to draw, or to look at, while another has: DDP and FSDP wait for all of them in each
        part. sharded: frozen parts have to be gathered together as well."""
        super().__init__()
        self.model = model
        self.stage = stage
        self.every_part = every_part
        seeing = [model.model.vision_tower, model.model.multi_modal_projector]
        self.every_look = every_part and (sharded or any(p.requires_grad for m in seeing for p in m.parameters()))

    def forward(self, batch: Batch) -> Sums:
        model = self.model
        hidden_BTD = model.backbone(self._embed(batch), batch.attention_mask, batch.position_ids)
        labels_text = batch.text_labels if self.stage.alpha else torch.full_like(batch.text_labels, IGNORE)
        labels_image = batch.image_labels if self.stage.beta else torch.full_like(batch.image_labels, IGNORE)
        if model.config.heads == "single":
            return self._single(hidden_BTD, batch, labels_text, labels_image)
        text, text_each = hidden_BTD.new_zeros(()), None
        if self.stage.alpha:
            normed_ND, labels_N = supervised(hidden_BTD, labels_text)
            normed_ND = model.model.language_model.norm(normed_ND)
            text, text_each = head_losses(normed_ND, labels_N, [model.lm_head.weight, model.imgbos_head.weight])
            if self.every_part:
                text = text + 0 * model.text_logits(hidden_BTD[:1, :1]).sum()
        image, image_each = hidden_BTD.new_zeros(()), None
        if self.stage.beta:
            visual_ND, labels_N, unasked = self._visual(hidden_BTD, batch, labels_image)
            image, image_each = head_losses(visual_ND, labels_N - model.config.imgend_id, [model.visual_head.weight])
            image = image + unasked
        return Sums(text, image, text_each, image_each)

    def _embed(self, batch: Batch) -> Tensor:
        embeds_BTD = self.model.embed(batch.input_ids, batch.pixels)
        if self.every_look and batch.pixels is None:
            height, width = self.model.config.vision_config.image_size
            features = self.model.model.get_image_features(
                embeds_BTD.new_zeros(1, 3, height, width),
                vision_feature_layer=self.model.config.vision_feature_layer,
                vision_feature_select_strategy=self.model.config.vision_feature_select_strategy,
                return_dict=True,
            ).pooler_output
            embeds_BTD = embeds_BTD + 0 * features.sum().to(embeds_BTD.dtype)
        return embeds_BTD

    def _visual(self, hidden_BTD: Tensor, batch: Batch, labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The visual branch's output (N, D) and labels (N,) at the supervised positions, and the branch at weight zero
        where `every_part` asks for it. Rows without any do not pass the adapter."""
        model = self.model
        none = hidden_BTD.new_zeros(())
        rows_B = (labels_BT != IGNORE).any(dim=1)
        if self.every_part and not rows_B.any():
            rows_B[0] = True
        if not rows_B.any():
            return hidden_BTD.new_zeros(0, hidden_BTD.shape[2]), labels_BT.new_zeros(0), none
        mask, positions = batch.attention_mask, batch.position_ids
        if not rows_B.all():
            hidden_BTD, labels_BT, mask = hidden_BTD[rows_B], labels_BT[rows_B], mask[rows_B]
            positions = None if positions is None else positions[rows_B]
        visual_BTD = model.visual_hidden(hidden_BTD, mask, positions)
        visual_ND, labels_N = supervised(visual_BTD, labels_BT)
        unasked = 0 * model.visual_logits(visual_BTD[:1, :1]).sum() if self.every_part else none
        return model.adapter_norm(visual_ND), labels_N, unasked

    def _single(self, hidden_BTD: Tensor, batch: Batch, text_BT: Tensor, image_BT: Tensor) -> Sums:
        """The ablation's Normal arm: every position through adapter and one head over V + 3 + K tokens."""
        either_BT = torch.where(text_BT != IGNORE, text_BT, image_BT)
        visual_ND, labels_N, unasked = self._visual(hidden_BTD, batch, either_BT)
        is_text_N = (text_BT != IGNORE)[either_BT != IGNORE]
        head = [self.model.single_head.weight]
        text, text_each = head_losses(visual_ND[is_text_N], labels_N[is_text_N], head)
        image, image_each = head_losses(visual_ND[~is_text_N], labels_N[~is_text_N], head)
        return Sums(
            text + unasked, image, text_each if self.stage.alpha else None, image_each if self.stage.beta else None
        )
