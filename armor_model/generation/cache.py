"""The preallocated key-value cache, and its masks: every row writes the same slot, padding lies on the left.

Legend: R rows, N some of them, H key-value heads, S slots, d head width, T new tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Rows = int | Tensor
"""Which rows: the first n, or a list of indices."""


class SlotCache:
    """Keys and values of a stack of decoder layers, (R, H, S, d) each; speaks transformers' `update`.

    Before each pass `window` says which rows and slots are written and from which slot on they are read; `static` says
    the same with the slot as a tensor, for a captured or compiled step.
    """

    def __init__(self, config: Any, layers: int, rows: int, slots: int, dtype: torch.dtype, device: torch.device):
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, slots, head_dim)
        # Zeros, not empty: a NaN left in memory survives a masked softmax as 0 * NaN. A tensor for each layer: of one
        # for all, a compiled step copied the whole at every layer's write.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.rows = rows
        self._window: tuple[Rows, int, int, int] = (rows, 0, slots, 0)
        self._static: tuple[list[tuple[Tensor, Tensor]], Tensor, int] | None = None

    @property
    def nbytes(self) -> int:
        return sum(store.nbytes for store in (*self.keys, *self.values))

    def first(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the first rows, layer by layer: views, for `static`."""
        return [(keys[:rows], values[:rows]) for keys, values in zip(self.keys, self.values, strict=True)]

    def window(self, rows: Rows, first: int, stop: int, read_from: int) -> None:
        """The next pass writes slots [first, stop) of `rows` and sees slots [read_from, stop)."""
        self._window, self._static = (rows, first, stop, read_from), None

    def static(self, views: list[tuple[Tensor, Tensor]], slot_1: Tensor, length: int) -> None:
        """The next pass writes one slot of the rows in `views` and sees slots [0, length): mask the later ones."""
        self._static = (views, slot_1, length)

    def update(self, keys_RHTd: Tensor, values_RHTd: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        out, new_kv = [], (keys_RHTd, values_RHTd)
        if self._static is not None:
            views, slot_1, length = self._static
            for store, new in zip(views[layer], new_kv, strict=True):
                store.index_copy_(2, slot_1, new)
                out.append(store[:, :, :length])
            return out[0], out[1]
        rows, first, stop, read_from = self._window
        for store, new in zip((self.keys[layer], self.values[layer]), new_kv, strict=True):
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
        for store in (*self.keys, *self.values):
            store[target, :, first:stop] = store[source, :, first:stop]

    def shift(self, rows: int, by: int, stop: int) -> None:
        """Move slots [by, stop) of the first rows to the beginning."""
        for store in (*self.keys, *self.values):  # one at a time: the copy through a temporary stays small
            store[:rows, :, : stop - by] = store[:rows, :, by:stop].clone()


def attention(model: Any, starts: list[int], first: int, stop: int, low: int) -> tuple[Tensor | None, Tensor]:
    """For queries in slots [first, stop) over keys in [low, stop): mask (N, 1, T, stop - low), or None where each
    cached slot may be seen, and position ids (N, T). Row i begins at slot starts[i]."""
    starts_N1 = torch.tensor(starts, device=model.device)[:, None]
    queries_T = torch.arange(first, stop, device=model.device)
    positions_NT = (queries_T[None] - starts_N1).clamp(min=0)
    if all(start == low for start in starts) and (stop - first == 1 or first == low):
        return None, positions_NT
    keys = torch.arange(low, stop, device=model.device)[None, None, None]
    queries = queries_T[None, None, :, None]
    begin = starts_N1[:, :, None, None]
    # a padding query may see itself: a softmax over nothing is NaN
    return as_mask(model, ((keys >= begin) & (keys <= queries)) | (keys == queries)), positions_NT


def as_mask(model: Any, seen: Tensor) -> Tensor:
    """A boolean mask in the form that the model's attention kernel wants."""
    if model.config.text_config._attn_implementation != "eager":
        return seen
    zeros = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
    return zeros.masked_fill(~seen, torch.finfo(model.dtype).min)
