"""Decoding state: requests, the batch's rows, and the KV cache slots that they fill.

All rows write the same slot in a step, and padding lies on the left: a row's tokens lie in slots [start, slot), its
positions count from its start.

Legend: R rows, N some of them, H key-value heads, S slots, d head width, T new tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from armor_model.base.optional import not_none
from armor_model.generation.prefixes import Prefix

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from armor_model.generation.api import GenerationSettings
    from armor_model.modeling import ArmorModel

Rows: TypeAlias = int | Tensor
"""Which rows: the first n, or a list of indices."""


@dataclass
class Request:
    """One prompt, as token ids with the pixels of its images."""

    ids: list[int]
    tiles: list[Tensor]
    """Each image, as the processor cuts it; one tensor may stand in several requests."""
    seed: int
    settings: GenerationSettings | None = None
    """Its own length, text sampling and right to draw; by default the engine's. How images are drawn is the engine's
    alone: rows that draw together share their steps."""
    shown: list[int] = field(default_factory=list)
    """Placeholders of each image among the tokens: wanted where prefixes are shared."""

    @property
    def in_force(self) -> GenerationSettings:
        """The settings, once the engine has filled in its own."""
        return not_none(self.settings)


@dataclass(frozen=True)
class Limits:
    """Special tokens, and what ends an answer or an image of it: the same for all rows."""

    settings: GenerationSettings
    stop_ids: frozenset[int]
    imgbos_id: int
    imgend_id: int
    first_code_id: int
    codes_per_image: int
    context: int
    """Most tokens of a prompt and its answer."""

    @property
    def new_tokens(self) -> int:
        """Most tokens of an answer, those of its images included."""
        s = self.settings
        return min(s.max_new_tokens + s.images * (self.codes_per_image + 1), self.context)


@dataclass
class Row:
    """A row of the batch: a request under way. An unconditional row only serves classifier-free guidance: it is fed
    the codes of the row that it belongs to, `conditional`."""

    request: int
    start: int
    """Its first slot."""
    limits: Limits
    uniforms: list[float]
    """One random number for each token to be sampled."""
    seed: int = 0
    drawing: bool = False
    token: int = -1
    """Sampled, but not yet fed."""
    adapted: int = 0
    """Slots before this one are in the adapter's cache."""
    tokens: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """Of the image being drawn; an unconditional row shares its conditional row's list."""
    images: list[list[int]] = field(default_factory=list)
    text_tokens: int = 0
    imgbos_masked: int = 0
    early_ends: int = 0
    adapter_steps: int = 0
    finish: str = ""
    conditional: Row | None = None
    unconditional: Row | None = None
    marks: np.ndarray | None = None
    """Of the prompt (prefixes.py); None where its prefix is not to be shared."""
    placed: Tensor | None = None
    """Position ids (T, 1 + A) of the prompt, where it holds images that the base places (BaseModel.place)."""

    @property
    def origin(self) -> int:
        """The slot whose position is 0, counted back from the end of the prompt: before `start` no token lies, but
        placed images take fewer positions than slots."""
        if self.placed is None:
            return self.start
        return self.start + len(self.placed) - 1 - int(self.placed[-1, 1])

    def must_write(self, slot: int) -> bool:
        """Whether another image may not begin: the answer has its number, or the context has no room for one."""
        room = self.limits.context - (slot - self.start)
        return len(self.images) >= self.limits.settings.images or room < self.limits.codes_per_image + 2

    def append_text(self, token: int, slot: int) -> None:
        """Take a token of the text head."""
        self.token = token
        self.tokens.append(token)
        self.text_tokens += 1
        if token in self.limits.stop_ids:
            self.finish = "stop"
        elif token == self.limits.imgbos_id:
            self.drawing, self.codes = True, []
        elif self.text_tokens >= self.limits.settings.max_new_tokens or slot - self.start >= self.limits.context:
            self.finish = "length"

    def append_codes(self, codes: list[int]) -> None:
        """Take codes of the visual head, for the unconditional row too; the image's last one may end the answer."""
        self.codes += codes
        self.tokens += [self.limits.first_code_id + code for code in codes]
        self.token = self.tokens[-1]
        if self.unconditional is not None:
            self.unconditional.token, self.unconditional.codes = self.token, self.codes
        if len(self.codes) == self.limits.codes_per_image and self._image_is_last:
            self.end_image()

    def end_early(self) -> None:
        """Take an <imgend> of the visual head: the image is filled up with its last code."""
        self.early_ends += 1
        self.codes += [self.codes[-1]] * (self.limits.codes_per_image - len(self.codes))
        self.end_image()

    def end_image(self) -> None:
        """<imgend>: the image is complete, the text head speaks next; the unconditional row is done."""
        if self.conditional is not None:
            self.finish = "unconditional"
            return
        self.images.append(self.codes)
        self.drawing, self.token = False, self.limits.imgend_id
        self.tokens.append(self.token)
        if self.unconditional is not None:
            self.unconditional.finish = "unconditional"
            self.unconditional = None
        if self._image_is_last:
            self.finish = "image" if self.limits.settings.stop_after_image else "length"

    @property
    def _image_is_last(self) -> bool:
        """Nothing can follow the image, so <imgend> need not be fed."""
        return self.limits.settings.stop_after_image or self.text_tokens >= self.limits.settings.max_new_tokens


