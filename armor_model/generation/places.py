"""Where rows live while they are answered: the caches, and who comes into which place when.

Legend: R rows, S slots, D width, N new rows, T tokens.
"""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.generation.burst import COMPILE_PAYS, LENGTH_STEP, StaticStep, padded
from armor_model.generation.cache import SlotCache, attention
from armor_model.generation.rows import Request, Row
from armor_model.generation.sampling import uniforms

if TYPE_CHECKING:
    from armor_model.generation.settings import GenerationSettings
    from armor_model.modeling import ArmorForConditionalGeneration

REFILL = 4
"""New requests are let in when at least 1/REFILL of the places are free: a prefill for each would not pay."""


class Places:
    """The part of the engine that gives requests a row, prefills it, and takes it away. Arguments: see Engine."""

    def __init__(
        self,
        model: ArmorForConditionalGeneration,
        settings: GenerationSettings,
        stop_ids: list[int],
        unconditional: list[int],
        batch_size: int = 64,
        static: bool | None = None,
        compile: bool | str = "auto",
    ):
        self.model, self.settings, self.config = model, settings, model.config
        self.device, self.dtype = model.device, model.dtype
        if len(devices := sorted({str(p.device) for p in model.parameters()})) > 1:
            raise UserError(f"generation needs the whole model on one device; it is on {', '.join(devices)}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        self.stop_ids = set(stop_ids)
        self.unconditional = unconditional
        self.guided = settings.guidance != 1 and settings.images > 0
        self.batch_size = batch_size
        asked = compile not in (False, "auto")
        self.static = (asked or self.device.type == "cuda") if static is None else static
        if asked and not self.static:
            raise UserError("only static steps can be compiled")
        self.wants_compile = compile
        self.compile = ""
        """torch.compile's backend for the present requests; empty where steps run as they are."""
        self.single = self.config.heads == "single"
        self.per_picture = self.config.codes_per_image
        self.context = self.config.text_config.max_position_embeddings
        self.budget = min(settings.max_new_tokens + settings.images * (self.per_picture + 1), self.context)
        self.rows: list[Row] = []
        self.done: dict[int, Row] = {}
        self.waiting: deque[tuple[int, Request]] = deque()
        self.steps: dict[tuple[int, int, bool], StaticStep] = {}
        self.graph_pool: tuple[int, int] | None = None
        self.cache: SlotCache | None = None
        self.slot = self.slots = 0

    def _allocate(self, requests: int, longest: int) -> None:
        """Caches for all that follows; the adapter's, and the hidden states it reads, only when they can be needed.
        Twice the budget of slots where rows come and go: a row may begin anywhere in the first half."""
        self.places = min(self.batch_size, requests)
        self.prompt = max(longest + self.settings.force_image, len(self.unconditional) + 1 if self.guided else 0)
        slots = self.prompt + self.budget * (2 if requests > self.places else 1) + 1
        count = self.places * (2 if self.guided else 1)
        if self.static:
            count = padded(count)
            slots = -(-slots // LENGTH_STEP) * LENGTH_STEP
        self.slot = self.prompt
        compile = self._backend(requests)
        if compile != self.compile:
            self.compile, self.steps = compile, {}
        if self.cache is not None and self.cache.rows >= count and self.slots >= slots:
            return  # captured graphs hold on to these caches
        self.steps, self.slots = {}, slots
        text, kind = self.config.text_config, (self.dtype, self.device)
        self.cache = SlotCache(text, text.num_hidden_layers, count, self.slots, *kind)
        self.hidden_RSD = self.adapter_cache = None
        if self.settings.images or self.single:
            self.hidden_RSD = torch.zeros(count, self.slots, text.hidden_size, dtype=self.dtype, device=self.device)
            self.adapter_cache = SlotCache(text, self.config.num_adapter_layers, count, self.slots, *kind)

    def _backend(self, requests: int) -> str:
        steps, wish = -(-requests // self.places) * self.budget, self.wants_compile
        if wish == "auto":
            wish = self.static and self.device.type == "cuda" and steps >= COMPILE_PAYS
        return "inductor" if wish is True else wish or ""

    def _refill(self) -> None:
        """Let waiting requests in: all at once into an empty batch, later when enough places are free."""
        if not self.waiting:
            return
        live = sum(row.owner is None for row in self.rows)
        free = self.places - live
        if live and free * REFILL < self.places:
            return
        if not live:
            self.slot = self.prompt
        elif self.slot + self.budget >= self.slots:
            self._shift()
            if self.slot + self.budget >= self.slots:
                return
        self._admit([self.waiting.popleft() for _ in range(min(free, len(self.waiting)))])

    def _shift(self) -> None:
        """Slots run out: move everything to the left by what no live row uses any more."""
        by = min(min(row.start for row in self.rows), self.slot - self.prompt)
        if by <= 0:
            return
        for cache in (self.cache, self.adapter_cache):
            if cache is not None:
                cache.shift(len(self.rows), by, self.slot)
        if self.hidden_RSD is not None:
            kept = self.hidden_RSD[: len(self.rows), by : self.slot].clone()
            self.hidden_RSD[: len(self.rows), : self.slot - by] = kept
        self.slot -= by
        for row in self.rows:
            row.start -= by
            row.adapted -= by

    def _admit(self, batch: list[tuple[int, Request]]) -> None:
        """Prefill new rows so that their prompts end at the current slot, and let them say their first token. A forced
        <imgbos> is part of the prefill."""
        n, forced = len(self.rows), self.settings.force_image
        begin = [self.config.imgbos_id] if forced else []
        prompts = [Request(request.ids + begin, request.tiles, request.seed) for _, request in batch]
        for (index, _), request in zip(batch, prompts, strict=True):
            start = self.slot - len(request.ids)
            row = Row(index, start, uniforms(request.seed, self.budget), adapted=start)
            if forced:
                self._take_text(row, self.config.imgbos_id)
            self.rows.append(row)
        if forced and self.guided:
            without = Request(self.unconditional + begin, [], 0)
            prompts += [without] * len(batch)
            for owner in self.rows[n:]:
                self.rows.append(self._shadow(owner, len(without.ids)))
        fresh = list(range(n, len(self.rows)))
        self._prefill(fresh, prompts)
        self._say(fresh)
        self._settle()

    def _shadow(self, owner: Row, length: int) -> Row:
        start = self.slot - length
        owner.shadow = Row(-1, start, [], True, owner.token, start, codes=owner.codes, owner=owner)
        return owner.shadow

    def _prefill(self, indices: list[int], requests: list[Request]) -> None:
        T = max(len(r.ids) for r in requests)
        first = self.slot - T
        ids_NT = torch.tensor([[0] * (T - len(r.ids)) + r.ids for r in requests], device=self.device)
        embeds_NTD = self.model.embed(ids_NT, *self._pictures(requests))
        self.cache.window(self._select(indices), first, self.slot, first)
        mask, positions = attention(self.model, [self.rows[i].start for i in indices], first, self.slot, first)
        hidden_NTD = self.model.backbone(embeds_NTD, mask, positions, self.cache)
        # the newest hidden states of all rows; those of rows that were there before are not asked for again
        self.last_RD = hidden_NTD.new_zeros(len(self.rows), hidden_NTD.shape[-1])
        self.last_RD[indices[0] :] = hidden_NTD[:, -1]
        if self.hidden_RSD is not None:
            self.hidden_RSD[indices[0] : indices[-1] + 1, first : self.slot] = hidden_NTD

    def _pictures(self, requests: list[Request]) -> tuple[Tensor | None, Tensor | None]:
        """Tiles to look at, and which of them stand where: of requests that hold the same tensor (they ask about one
        picture) the vision tower sees it once."""
        shown = {id(tile): tile for request in requests for tile in request.tiles}
        if not shown:
            return None, None
        ends = list(accumulate(len(tile) for tile in shown.values()))
        places = {key: range(end - len(shown[key]), end) for key, end in zip(shown, ends, strict=True)}
        order = [place for request in requests for tile in request.tiles for place in places[id(tile)]]
        pixels = torch.cat(list(shown.values())).to(self.device)
        return pixels, torch.tensor(order, device=self.device) if len(order) > ends[-1] else None

    def _settle(self) -> None:
        """Give rows that begin a picture their shadow, take finished rows out."""
        if self.guided:
            begins = [row for row in self.rows if row.drawing and row.owner is None and row.shadow is None]
            owners = [row for row in begins if not row.finish]
            if owners:
                n = len(self.rows)
                self.rows += [self._shadow(owner, len(self.unconditional)) for owner in owners]
                without = Request(self.unconditional, [], 0)
                self._prefill(list(range(n, len(self.rows))), [without] * len(owners))
        for i in reversed(range(len(self.rows))):
            if self.rows[i].finish:
                self._remove(i)

    def _remove(self, i: int) -> None:
        row, last = self.rows[i], len(self.rows) - 1
        if row.owner is None:
            self.done[row.request] = row
        if i != last:
            moved = self.rows[i] = self.rows[last]
            for cache in (self.cache, self.adapter_cache):
                if cache is not None:
                    cache.move_row(last, i, moved.start, self.slot)
            if self.hidden_RSD is not None:
                self.hidden_RSD[i, moved.start : self.slot] = self.hidden_RSD[last, moved.start : self.slot]
        self.rows.pop()

    def _select(self, indices: list[int]) -> int | Tensor:
        """A row selection for the caches: a plain count when the rows are the first ones, which needs no copying."""
        if indices == list(range(len(indices))):
            return len(indices)
        return torch.tensor(indices, device=self.device)

    # ---- what the engine adds ------------------------------------------------------------------------------

    def _say(self, indices: list[int]) -> None:
        """Let rows say their next token from the newest hidden state."""
        raise NotImplementedError

    def _take_text(self, row: Row, token: int) -> None:
        """A row has said a token of the text head."""
        raise NotImplementedError
