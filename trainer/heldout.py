"""Held-out losses by type, segment and turn during training: what `--eval-data` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from trainer.batches import collate
from trainer.loader import Pool
from trainer.logs import LossMeter, loss_means
from trainer.objective import Objective
from trainer.stages import Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel


def heldout_losses(
    pools: Mapping[str, Pool], stage: Stage, limit: int, batch_size: int = 8
) -> Callable[[Any, int], dict[str, float]]:
    """What LoopOptions.evaluate wants: (model, step) -> `loss_means` over the first `limit` conversations of each type,
    under both heads whatever the stage weighs; and `score`, the stage's own loss with its sign turned, by which the
    best checkpoint is kept."""
    both = Stage("held out", (), 1, 1)

    def evaluate(model: ArmorModel, step: int) -> dict[str, float]:
        device, precision = next(model.parameters()).device, next(model.parameters()).dtype
        objective, meter = Objective(model, both), LossMeter()
        pad = model.config.text_config.pad_token_id or 0
        for pool in pools.values():
            for start in range(0, min(limit, len(pool)), batch_size):
                examples = [pool[i] for i in range(start, min(start + batch_size, limit, len(pool)))]
                batch = collate(examples, pad, model.config.imgbos_id).to(device)
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision != torch.float32):
                    meter.add(objective(batch), batch, 1.0)
        means = loss_means(meter.sums)
        weighed = stage.alpha * means.get("text", 0.0) + stage.beta * means.get("image", 0.0)
        return {**means, "score": -weighed}

    return evaluate
