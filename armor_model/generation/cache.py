"""The preallocated key-value cache: every row writes the same slot, padding lies on the left.

Legend: R rows, H key-value heads, S slots, d head width, T new tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Rows = int | Tensor
"""Which rows: the first n, or a list of indices."""


class SlotCache:
    """Keys and values of a stack of decoder layers, (layers, R, H, S, d) each; speaks transformers' `update`.

    Before each pass `window` says which rows and slots are written and from which slot on they are read.
    """

    def __init__(self, config: Any, layers: int, rows: int, slots: int, dtype: torch.dtype, device: torch.device):
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (layers, rows, config.num_key_value_heads, slots, head_dim)
        # zeros, not empty: a NaN left in memory survives a masked softmax as 0 * NaN
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self._window: tuple[Rows, int, int, int] = (rows, 0, slots, 0)

    def window(self, rows: Rows, first: int, stop: int, read_from: int) -> None:
        """The next pass writes slots [first, stop) of `rows` and sees slots [read_from, stop)."""
        self._window = (rows, first, stop, read_from)

    def update(self, keys_RHTd: Tensor, values_RHTd: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, first, stop, read_from = self._window
        out = []
        for store, new in ((self.keys[layer], keys_RHTd), (self.values[layer], values_RHTd)):
            if isinstance(rows, int):
                store[:rows, :, first:stop] = new
                out.append(store[:rows, :, read_from:stop])
            else:
                store[rows, :, first:stop] = new
                # a fresh batch needs none of the older slots: no copy
                out.append(new if read_from == first else store[rows, :, read_from:stop])
        return out[0], out[1]

    def move_row(self, source: int, target: int, first: int, stop: int) -> None:
        """Copy slots [first, stop) of one row over another."""
        self.keys[:, target, :, first:stop] = self.keys[:, source, :, first:stop]
        self.values[:, target, :, first:stop] = self.values[:, source, :, first:stop]
