"""The generation engine: continuous batching, rows in text and in image mode advancing together, a token a step.

Only the active head of a row is computed. The adapter needs keys and values of every earlier position: hidden states
before the final norm are kept, and when a row emits <imgbos> the adapter catches up on the slots it skipped, for that
row only. Finished rows make room for waiting requests. Stretches in which all rows draw (on a GPU: or write) run
without asking the host (static.py).

Legend: R rows, S slots, D width, n live rows, N some of them, T tokens, V text choices, K codes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.generation.parallel import draw_parallel
from armor_model.generation.prefixes import PrefixCache, common, images_within, marks_of
from armor_model.generation.state import Batch, Limits, Request, Row, attention, uniforms
from armor_model.generation.static import (
    COMPILE_PAYS,
    LENGTH_STEP,
    StaticStep,
    choose,
    draw_sliced,
    guide,
    padded,
    roles,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from armor_model.generation.api import GenerationSettings
    from armor_model.generation.prefixes import Prefix
    from armor_model.modeling import ArmorModel

REFILL = 4
"""New requests are let in when at least 1/REFILL of the batch is free: a prefill for each would not pay."""
TEXT_STEPS = 64
"""Text steps that the static buffers are filled for at a time."""
ANSWER_SLOTS = 512
"""Slots that an answer's text has at first; the caches grow where answers are longer. Most are short, and 4,096 tokens
of room for 16 rows of an 8B model are 9 GB."""
OF_THE_ENGINE = ("image_temperature", "image_top_k", "image_top_p", "guidance", "parallel_draw", "free_imgend")
"""Settings that all rows share."""


class Engine:
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
        """torch.compile's backend for the present requests; empty where steps run as they are."""
        self.single = self.config.heads == "single"
        c, ends, context = self.config, frozenset(stop_ids), self.config.text_config.max_position_embeddings
        self.limits = Limits(settings, ends, c.imgbos_id, c.imgend_id, c.first_code_id, c.codes_per_image, context)
        self.done: dict[int, Row] = {}
        self.waiting: deque[tuple[int, Request]] = deque()
        self.steps: dict[tuple[int, int, bool], StaticStep] = {}
        self.batch: Batch | None = None
        self.graph_pool: list[Any] = []
        self.passes = 0
        """Forward passes that codes took, where they are drawn without static buffers."""

    def run(self, requests: list[Request]) -> list[Row]:
        """Answer all requests."""
        done = dict(self.stream(requests))
        return [done[i] for i in range(len(requests))]

    def stream(self, requests: list[Request]) -> Iterator[tuple[int, Row]]:
        """Answer all requests; each is given, with its number, as soon as it is finished."""
        groups = iter([requests] if requests else [])
        return self.feed(lambda _: next(groups, None))

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
                forced = self.limits.codes_per_image + 2 if request.settings.force_image else 1
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
        prompts = [replace(request, ids=request.ids + [imgbos] * request.settings.force_image) for _, request in new]
        for (number, asked), request in zip(new, prompts, strict=True):
            start, limits = batch.slot - len(request.ids), replace(self.limits, settings=request.settings)
            numbers = uniforms(request.seed, limits.new_tokens)
            row = Row(number, start, limits, numbers, request.seed, adapted=start, placed=self._placed(request))
            if self.prefixes is not None:
                row.marks = marks_of(asked, self.config.image_token_id)
            if request.settings.force_image:
                row.append_text(imgbos, batch.slot)
            batch.rows.append(row)
        if self.settings.guided and (forced := [row for row in batch.rows[n:] if row.drawing]):
            prompts += self._add_unconditional(batch, forced, [imgbos])
        fresh = list(range(n, len(batch.rows)))
        shared = self._shared(batch, n)
        width = self.config.text_config.hidden_size
        last_RD = torch.zeros(len(batch.rows), width, dtype=batch.dtype, device=self.device)
        for indices in ([i for i in fresh if i not in shared], list(shared)):
            if indices:
                known = [batch.begin_as(i, *shared[i]) if i in shared else 0 for i in indices]
                last_RD[indices] = self._prefill(batch, indices, [prompts[i - n] for i in indices], known)
        self._sample(batch, fresh, last_RD)
        self._settle(batch)

    def _shared(self, batch: Batch, n: int) -> dict[int, tuple[Prefix | int, int]]:
        """For those of the rows from n on that have half of their prompt or more in common with a finished row, or with
        one that is prefilled before them: which, and how many tokens. Longest first: a dialogue's last turn is."""
        shared: dict[int, tuple[Prefix | int, int]] = {}
        if self.prefixes is None:
            return shared
        for i in range(n, len(batch.rows)):
            if (marks := batch.rows[i].marks) is None:
                continue
            source: Prefix | int | None
            source, length = self.prefixes.longest(marks, len(batch.slot_views))
            for other, row in enumerate(batch.rows[:i]):
                if other not in shared and row.marks is not None and (found := common(row.marks, marks)) > length:
                    source, length = other, found
            length = min(length, batch.slot - batch.rows[i].start - 1)  # the last token's hidden state is wanted
            if source is not None and 2 * length >= len(marks):
                shared[i] = source, length
                self.prefixes.reused += length
        return shared

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

    # ---- one step in general -------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        """Feed each row's pending token and sample each row's next one."""
        n, slot = len(batch.rows), batch.slot
        ids_n1 = torch.tensor([[row.token] for row in batch.rows], device=self.device)
        low = min(row.start for row in batch.rows)
        batch.cache.at(n, slot, slot + 1, low)
        mask, positions = attention(self.model, batch.rows, slot, slot + 1, low)
        hidden_n1D = self.model.backbone(self.model.embed(ids_n1), mask, positions, batch.cache)
        if batch.with_adapter:
            batch.hidden_RSD[:n, slot] = hidden_n1D[:, 0]
        batch.slot += 1
        self._sample(batch, list(range(n)), hidden_n1D[:, 0])
        self._settle(batch)

    def _sample(self, batch: Batch, indices: list[int], last_RD: Tensor) -> None:
        """Sample the next token of some rows, each through its own head, from the newest hidden states."""
        rows, per_image, imgend = batch.rows, self.limits.codes_per_image, self.config.imgend_id
        drawing = [i for i in indices if rows[i].drawing and len(rows[i].codes) < per_image]
        ending = [i for i in indices if rows[i].drawing and len(rows[i].codes) >= per_image]
        writing = [i for i in indices if not rows[i].drawing]
        visual = self._adapt(batch, sorted(drawing + writing) if self.single else drawing)
        if writing:
            if self.single:
                logits_NV = self.model.visual_logits(torch.stack([visual[i] for i in writing]))[:, :imgend]
            else:
                chosen = batch.select(writing)
                logits_NV = self.model.text_logits(last_RD[:chosen] if isinstance(chosen, int) else last_RD[chosen])
            self._sample_text(batch, [rows[i] for i in writing], logits_NV)
        if drawing:
            logits_NK = self.model.visual_logits(torch.stack([visual[i] for i in drawing]))
            self._sample_codes(batch, [rows[i] for i in drawing], logits_NK[:, imgend:] if self.single else logits_NK)
        for i in ending:
            rows[i].end_image()

    def _sample_text(self, batch: Batch, rows: list[Row], logits_NV: Tensor) -> None:
        """Text: logits (N, V + 1), the last column <imgbos>."""
        no_image = [row.must_write(batch.slot) for row in rows]
        if any(no_image):
            winners = logits_NV.argmax(-1).tolist()
            for row, masked, winner in zip(rows, no_image, winners, strict=True):
                row.imgbos_masked += masked and winner == self.config.imgbos_id
            logits_NV[:, -1].masked_fill_(torch.tensor(no_image, device=self.device), float("-inf"))
        u_N, tokens = batch.uniforms(rows, 1)[:, 0], [0] * len(rows)
        kinds = [_sampling(row) for row in rows]
        for kind in dict.fromkeys(kinds):
            chosen = [i for i, each in enumerate(kinds) if each == kind]
            logits_nV, u_n = (logits_NV, u_N) if len(chosen) == len(rows) else (logits_NV[chosen], u_N[chosen])
            for i, token in zip(chosen, choose(logits_nV, u_n, *kind).tolist(), strict=True):
                tokens[i] = token
        for row, token in zip(rows, tokens, strict=True):
            row.append_text(token, batch.slot)

    def _sample_codes(self, batch: Batch, rows: list[Row], logits_NK: Tensor) -> None:
        """Codes: logits (N, K + 2), columns <imgend>, <imgpad>, codes; unconditional rows only guide."""
        s = self.settings
        if s.guided:
            cond, uncond, _ = roles(rows, True)
            logits_NK = guide(logits_NK, cond, uncond, s.guidance)
            rows = [rows[j] for j in cond]
        codes_NK = logits_NK[:, 2:]
        if s.free_imgend:
            first = torch.tensor([not row.codes for row in rows], device=self.device)
            ends_N1 = logits_NK[:, :1].masked_fill(first[:, None], float("-inf"))
            codes_NK = torch.cat([codes_NK, ends_N1], -1)
        u_N = batch.uniforms(rows, 1)[:, 0]
        codes_N = choose(codes_NK, u_N, s.image_temperature, s.image_top_k, s.image_top_p)
        for row, code in zip(rows, codes_N.tolist(), strict=True):
            if code == self.config.codebook_size:
                row.end_early()
            else:
                row.append_codes([code])

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

    # ---- stretches without a decision ----------------------------------------------------------------------

    def _run_uniform(self, batch: Batch) -> bool:
        """Run as many steps as need no decision by the host; False where the general step must serve."""
        rows = batch.rows
        if not rows:
            return True
        self._make_room(batch, 1)
        draws = all(row.drawing and row.codes and row.adapted == batch.slot for row in rows)
        if draws and not self.settings.free_imgend:
            left = self.limits.codes_per_image - max(len(row.codes) for row in rows)
            if left > 0:
                self._make_room(batch, left)
                self._draw(batch, left)
                return True
        elif self.static and not self.single and all(self._writes_alike(row) for row in rows):
            self._write(batch)
            return True
        return False

    def _writes_alike(self, row: Row) -> bool:
        """Whether a captured step, which knows the engine's settings alone, may write for the row."""
        return not row.drawing and _sampling(row) == _sampling_of(self.settings)

    def _write(self, batch: Batch) -> None:
        """One step in which all rows write; the buffers are filled anew only when rows or their rights have changed."""
        step, limits = self._static_step(batch, drawing=False), self.limits
        left = min(row.limits.settings.max_new_tokens - row.text_tokens for row in batch.rows)
        room = min(limits.context - (batch.slot - row.start) for row in batch.rows) - limits.codes_per_image - 2
        if room < TEXT_STEPS or not step.is_current():
            step.load(1 if room < TEXT_STEPS else min(left, TEXT_STEPS))
        step.advance()
        for row, token, masked in zip(batch.rows, *step.last_tokens(), strict=False):
            row.imgbos_masked += masked
            row.append_text(token, batch.slot)
        self._settle(batch)

    def _draw(self, batch: Batch, steps: int) -> None:
        """Steps in which all rows draw."""
        if self.static:
            step = self._static_step(batch, drawing=True, steps=steps)
            conditional = step.load(steps)
            for _ in range(steps):
                step.advance()
            codes = (step.tokens_ns[:conditional, :steps] - self.config.first_code_id).tolist()
        elif self.settings.parallel_draw > 1:
            side = math.isqrt(self.limits.codes_per_image)
            drawn, passes = draw_parallel(self.model, self.settings, batch, steps, side)
            codes = drawn.tolist()
            self.passes += passes
        else:
            codes = draw_sliced(self.model, self.settings, batch, steps).tolist()
            self.passes += steps
        for row in batch.rows:
            row.adapter_steps += steps
            row.adapted = batch.slot
        for row, new in zip([row for row in batch.rows if row.conditional is None], codes, strict=True):
            row.append_codes(new)
        self._settle(batch)

    def _static_step(self, batch: Batch, drawing: bool, steps: int = 1) -> StaticStep:
        rows = padded(len(batch.rows))  # never more than were allocated: that number is padded too
        length = min(-(-(batch.slot + steps) // LENGTH_STEP) * LENGTH_STEP, batch.slots)
        key = (rows, length, drawing)
        if key not in self.steps:
            self.steps[key] = StaticStep(
                self.model, self.settings, batch, *key, self.limits.new_tokens, self.compile, self.graph_pool
            )
        return self.steps[key]


def _slots(request: Request) -> int:
    """Slots of a prompt and of the <imgbos> that is forced behind it."""
    return len(request.ids) + bool(request.settings and request.settings.force_image)


def _sampling(row: Row) -> tuple[float, int, float]:
    return _sampling_of(row.limits.settings)


def _sampling_of(s: GenerationSettings) -> tuple[float, int, float]:
    """What decides the choice of a text token."""
    return s.temperature, s.top_k, s.top_p
