"""Sampling with a generator a row, as logits processors for transformers: an image and an answer hang on their seed.

Shape legend: B answers or images, 2B rows (conditional, then unconditional), V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from armor_eval.models.base import Decoding


def row_seed(name: str, base: int) -> int:
    """A seed for one item, equal wherever and whenever it is asked."""
    return int.from_bytes(hashlib.sha256(f"{base}:{name}".encode()).digest()[:4], "big")


class RowSampling:
    """Sampled text: [B, V] in; out [B, V] that is finite at the drawn token alone, to be argmax-ed.

    transformers' own sampling has one generator for the whole process: an answer would hang on its batch, and batches
    that begin alike draw alike.
    """

    def __init__(self, seeds: Sequence[int], decoding: Decoding) -> None:
        import torch

        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.temperature, self.top_k, self.top_p = decoding.temperature, decoding.top_k, decoding.top_p

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        import torch

        logits_BV = kept(scores.float() / self.temperature, self.top_k, self.top_p)
        upto_BV = logits_BV.softmax(-1).double().cumsum(-1)
        uniform_B1 = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in self.generators])
        drawn_B1 = torch.searchsorted(upto_BV, uniform_B1.to(upto_BV.device) * upto_BV[:, -1:], right=True)
        drawn_B1 = drawn_B1.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(logits_BV, float("-inf")).scatter(-1, drawn_B1, 0.0)


class GuidedSampling:
    """Classifier-free guidance, then sampling by Gumbel noise: [2B, V] in, [B, V] out, to be argmax-ed.

    Adding Gumbel noise and taking the maximum draws from the softmax exactly; transformers' own sampling has one
    generator for the whole process, so that an image would hang on its batch.
    """

    def __init__(self, seeds: Sequence[int], guidance: float, decoding: Decoding) -> None:
        import torch

        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.guidance, self.temperature = guidance, decoding.image_temperature
        self.top_k, self.top_p = decoding.image_top_k, decoding.image_top_p

    def __call__(self, input_ids: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
        import torch

        conditional_BV, unconditional_BV = scores.float().chunk(2)
        logits_BV = unconditional_BV + self.guidance * (conditional_BV - unconditional_BV)
        if self.temperature == 0:
            return logits_BV
        logits_BV = kept(logits_BV / self.temperature, self.top_k, self.top_p)
        uniform_BV = torch.stack(
            [torch.rand(logits_BV.shape[-1], generator=g, dtype=torch.float64) for g in self.generators]
        )
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-300, 1 - 1e-16)))
        return logits_BV + gumbel_BV.to(logits_BV)


def kept(logits_BV: torch.Tensor, top_k: int, top_p: float) -> torch.Tensor:
    """The logits with those outside of top-k (0: all are kept) and of top-p at minus infinity."""
    if top_k:
        least_B1 = logits_BV.topk(min(top_k, logits_BV.shape[-1])).values[:, -1:]
        logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
    if top_p < 1:
        falling_BV, order_BV = logits_BV.softmax(-1).sort(descending=True)
        before_BV = falling_BV.cumsum(-1) - falling_BV  # the likeliest one always stays
        beyond_BV = (before_BV >= top_p).scatter(-1, order_BV, before_BV >= top_p)
        logits_BV = logits_BV.masked_fill(beyond_BV, float("-inf"))
    return logits_BV
