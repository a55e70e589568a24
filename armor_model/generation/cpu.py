"""Kernels of decoding steps on a CPU, where torch's own are slow for few rows: matrix products through oneDNN, and
attention of one query a row over its own part of the KV cache.

Legend: N rows, Q query heads, H key-value heads, G query heads for each, T queries, S slots seen, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel

SMALLEST = 1 << 18
"""Elements of a weight from which on oneDNN pays."""
MOST_BYTES = 1 << 30
"""Of the second copy of the weights, in oneDNN's order. Larger models draw through oneDNN from the weights as they are,
which gains at 2 or 3 rows (.64 and .61) and little at more (.87 to 1.02)."""
ATTENTION = "armor_one_query"
"""The name of `attend` among transformers' attention kernels."""
FEWEST, NARROWEST = 1 << 18, 64
"""Elements of a layer's keys, and a head's width, from which on `attend` pays: with less all lies in the CPU's cache,
and 128 guided rows of armor-nano, 24 wide, take 1.5 times SDPA's time."""
FAR = 64
"""Slots between the first ones of two neighbouring rows from which on each is attended over on its own: the calls cost
about as much as reading so many slots of 12 heads."""


class Kernels:
    """What the steps of one model compute through while they are `used`; nothing but on a CPU in float32.

    Of the linear layers that a token or code passes, for as long as their weights do not change, the large ones go
    through oneDNN, in the order that it reads fastest: torch gives these products to MKL, which lays a weight out anew
    at every call that has more than one row. Measured on an AMD EPYC, one thread, time over MKL's for 768 x 2048: 2
    rows .75, 3 rows .51, 16 rows .70, 64 rows .83; a head of 8,194 x 768 at 16 rows .50. Weights of 96 x 96 are 1.3 to
    3 times as slow that way and stay as they are. Attention goes through `attend`.
    """

    def __init__(self, model: ArmorModel) -> None:
        self.products: list[Product] = []
        self.attending = []
        if model.device.type != "cpu" or model.dtype != torch.float32:
            return
        blocks = [m for part in (model.decoder.layers, model.adapter) for m in part.modules()]
        configs = {id(m.config): m.config for m in blocks if hasattr(m, "config")}.values()
        self.attending = [config for config in configs if config._attn_implementation == "sdpa"]
        if not _has_products():
            return
        heads = [model.visual_head, model.lm_head] if model.config.heads == "switching" else [model.single_head]
        # no subclasses: theirs may do more than a product
        linear = [m for m in (*blocks, *heads) if type(m) is nn.Linear and m.weight.numel() >= SMALLEST]
        packs = sum(m.weight.nbytes for m in linear) <= MOST_BYTES
        self.products = [Product(module, packs) for module in linear]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it the layers compute through these; not for training, as there are no gradients."""
        _register()
        try:
            for product in self.products:
                vars(product.module)["forward"] = product
            for config in self.attending:
                config._attn_implementation = ATTENTION
            yield
        finally:
            for product in self.products:
                vars(product.module).pop("forward", None)
            for config in self.attending:
                config._attn_implementation = "sdpa"


# ---- matrix products through oneDNN ----------------------------------------------------------------------


class Product:
    """A linear layer's product through oneDNN; its weight is laid out at the first call, if at all."""

    def __init__(self, module: nn.Linear, packs: bool) -> None:
        self.module, self.packs = module, packs

    @cached_property
    def weight(self) -> Tensor:
        weight = self.module.weight
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packs else weight
        return packed

    @property
    def laid_out(self) -> bool:
        """Whether there is a second copy of the weight."""
        return self.packs and "weight" in vars(self)

    def __call__(self, values: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(values, self.weight, self.module.bias, "none", [], "")
        return result


def _has_products() -> bool:
    """Whether this torch has oneDNN, and the two operators by which torch.compile uses it (they are not public)."""
    there = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return there and torch.backends.mkldnn.is_available()


# ---- attention of one query a row ------------------------------------------------------------------------


def _register() -> None:
    """Make `attend` known to transformers; its masks are those of SDPA."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attend(
    module: nn.Module,
    query_NQTd: Tensor,
    keys_NHSd: Tensor,
    values_NHSd: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention of one query a row over cached keys and values, an attention kernel of transformers': what SDPA gives,
    but for rounding (1e-6), from the slots that a row sees: rows that begin elsewhere (guidance's, beside those of a
    long prompt) are not padded. Whatever else is asked, and what is small, is SDPA's to answer. Returns (N, T, Q, d),
    and no weights.
    """
    (N, Q, T, d), (_, H, S, _) = query_NQTd.shape, keys_NHSd.shape
    asked = [options.get(name) for name in ("dropout", "position_bias", "softcap", "cache")]
    masks_slots = attention_mask is None or attention_mask.shape == (N, 1, 1, S)
    if T > 1 or any(asked) or not masks_slots or keys_NHSd.numel() < FEWEST or d < NARROWEST:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        answer: tuple[Tensor, None] = sdpa_attention_forward(
            module, query_NQTd, keys_NHSd, values_NHSd, attention_mask, scaling=scaling, **options
        )
        return answer
    query_NHGd = query_NQTd.reshape(N, H, Q // H, d)
    if attention_mask is None:
        out_NHGd = _attention(query_NHGd, keys_NHSd, values_NHSd, None, scaling)
    else:
        parts = [
            _attention(query_NHGd[rows], keys_NHSd[rows, :, first:], values_NHSd[rows, :, first:], mask, scaling)
            for rows, first, mask in _stretches(attention_mask)
        ]
        out_NHGd = torch.cat(parts)
    return out_NHGd.reshape(N, 1, Q, d), None


def _stretches(mask_N11S: Tensor) -> Iterator[tuple[slice, int, Tensor | None]]:
    """Neighbouring rows that begin at about the same slot: which, the first slot that any of them sees, and their mask
    from there on, None where it hides nothing."""
    first_N = mask_N11S[:, 0, 0].numpy().argmax(1)
    cuts = [0, *(np.flatnonzero(np.abs(np.diff(first_N)) >= FAR) + 1), len(first_N)]
    for begin, end in pairwise(cuts):
        first = int(first_N[begin:end].min())
        mask = mask_N11S[begin:end, ..., first:]
        yield slice(begin, end), first, None if mask.all() else mask


def _attention(
    query_NHGd: Tensor, keys_NHSd: Tensor, values_NHSd: Tensor, mask_N11S: Tensor | None, scaling: float | None
) -> Tensor:
    """Attention of G queries over each head's keys (N, H, G, d).

    For one query a head SDPA multiplies with MKL, which waits for memory: in one thread NumPy's loops take .63 to .77
    of its time over 148 slots of 12 heads at 4 to 32 rows. Two queries a head or more are a matrix product, SDPA's.
    """
    if query_NHGd.shape[2] > 1 or torch.get_num_threads() > 1:
        return F.scaled_dot_product_attention(query_NHGd, keys_NHSd, values_NHSd, attn_mask=mask_N11S, scale=scaling)
    scale = query_NHGd.shape[-1] ** -0.5 if scaling is None else scaling
    query_NHd = (query_NHGd[:, :, 0] * scale).numpy()
    scores_NHS = torch.from_numpy(np.einsum("nhsd,nhd->nhs", keys_NHSd.numpy(), query_NHd))
    if mask_N11S is not None:
        scores_NHS += torch.where(mask_N11S[:, 0], 0.0, float("-inf"))
    p_NHS = scores_NHS.softmax(-1).numpy()
    return torch.from_numpy(np.einsum("nhsd,nhs->nhd", values_NHSd.numpy(), p_NHS))[:, :, None]
