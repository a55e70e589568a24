"""What one log line averages over: losses by head and by type of conversation, speed, memory."""

from __future__ import annotations

import resource

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.batches import Batch
from trainer.losses import IGNORE
from trainer.objective import Sums
from trainer.stages import KINDS

HEADS = ("text", "image")


class Window:
    """Sums since the last log line."""

    def __init__(self) -> None:
        self.sums = torch.zeros(2, len(KINDS), 2, dtype=torch.float64)
        """Head x type x (summed loss in nats, positions)."""
        self.tokens, self.seconds, self.norm, self.share = 0, 0.0, 0.0, 0.0

    def add(self, sums: Sums, batch: Batch, share: float) -> None:
        """Count one micro-batch; `share` is the learning rate's."""
        self.share = share
        for head, (losses_N, labels_BT) in enumerate(
            ((sums.text_each, batch.text_labels), (sums.image_each, batch.image_labels))
        ):
            if losses_N is None or not len(losses_N):
                continue
            kinds_N = batch.kinds[labels_BT != IGNORE]
            places = torch.tensor([KINDS.index(name) for name in batch.kind_names], device=kinds_N.device)[kinds_N]
            for at, values_N in enumerate((losses_N.double(), torch.ones_like(losses_N, dtype=torch.float64))):
                self.sums[head, :, at] += torch.bincount(places, values_N, minlength=len(KINDS)).cpu()

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """`loss/text`, `loss/image`, `loss/<head>/<type>` (nats a position, over all processes), gradient norm,
        share of the peak learning rate, tokens a second, peak bytes of a process."""
        sums: Tensor = accelerator.reduce(self.sums.to(accelerator.device), "sum").cpu()
        values = {}
        for head, name in enumerate(HEADS):
            loss, count = sums[head].sum(dim=0).tolist()
            if count:
                values[f"loss/{name}"] = loss / count
            for kind, (loss, count) in zip(KINDS, sums[head].tolist(), strict=True):
                if count:
                    values[f"loss/{name}/{kind}"] = loss / count
        values["gradient_norm"] = self.norm
        values["lr_share"] = self.share
        values["tokens_per_second"] = self.tokens / max(self.seconds, 1e-9)
        values["memory_bytes"] = peak_memory(accelerator.device)
        return values


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: of the accelerator where there is one, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
