"""Held-out losses by type, segment and turn during training: what `--eval-data` measures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from trainer.batches import Example, collate
from trainer.loader import Images, Pool, opened
from trainer.logs import LossMeter, loss_means
from trainer.objective import Objective
from trainer.stages import Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel


log = logging.getLogger(__name__)


def heldout_losses(
    pools: Mapping[str, Pool],
    stage: Stage,
    limit: int,
    batch_size: int = 8,
    bad_images: float = 0.001,
    images: Images | None = None,
) -> Callable[[Any, int], dict[str, float]]:
    """What LoopOptions.evaluate wants: (model, step) -> `loss_means` over the first `limit` conversations of each type,
    under both heads whatever the stage weighs; and `score`, the stage's own loss with its sign turned, by which the
    best checkpoint is kept.

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
        weighed = stage.alpha * means.get("text", 0.0) + stage.beta * means.get("image", 0.0)
        return {**means, "score": -weighed}

    return evaluate


def _readable(pool: Pool, images: Images) -> Iterator[Example]:
    """A pool's conversations, in order, without those whose images are bad."""
    for i in range(len(pool)):
        example = opened(pool[i], images)
        if example is not None:
            yield example
