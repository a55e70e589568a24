"""Matrix products of drawing on a CPU: large float32 weights go through oneDNN, in the order that it reads fastest.

torch gives these products to MKL, which lays a weight out anew at every call that has more than one row. Measured on
an AMD EPYC, one thread, time over MKL's for 768 x 2048: 2 rows .75, 3 rows .51, 16 rows .70, 64 rows .83; a head of
8,194 x 768 at 16 rows .50. Weights of 96 x 96 are 1.3 to 3 times as slow that way and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel

SMALLEST = 1 << 18
"""Elements of a weight from which on oneDNN pays."""
MOST_BYTES = 1 << 30
"""Of the second copy of the weights, in oneDNN's order. Larger models draw through oneDNN from the weights as they are,
which gains at 2 or 3 rows (.64 and .61) and little at more (.87 to 1.02)."""


class Products:
    """The linear layers that a code passes, for as long as their weights do not change."""

    def __init__(self, model: ArmorModel) -> None:
        self.weights: list[tuple[nn.Linear, Tensor]] = []
        if model.device.type != "cpu" or model.dtype != torch.float32 or not _has_products():
            return
        head = model.visual_head if model.config.heads == "switching" else model.single_head
        modules = [m for part in (model.decoder.layers, model.adapter, head) for m in part.modules()]
        # no subclasses: theirs may do more than a product
        linear = [m for m in modules if type(m) is nn.Linear and m.weight.numel() >= SMALLEST]
        packs = sum(m.weight.nbytes for m in linear) <= MOST_BYTES
        pack = torch.ops.mkldnn._reorder_linear_weight
        self.weights = [(m, pack(m.weight) if packs else m.weight) for m in linear]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within it the layers compute through oneDNN; not for training, as it has no gradients."""
        try:
            for module, weight in self.weights:
                vars(module)["forward"] = partial(_product, weight, module.bias)
            yield
        finally:
            for module, _ in self.weights:
                vars(module).pop("forward", None)


def _has_products() -> bool:
    """Whether this torch has oneDNN, and the two operators by which torch.compile uses it (they are not public)."""
    there = all(hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
    return there and torch.backends.mkldnn.is_available()


def _product(weight: Tensor, bias: Tensor | None, values: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
    return result
