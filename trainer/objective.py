"""The loss of one batch under a stage, as a module: what DDP and FSDP wrap, so every trained part is used through one
forward.

Shapes: B rows, T positions, N supervised positions, D model width, V original vocabulary, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.batches import Batch
from trainer.losses import IGNORE, head_loss, supervised
from trainer.stages import Stage, part_of


class Sums(NamedTuple):
    """Summed losses of one batch in nats; the caller divides by counts over all processes, not by its own."""

    text: Tensor
    image: Tensor


def freeze(model: nn.Module, stage: Stage) -> list[str]:
    """Let exactly the stage's parts require gradients; returns the trained parameters' names in order."""
    single = model.config.heads == "single"
    trained = []
    for name, parameter in model.named_parameters():
        on = any(part in stage.trains for part in part_of(name))
        if single and name.startswith("lm_head"):
            on = False  # the single head took its place; a parameter without a gradient would stall DDP
        parameter.requires_grad_(on)
        if on:
            trained.append(name)
    return trained


def count_labels(batch: Batch) -> tuple[int, int]:
    """Positions that the text head and the visual head are asked about."""
    return int((batch.text_labels != IGNORE).sum()), int((batch.image_labels != IGNORE).sum())


class Objective(nn.Module):
    """Both summed losses on a model; one whose weight (alpha, beta) is 0 is not computed."""

    def __init__(self, model: nn.Module, stage: Stage, every_part: bool = False) -> None:
        """every_part: run every trained part in every forward, at weight zero where nobody asks. With several processes
        one may have no picture to draw while another has: DDP and FSDP wait for all of them in each part."""
        super().__init__()
        self.model = model
        self.stage = stage
        self.every_part = every_part

    def forward(self, batch: Batch) -> Sums:
        model = self.model
        hidden_BTD = model.backbone(
            model.embed(batch.input_ids, batch.pixels), batch.attention_mask, batch.position_ids
        )
        labels_text = batch.text_labels if self.stage.alpha else torch.full_like(batch.text_labels, IGNORE)
        labels_image = batch.image_labels if self.stage.beta else torch.full_like(batch.image_labels, IGNORE)
        if model.config.heads == "single":
            return self._single(hidden_BTD, batch, labels_text, labels_image)
        normed_ND, labels_N = supervised(hidden_BTD, labels_text)
        normed_ND = model.model.language_model.norm(normed_ND)
        text = head_loss(normed_ND, labels_N, [model.lm_head.weight, model.imgbos_head.weight])
        visual_ND, labels_N = self._visual(hidden_BTD, batch, labels_image)
        image = head_loss(visual_ND, labels_N - model.config.imgend_id, [model.visual_head.weight])
        if self.every_part:
            text, image = text + 0 * self._text_part(hidden_BTD), image + 0 * self._visual_part(hidden_BTD, batch)
        return Sums(text, image)

    def _text_part(self, hidden_BTD: Tensor) -> Tensor:
        return self.model.text_logits(hidden_BTD[:1, :1]).sum() if self.stage.alpha else hidden_BTD.new_zeros(())

    def _visual_part(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        if not self.stage.beta and self.model.config.heads == "switching":
            return hidden_BTD.new_zeros(())
        positions = None if batch.position_ids is None else batch.position_ids[:1]
        visual_BTD = self.model.visual_hidden(hidden_BTD[:1], batch.attention_mask[:1], positions)
        return self.model.visual_logits(visual_BTD[:, :1]).sum()

    def _visual(self, hidden_BTD: Tensor, batch: Batch, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The visual branch's output (N, D) at the supervised positions; rows without any do not pass the adapter."""
        model = self.model
        rows_B = (labels_BT != IGNORE).any(dim=1)
        if not rows_B.any():
            return hidden_BTD.new_zeros(0, hidden_BTD.shape[2]), labels_BT.new_zeros(0)
        mask, positions = batch.attention_mask, batch.position_ids
        if not rows_B.all():
            hidden_BTD, labels_BT, mask = hidden_BTD[rows_B], labels_BT[rows_B], mask[rows_B]
            positions = None if positions is None else positions[rows_B]
        visual_BTD = model.visual_hidden(hidden_BTD, mask, positions)
        visual_ND, labels_N = supervised(visual_BTD, labels_BT)
        return model.adapter_norm(visual_ND), labels_N

    def _single(self, hidden_BTD: Tensor, batch: Batch, text_BT: Tensor, image_BT: Tensor) -> Sums:
        """The ablation's Normal arm: every position through adapter and one head over V + 3 + K tokens."""
        either_BT = torch.where(text_BT != IGNORE, text_BT, image_BT)
        visual_ND, labels_N = self._visual(hidden_BTD, batch, either_BT)
        is_text_N = (text_BT != IGNORE)[either_BT != IGNORE]
        head = [self.model.single_head.weight]
        text = head_loss(visual_ND[is_text_N], labels_N[is_text_N], head)
        image = head_loss(visual_ND[~is_text_N], labels_N[~is_text_N], head)
        if self.every_part:
            text = text + 0 * self._visual_part(hidden_BTD, batch)
        return Sums(text, image)