def uniforms(seed: int, count: int) -> list[float]:
    """The numbers in [0, 1) that a row with this seed uses, one a token, on any device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64).tolist()


class KVCache:
    """Keys and values of a stack of decoder layers, (R, H, S, d) each; speaks transformers' `update`.

    Before each pass `at` says which rows and slots are written and from which slot on they are read; `at_static` says
    the same with the slot as a tensor, for a captured or compiled step.
    """

    def __init__(
        self, config: PretrainedConfig, layers: int, rows: int, slots: int, dtype: torch.dtype, device: torch.device
    ):
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (rows, config.num_key_value_heads, slots, head_dim)
        # Zeros, not empty: a NaN left in memory survives a masked softmax as 0 * NaN. A tensor for each layer: of one
        # for all, a compiled step copied the whole at every layer's write.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self._at: tuple[Rows, int, int, int] = (rows, 0, slots, 0)
        self._held: Tensor | None = None
        self._static: tuple[list[tuple[Tensor, Tensor]], Tensor, int] | None = None

    @property
    def stores(self) -> list[Tensor]:
        """Every layer's keys, then every layer's values."""
        return [*self.keys, *self.values]

    def first(self, rows: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the first rows, layer by layer: views, for `at_static`."""
        return [(keys[:rows], values[:rows]) for keys, values in zip(self.keys, self.values, strict=True)]

    def at(self, rows: Rows, first: int, stop: int, read_from: int, held_NT: Tensor | None = None) -> None:
        """The next pass writes slots [first, stop) of `rows`, but for those that `held_NT` names, and sees slots
        [read_from, stop)."""
        self._at, self._static = (rows, first, stop, read_from), None
        self._held = None if held_NT is None else held_NT[:, None, :, None]

    def at_static(self, views: list[tuple[Tensor, Tensor]], slot_1: Tensor, length: int) -> None:
        """The next pass writes one slot of the rows in `views` and sees slots [0, length): mask the later ones."""
        self._static = (views, slot_1, length)

    def update(
        self, keys_RHTd: Tensor, values_RHTd: Tensor, layer: int, *_: object, **__: object
    ) -> tuple[Tensor, Tensor]:
        """Write a layer's new keys and values; returns those that its queries see."""
        out, new_kv = [], (keys_RHTd, values_RHTd)
        if self._static is not None:
            views, slot_1, length = self._static
            for store, new in zip(views[layer], new_kv, strict=True):
                store.index_copy_(2, slot_1, new)
                out.append(store[:, :, :length])
            return out[0], out[1]
        rows, first, stop, read_from = self._at
        for store, new in zip((self.keys[layer], self.values[layer]), new_kv, strict=True):
            if self._held is not None:
                old = store[:rows] if isinstance(rows, int) else store[rows]
                new = torch.where(self._held, old[:, :, first:stop], new)
            if isinstance(rows, int):
                store[:rows, :, first:stop] = new
                out.append(store[:rows, :, read_from:stop])
            else:
                store[rows, :, first:stop] = new
                # a fresh batch needs none of the older slots: no copy
                out.append(new if read_from == first else store[rows, :, read_from:stop])
        return out[0], out[1]


