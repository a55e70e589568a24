"""The generation engine: continuous batching, rows in text and in image mode advancing together, a token a step
(steps.py).

Only the active head of a row is computed. The adapter needs keys and values of every earlier position: hidden states
before the final norm are kept, and when a row emits <imgbos> the adapter catches up on the slots it skipped, for that
row only. Finished rows make room for waiting requests.

Legend: R rows, S slots, D width, n live rows, N some of them, T tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.generation.prefixes import PrefixCache, images_within, marks_of
from armor_model.generation.state import Batch, Limits, Request, Row, attention, uniforms
from armor_model.generation.static import COMPILE_PAYS, LENGTH_STEP, padded
from armor_model.generation.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from armor_model.generation.api import GenerationSettings
    from armor_model.modeling import ArmorModel

REFILL = 4
"""New requests are let in when at least 1/REFILL of the batch is free: a prefill for each would not pay."""
ANSWER_SLOTS = 512
"""Slots that an answer's text has at first; the caches grow where answers are longer. Most are short, and 4,096 tokens
of room for 16 rows of an 8B model are 9 GB."""
OF_THE_ENGINE = ("image_temperature", "image_top_k", "image_top_p", "guidance", "parallel_draw", "free_imgend")
"""Settings that all rows share."""


class Engine(Steps):
    """Runs requests through a model; results are finished Rows, in the order of the requests.

    Args:
        model: in evaluation mode.
        settings: shared by all requests.
        stop_ids: tokens that end an answer.
        unconditional: the prompt that guidance compares with.
        batch_size: most requests under way at once.
        static: run uniform stretches on fixed buffers, captured as CUDA graphs; by default on CUDA, or to compile.
        compile: fuse the static steps with torch.compile. `auto` does so on CUDA where the requests may take
            COMPILE_PAYS steps or more; a backend of torch.compile by name takes the place of inductor.
        prefixes: of this model: conversations that go on, or begin alike, compute what they share once.
    """

    def __init__(
        self,
        model: ArmorModel,
        settings: GenerationSettings,
        stop_ids: list[int],
        unconditional: list[int],
        batch_size: int = 64,
        static: bool | None = None,
        compile: bool | str = "auto",
        prefixes: PrefixCache | None = None,
    ):
        super().__init__()
        self.model, self.settings, self.config, self.device = model, settings, model.config, model.device
        if len(devices := sorted({str(p.device) for p in model.parameters()})) > 1:
            raise UserError(f"generation needs the whole model on one device; it is on {', '.join(devices)}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, not {batch_size}")
        asked = compile not in (False, "auto")
        self.static = (asked or self.device.type == "cuda") if static is None else static
        if asked and not self.static:
            raise UserError("only static steps can be compiled")
        self.unconditional, self.batch_size, self.wants_compile = unconditional, batch_size, compile
        self.prefixes = prefixes
        self.compile = ""
        self.single = self.config.heads == "single"
        c, ends, context = self.config, frozenset(stop_ids), self.config.text_config.max_position_embeddings
        self.limits = Limits(settings, ends, c.imgbos_id, c.imgend_id, c.first_code_id, c.codes_per_image, context)
        self.done: dict[int, Row] = {}
        self.waiting: deque[tuple[int, Request]] = deque()
        self.batch: Batch | None = None

    def run(self, requests: list[Request]) -> list[Row]:
        """Answer all requests."""
        groups = iter([requests] if requests else [])
        done = dict(self.feed(lambda _: next(groups, None)))
        return [done[i] for i in range(len(requests))]

    @torch.inference_mode()
    def feed(
        self, source: Callable[[bool], list[Request] | None], watch: Callable[[list[Row]], None] | None = None
    ) -> Iterator[tuple[int, Row]]:
        """Answer requests that are still coming; each is given, with its number, as soon as it is finished.

        `source(wait)` gives the next ones, an empty list where none is ready and `wait` is false, None when no more
        will come. They are numbered in the order in which they come. `watch(rows)` sees the rows under way after each
        step or stretch of steps; one that it gives a `finish` ends there.
        """
        self.done, self.more, self.arrived, self.prompt = {}, True, 0, -1
        self.waiting.clear()
        while self._pull(source, wait=True):
            batch = self._allocate()
            while batch.rows or self._fits():
                self._refill(batch)
                if not self._run_uniform(batch):
                    self._step(batch)
                if watch is not None:
                    watch([row for row in batch.rows if row.conditional is None])
                    self._settle(batch)
                while self.done:
                    yield self.done.popitem()
                self._pull(source, wait=not batch.rows)

    def _pull(self, source: Callable[[bool], list[Request] | None], wait: bool) -> bool:
        """Take in what has come, up to a batch that waits; whether anything waits. Longest first: a later prompt then
        fits in front of the current slot."""
        while self.more and len(self.waiting) <= self.batch_size:
            group = source(wait and not self.waiting)
            if group is None:
                self.more = False
            elif not group:
                break
            for request in group or ():
                request = self._with_settings(request)
                forced = self.limits.codes_per_image + 2 if request.in_force.force_image else 1
                if len(request.ids) + forced > self.limits.context:
                    held = self.limits.context
                    raise UserError(f"the prompt has {len(request.ids)} tokens; this model's context holds {held}")
                self.waiting.append((self.arrived, request))
                self.arrived += 1
            self.waiting = deque(sorted(self.waiting, key=lambda each: -_slots(each[1])))
        return bool(self.waiting)

    def _with_settings(self, request: Request) -> Request:
        """The request with the settings that hold for it. UserError where they ask for more than the engine's allow."""
        s, whole = request.settings or self.settings, self.settings
        if s is not whole:
            at_most = replace(self.limits, settings=s).new_tokens <= self.limits.new_tokens and s.images <= whole.images
            if not at_most or any(getattr(s, name) != getattr(whole, name) for name in OF_THE_ENGINE):
                raise UserError(f"a request can change neither {', '.join(OF_THE_ENGINE)}, nor go beyond the engine's")
        return replace(request, settings=s)

    def _fits(self) -> bool:
        """Whether something waits that the caches were laid out for."""
        return bool(self.waiting) and _slots(self.waiting[0][1]) <= self.prompt

    # ---- continuous batching -------------------------------------------------------------------------------

    def _allocate(self) -> Batch:
        """Caches for what waits and follows; the adapter's, and the hidden states it reads, only when they can be
        needed. Twice an answer's slots where rows come and go: a row may begin anywhere in the first half."""
        requests = len(self.waiting)
        refills = self.more or requests > self.batch_size
        self.running = self.batch_size if refills else requests
        guided, longest = self.settings.guided, _slots(self.waiting[0][1])
        self.prompt = max(longest, len(self.unconditional) + 1 if guided else 0)
        answer, halves = self.limits.new_tokens, 2 if refills else 1
        self.most_slots = self.prompt + answer * halves + 1
        at_first = min(answer, max(ANSWER_SLOTS, self.limits.codes_per_image + 2 if self.settings.images else 0))
        slots = self.prompt + at_first * halves + 1
        count = self.running * (2 if guided else 1)
        if self.static:
            count = padded(count)
            slots = -(-slots // LENGTH_STEP) * LENGTH_STEP
        compile = self._backend(requests)
        if compile != self.compile:
            self.compile, self.steps = compile, {}
        if self.batch is None or self.batch.count < count or self.batch.slots < slots:
            self.steps = {}  # captured graphs hold on to their batch's caches
            self.batch = Batch(self.model, count, slots, with_adapter=bool(self.settings.images) or self.single)
        self.batch.rows, self.batch.slot = [], self.prompt
        return self.batch

    def _make_room(self, batch: Batch, steps: int) -> None:
        """See to it that so many slots are free: what no row uses any more goes, else the caches grow."""
        if batch.slot + steps < batch.slots:
            return
        batch.shift(self.prompt)
        if batch.slot + steps + batch.slots // 4 >= batch.slots:  # or every few steps would shift
            self.steps = {}
            batch.grow(-(-max(2 * batch.slots, batch.slot + steps + 1) // LENGTH_STEP) * LENGTH_STEP)

    def _backend(self, requests: int) -> str:
        steps, wish = -(-requests // self.running) * self.limits.new_tokens, self.wants_compile
        if wish == "auto":
            wish = self.static and self.device.type == "cuda" and steps >= COMPILE_PAYS
        return "inductor" if wish is True else wish or ""

    def _refill(self, batch: Batch) -> None:
        """Let waiting requests in: all at once into an empty batch, later when enough of it is free."""
        live = sum(row.conditional is None for row in batch.rows)
        free = self.running - live
        if live and free * REFILL < self.running:
            return
        if not self._fits():
            return
        if not live:
            batch.slot = self.prompt
        elif batch.slot + self.limits.new_tokens >= self.most_slots:
            batch.shift(self.prompt)
            if batch.slot + self.limits.new_tokens >= self.most_slots:
                return
        self._admit(batch, [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))])

    def _admit(self, batch: Batch, new: list[tuple[int, Request]]) -> None:
        """Prefill new rows so that their prompts end at the current slot, and sample their first token. A forced
        <imgbos> is part of the prefill."""
        n, imgbos = len(batch.rows), self.config.imgbos_id
        prompts = [replace(request, ids=request.ids + [imgbos] * request.in_force.force_image) for _, request in new]
        for (number, asked), request in zip(new, prompts, strict=True):
            start, limits = batch.slot - len(request.ids), replace(self.limits, settings=request.in_force)
            numbers = uniforms(request.seed, limits.new_tokens)
            row = Row(number, start, limits, numbers, request.seed, adapted=start, placed=self._placed(request))
            if self.prefixes is not None:
                row.marks = marks_of(asked, self.config.image_token_id)
            if request.in_force.force_image:
                row.append_text(imgbos, batch.slot)
            batch.rows.append(row)
        if self.settings.guided and (forced := [row for row in batch.rows[n:] if row.drawing]):
            prompts += self._add_unconditional(batch, forced, [imgbos])
        fresh = list(range(n, len(batch.rows)))
        stores = len(batch.slot_views)
        shared = {} if self.prefixes is None else self.prefixes.shared(batch.rows, n, batch.slot, stores)
        width = self.config.text_config.hidden_size
        last_RD = torch.zeros(len(batch.rows), width, dtype=batch.dtype, device=self.device)
        for indices in ([i for i in fresh if i not in shared], list(shared)):
            if indices:
                known = [batch.begin_as(i, *shared[i]) if i in shared else 0 for i in indices]
                last_RD[indices] = self._prefill(batch, indices, [prompts[i - n] for i in indices], known)
        self._sample(batch, fresh, last_RD)
        self._settle(batch)

    def _add_unconditional(self, batch: Batch, rows: list[Row], begin: list[int]) -> list[Request]:
        """An unconditional row for each of these; their prompts, to be prefilled."""
        prompt = Request(self.unconditional + begin, [], 0)
        start = batch.slot - len(prompt.ids)
        for row in rows:
            row.unconditional = Row(
                -1, start, self.limits, [], 0, True, row.token, start, codes=row.codes, conditional=row
            )
            batch.rows.append(row.unconditional)
        return [prompt] * len(rows)

    def _prefill(
        self, batch: Batch, indices: list[int], requests: list[Request], known: list[int] | None = None
    ) -> Tensor:
        """The newest hidden states (N, D) of these rows. `known`: how many tokens of each prompt its row holds
        already."""
        known = known or [0] * len(requests)
        rows, new = [batch.rows[i] for i in indices], [r.ids[skip:] for r, skip in zip(requests, known, strict=True)]
        T = max(map(len, new))
        first = batch.slot - T
        low = min([first, *(row.start for row in rows)])
        token = self.config.image_token_id
        ids_NT = torch.tensor([[0] * (T - len(ids)) + ids for ids in new], device=self.device)
        seen = [r.tiles[images_within(r, token, skip) :] for r, skip in zip(requests, known, strict=True)]
        embeds_NTD = self.model.embed(ids_NT, [image for images in seen for image in images])
        chosen, held_NT = batch.select(indices), batch.held(rows, [batch.slot - len(ids) for ids in new], first)
        batch.cache.at(chosen, first, batch.slot, low, held_NT)
        mask, positions = attention(self.model, rows, first, batch.slot, low)
        hidden_NTD = self.model.backbone(embeds_NTD, mask, positions, batch.cache)
        if batch.with_adapter:
            batch.write_hidden(chosen, first, hidden_NTD, held_NT)
        return hidden_NTD[:, -1]

    def _placed(self, request: Request) -> Tensor | None:
        placed_1TA = self.model.place(torch.tensor([request.ids]), request.tiles)
        return None if placed_1TA is None else placed_1TA[0]

    def _settle(self, batch: Batch) -> None:
        """Give rows that begin an image their unconditional row, take finished rows out."""
        if self.settings.guided:
            begin = [row for row in batch.rows if row.drawing and not row.conditional and not row.unconditional]
            begin = [row for row in begin if not row.finish]
            if begin:
                n = len(batch.rows)
                prompts = self._add_unconditional(batch, begin, [])
                self._prefill(batch, list(range(n, len(batch.rows))), prompts)
        for row in batch.rows:
            if row.finish and row.unconditional is not None:  # ended from outside, in the middle of an image
                row.unconditional.finish = "unconditional"
        for i in reversed(range(len(batch.rows))):
            if (row := batch.rows[i]).finish:
                if row.conditional is None:
                    self.done[row.request] = row
                if self.prefixes is not None and row.marks is not None:
                    self.prefixes.keep(batch.prefix(i))
                batch.remove(i)

    def _adapt(self, batch: Batch, indices: list[int]) -> dict[int, Tensor]:
        """The adapter's newest output (D,) for some rows, by row index; rows that lag catch up in one pass."""
        newest = batch.slot - 1
        out: dict[int, Tensor] = {}
        steady = [i for i in indices if batch.rows[i].adapted == newest]
        behind = [i for i in indices if batch.rows[i].adapted < newest]
        for group in (steady, behind):
            if not group:
                continue
            rows = [batch.rows[i] for i in group]
            first, low = min(row.adapted for row in rows), min(row.start for row in rows)
            chosen = batch.select(group)
            hidden_NSD = batch.hidden_RSD[:chosen] if isinstance(chosen, int) else batch.hidden_RSD[chosen]
            # of an image drawn before there are no hidden states: its keys and values stay, whoever else lags
            held_NT = batch.held(rows, [row.adapted for row in rows], first)
            batch.adapter_cache.at(chosen, first, batch.slot, low, held_NT)
            mask, positions = attention(self.model, rows, first, batch.slot, low)
            hidden_NTD = hidden_NSD[:, first : batch.slot]
            visual_NTD = self.model.visual_hidden(hidden_NTD, mask, positions, batch.adapter_cache)
            out.update(zip(group, visual_NTD[:, -1], strict=True))
            for row in rows:
                row.adapter_steps += batch.slot - row.adapted
                row.adapted = batch.slot
        return out


def _slots(request: Request) -> int:
    """Slots of a prompt and of the <imgbos> that is forced behind it."""
    return len(request.ids) + bool(request.settings and request.in_force.force_image)
