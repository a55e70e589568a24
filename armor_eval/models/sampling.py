"""Sampling of image codes with a generator a row, as a logits processor for transformers: an image hangs on its seed.

Shape legend: B images, 2B rows (conditional, then unconditional), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from armor_eval.models.base import Decoding


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
        logits_BV = self._kept(logits_BV / self.temperature)
        uniform_BV = torch.stack(
            [torch.rand(logits_BV.shape[-1], generator=g, dtype=torch.float64) for g in self.generators]
        )
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-300, 1 - 1e-16)))
        return logits_BV + gumbel_BV.to(logits_BV)

    def _kept(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The logits with those outside of top-k and of top-p at minus infinity."""
        if self.top_k:
            least_B1 = logits_BV.topk(min(self.top_k, logits_BV.shape[-1])).values[:, -1:]
            logits_BV = logits_BV.masked_fill(logits_BV < least_B1, float("-inf"))
        if self.top_p < 1:
            falling_BV, order_BV = logits_BV.softmax(-1).sort(descending=True)
            before_BV = falling_BV.cumsum(-1) - falling_BV  # the likeliest one always stays
            beyond_BV = (before_BV >= self.top_p).scatter(-1, order_BV, before_BV >= self.top_p)
            logits_BV = logits_BV.masked_fill(beyond_BV, float("-inf"))
        return logits_BV
