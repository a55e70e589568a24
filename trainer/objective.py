"""The loss of one batch under a stage, as a module: what DDP and FSDP wrap, so every trained part is used through one
forward. Beside it, what it learns on (frozen parts, LoRA) and its value on held-out data.

Shapes: B rows, T positions, D model width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from armor_model.base.errors import UserError
from armor_model.losses import IGNORE, Sums, summed_losses
from trainer.batches import Batch, Example, collate
from trainer.loader import Images, Pool, opened
from trainer.logs import HEADS, LossMeter, loss_means
from trainer.stages import ADAPTER, KINDS, TEXT, VISUAL, Stage, part_of

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel

log = logging.getLogger(__name__)


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


MATRICES = r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Of a decoder's blocks, all their matrices."""


def add_lora(model: ArmorModel, rank: int, seed: int = 0) -> None:
    """LoRA (`--lora RANK`) by peft: low-rank additions, zero at the start, beside every matrix of the decoder's blocks;
    their other halves are random, by `seed` the same in every process. The one way in which a stage here changes text
    beside its heads: the paper freezes the decoder. Raises UserError without peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("--lora needs the package peft", "pip install 'armor-eval[lora]'") from error
    target = rf"{re.escape(model.base.decoder_path)}\.{MATRICES}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target), model)


def merge_lora(model: nn.Module) -> None:
    """Add what was learned to the matrices, and take peft's layers out: what is saved is a plain checkpoint."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        parent, _, child = name.rpartition(".")
        layer.merge(safe_merge=True)
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


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


# ---- held-out data


def heldout_losses(
    pools: Mapping[str, Pool],
    stage: Stage,
    limit: int,
    batch_size: int = 8,
    bad_images: float = 0.001,
    images: Images | None = None,
) -> Callable[[ArmorModel, int], dict[str, float]]:
    """What `--eval-data` measures, as LoopOptions.evaluate wants it: (model, step) -> `loss_means` over the first
    `limit` conversations of each type, under both heads whatever the stage weighs; and `score`, the stage's own loss
    with its sign turned, by which the best checkpoint is kept.

    A conversation whose images are bad is left out for the one behind the last, as in training: asked for again, said,
    counted, and over the share `bad_images` of an evaluation the run stops. images: counts all evaluations.
    """
    both = Stage("held out", (), 1, 1)

    def evaluate(model: ArmorModel, step: int) -> dict[str, float]:
        device, precision = next(model.parameters()).device, next(model.parameters()).dtype
        objective, meter, seen = Objective(model, both), LossMeter(), Images()
        pad = model.config.text_config.pad_token_id or 0
        for pool in pools.values():
            readable = islice(_readable(pool, seen), limit)
            while examples := list(islice(readable, batch_size)):
                batch = collate(examples, pad, model.config.imgbos_id).to(device)
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision != torch.float32):
                    meter.add(objective(batch), batch, 1.0)
        for reason in seen.reasons:
            log.warning("an image of the held-out data is bad, another record takes its place: %s", reason)
        seen.check(bad_images, "held-out ")
        if images is not None:
            images.add(seen)
        means = loss_means(meter.sums)
        told = (f"{n} {value:.3f}" for n, value in means.items() if n in HEADS or n.rpartition("/")[2] in KINDS)
        log.info("held out at step %d: %s", step, ", ".join(told))
        weighed = stage.alpha * means.get("text", 0.0) + stage.beta * means.get("image", 0.0)
        return {**means, "score": -weighed}

    return evaluate


def _readable(pool: Pool, images: Images) -> Iterator[Example]:
    """A pool's conversations, in order, without those whose images are bad."""
    for i in range(len(pool)):
        example = opened(pool[i], images)
        if example is not None:
            yield example
