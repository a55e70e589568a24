"""Held-out losses by type during training: what `--eval-data` measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from armor_model.losses import IGNORE
from trainer.batches import collate
from trainer.loader import Pool
from trainer.objective import Objective
from trainer.stages import Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel


def heldout_losses(
    pools: Mapping[str, Pool], stage: Stage, limit: int, batch_size: int = 8
) -> Callable[[Any, int], dict[str, float]]:
    """What LoopOptions.evaluate wants: (model, step) -> `text`, `image`, `text/<type>`, `image/<type>`, means in nats a
    position over the first `limit` conversations of each type, under both heads whatever the stage weighs; and `score`,
    the stage's own loss with its sign turned, by which the best checkpoint is kept."""
    both = Stage("held out", (), 1, 1)

    def evaluate(model: ArmorModel, step: int) -> dict[str, float]:
        device, precision = next(model.parameters()).device, next(model.parameters()).dtype
        objective = Objective(model, both)
        sums: dict[str, Tensor] = {}
        pad = model.config.text_config.pad_token_id or 0
        for kind, pool in pools.items():
            for start in range(0, min(limit, len(pool)), batch_size):
                examples = [pool[i] for i in range(start, min(start + batch_size, limit, len(pool)))]
                batch = collate(examples, pad, model.config.imgbos_id).to(device)
                with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=precision != torch.float32):
                    found = objective(batch)
                heads = (("text", found.text, batch.text_labels), ("image", found.image, batch.image_labels))
                for head, loss, labels in heads:
                    count = int((labels != IGNORE).sum())
                    for name in (head, f"{head}/{kind}") if count else ():
                        before = sums.get(name, (0.0, 0))
                        sums[name] = (before[0] + float(loss), before[1] + count)
        means = {name: loss / count for name, (loss, count) in sums.items()}
        weighed = stage.alpha * means.get("text", 0.0) + stage.beta * means.get("image", 0.0)
        return {**means, "score": -weighed}

    return evaluate