class Batch:
    """The rows under way and what is kept for each of their slots: keys and values of decoder and adapter, and the
    hidden states that the adapter has yet to read; nothing for the adapter where no image can be drawn."""

    def __init__(self, model: ArmorModel, count: int, slots: int, with_adapter: bool):
        config, text = model.config, model.config.text_config
        kind = self.dtype, self.device = model.dtype, model.device
        self.rows: list[Row] = []
        self.slot, self.count, self.slots = 0, count, slots
        self.with_adapter = with_adapter
        self.cache = KVCache(text, text.num_hidden_layers, count, slots, *kind)
        self.adapter_cache = KVCache(text, config.num_adapter_layers if with_adapter else 0, count, slots, *kind)
        shape = (count if with_adapter else 0, slots, text.hidden_size)
        self.hidden_RSD = torch.zeros(shape, dtype=kind[0], device=kind[1])

    @property
    def slot_views(self) -> list[Tensor]:
        """All stores, as (R, S, ...)."""
        stores = [*self.cache.stores, *self.adapter_cache.stores]
        return [*(store.transpose(1, 2) for store in stores), *([self.hidden_RSD] if self.with_adapter else [])]

    def select(self, indices: list[int]) -> Rows:
        """A row selection for the caches: a plain count when the rows are the first ones, which needs no copying."""
        if indices == list(range(len(indices))):
            return len(indices)
        return torch.tensor(indices, device=self.device)

    def held(self, rows: list[Row], since: list[int], first: int) -> Tensor | None:
        """Which of the slots from `first` to the current one a pass over all of them must leave as they are (N, T):
        those before each row's `since`; None where no row has any."""
        if all(begin <= max(first, row.start) for row, begin in zip(rows, since, strict=True)):
            return None
        slots_T = torch.arange(first, self.slot, device=self.device)
        return slots_T < torch.tensor(since, device=self.device)[:, None]

    def write_hidden(self, rows: Rows, first: int, hidden_NTD: Tensor, held_NT: Tensor | None) -> None:
        """Keep the hidden states of slots from `first` on, but for those that are held."""
        index = slice(rows) if isinstance(rows, int) else rows
        if held_NT is not None:
            old_NTD = self.hidden_RSD[index, first : self.slot]
            hidden_NTD = torch.where(held_NT[..., None], old_NTD, hidden_NTD)
        self.hidden_RSD[index, first : self.slot] = hidden_NTD

    def prefix(self, i: int) -> Prefix:
        """What is kept of a row that is finished: a copy."""
        row = self.rows[i]
        assert row.marks is not None
        fed = np.concatenate([row.marks, row.tokens])[: self.slot - row.start]
        stores = [view[i, row.start : self.slot].clone() for view in self.slot_views]
        return Prefix(fed.astype(np.int64), stores, row.adapted - row.start)

    def begin_as(self, i: int, source: Prefix | int, length: int) -> int:
        """Give a row the first `length` tokens of a finished one, or of another row; returns `length`."""
        row = self.rows[i]
        if isinstance(source, int):
            other = self.rows[source]
            stores = [view[source, other.start : other.start + length] for view in self.slot_views]
            adapted = other.adapted - other.start
        else:
            stores, adapted = [store[:length] for store in source.stores], source.adapted
        for view, store in zip(self.slot_views, stores, strict=False):  # a prefix may have the adapter's too
            view[i, row.start : row.start + length] = store
        row.adapted = row.start + min(length, adapted)
        return length

    def remove(self, i: int) -> None:
        """Take a row out; the last one moves to its index."""
        last = len(self.rows) - 1
        if i != last:
            moved = self.rows[i] = self.rows[last]
            for view in self.slot_views:
                view[i, moved.start : self.slot] = view[last, moved.start : self.slot]
        self.rows.pop()

    def shift(self, first: int) -> None:
        """Slots run out: move everything to the left by what no row uses any more, `first` at the most left of it."""
        by = min(min(row.start for row in self.rows), self.slot - first)
        if by <= 0:
            return
        n = len(self.rows)
        for view in self.slot_views:  # one at a time: the copy through a temporary stays small
            view[:n, : self.slot - by] = view[:n, by : self.slot].clone()
        self.slot -= by
        for row in self.rows:
            row.start -= by
            row.adapted -= by

    def grow(self, slots: int) -> None:
        """More slots behind those in use; tensors taken of the caches before hold the old ones."""

        def longer(store: Tensor, axis: int) -> Tensor:
            shape = list(store.shape)
            shape[axis] = slots
            new = store.new_zeros(shape)
            new.narrow(axis, 0, self.slot).copy_(store.narrow(axis, 0, self.slot))
            return new

        for cache in (self.cache, self.adapter_cache):  # a store at a time: the old ones go as the new ones come
            for stores in (cache.keys, cache.values):
                for layer, store in enumerate(stores):
                    stores[layer] = longer(store, 2)
        self.hidden_RSD = longer(self.hidden_RSD, 1)
        self.slots = slots

    def uniforms(self, rows: list[Row], steps: int) -> Tensor:
        """The random numbers (N, steps) that rows use for their next tokens."""
        numbers = [row.uniforms[len(row.tokens) : len(row.tokens) + steps] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)


