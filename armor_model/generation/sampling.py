"""Choosing tokens: one uniform number a row and step, so that a row's choice does not depend on its batch.

Legend: N rows, C choices.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniforms(seed: int, count: int) -> list[float]:
    """The numbers in [0, 1) that a row with this seed draws, one per token, on any device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


def choose(logits_NC: Tensor, u_N: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Choices (N,): the most likely one at temperature 0, else the inverse of the cumulative distribution at `u_N`.

    Args:
        logits_NC: any float type; -inf never comes out.
        u_N: uniform numbers in [0, 1), one a row.
        temperature: divides the logits.
        top_k: keep the k most likely; 0 keeps all.
        top_p: of those, keep the smallest set that holds this probability.
    """
    if temperature == 0:
        return logits_NC.argmax(-1)
    scaled_NC = logits_NC.float() / temperature
    order_NC = None
    if 0 < top_k < scaled_NC.shape[-1]:
        scaled_NC, order_NC = scaled_NC.topk(top_k, dim=-1)
    elif top_p < 1:
        scaled_NC, order_NC = scaled_NC.sort(dim=-1, descending=True)
    p_NC = scaled_NC.softmax(-1)
    if top_p < 1:
        before_NC = p_NC.cumsum(-1) - p_NC
        p_NC = p_NC.masked_fill(before_NC >= top_p, 0)
    # in fp64: the running sum of 92 K small numbers must not lose the tail
    cumulative_NC = p_NC.double().cumsum(-1)
    target_N1 = u_N.to(cumulative_NC)[:, None] * cumulative_NC[:, -1:]
    index_N1 = torch.searchsorted(cumulative_NC, target_N1, right=True).clamp(max=p_NC.shape[-1] - 1)
    return (index_N1 if order_NC is None else order_NC.gather(-1, index_N1))[:, 0]