def positions(model: ArmorModel, rows: list[Row], first: int, stop: int) -> Tensor:
    """Position ids (N, T) of slots [first, stop), or (N, T, 1 + A) where placed images lie among them."""
    origins_N1 = torch.tensor([row.origin for row in rows], device=model.device)[:, None]
    positions_NT = (torch.arange(first, stop, device=model.device)[None] - origins_N1).clamp(min=0)
    placed = [(i, row, row.placed) for i, row in enumerate(rows) if row.placed is not None]
    placed = [(i, row, each) for i, row, each in placed if row.start + len(each) > first]
    if not placed:
        return positions_NT
    positions_NTA = positions_NT[..., None].repeat(1, 1, placed[0][2].shape[-1])
    for i, row, each_TA in placed:
        end = min(stop, row.start + len(each_TA))
        shown_TA = each_TA[max(first - row.start, 0) : end - row.start]
        positions_NTA[i, end - first - len(shown_TA) : end - first] = shown_TA.to(model.device)
    return positions_NTA


def attention(model: ArmorModel, rows: list[Row], first: int, stop: int, low: int) -> tuple[Tensor | None, Tensor]:
    """For queries of rows in slots [first, stop) over keys in [low, stop): mask (N, 1, T, stop - low), or None where
    each cached slot may be seen, and position ids."""
    starts = [row.start for row in rows]
    starts_N1 = torch.tensor(starts, device=model.device)[:, None]
    queries_T = torch.arange(first, stop, device=model.device)
    positions_NT = positions(model, rows, first, stop)
    if all(start == low for start in starts) and (stop - first == 1 or first == low):
        return None, positions_NT
    keys = torch.arange(low, stop, device=model.device)[None, None, None]
    queries = queries_T[None, None, :, None]
    begin = starts_N1[:, :, None, None]
    # a padding query may see itself: a softmax over nothing is NaN
    return as_mask(model, ((keys >= begin) & (keys <= queries)) | (keys == queries)), positions_NT


def as_mask(model: ArmorModel, seen: Tensor) -> Tensor:
    """A boolean mask in the form that the model's attention kernel wants."""
    if model.config.text_config._attn_implementation != "eager":
        return seen
    zeros = torch.zeros(seen.shape, dtype=model.dtype, device=model.device)
    return zeros.masked_fill(~seen, torch.finfo(model.dtype).min)
