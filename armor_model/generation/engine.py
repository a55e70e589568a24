"""The generation loop: rows in text and in image mode advance together, one token a step, over one preallocated cache.

Only the active head of a row is computed. The adapter needs keys and values of every earlier position: hidden states
before the final norm are kept, and when a row says <imgbos> the adapter catches up on the slots it skipped, for that
row only. A row's tokens lie in slots [start, slot); its position ids count from its start. Finished rows make room
for waiting requests. Stretches in which all rows draw (on a GPU: or write) run without asking the host (burst.py).

Legend: R rows, S slots, D width, n live rows, N some of them, T tokens.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.errors import ArmorError
from armor_model.generation.burst import LENGTH_STEP, StaticStep, draw_sliced, padded
from armor_model.generation.cache import SlotCache, attention
from armor_model.generation.rows import Request, Row
from armor_model.generation.sampling import choose, uniforms

if TYPE_CHECKING:
    from armor_model.generation.settings import GenerationSettings
    from armor_model.modeling import ArmorForConditionalGeneration

REFILL = 4
"""New requests are let in when at least 1/REFILL of the places are free: a prefill for each would not pay."""


class Engine:
    """Runs requests through a model; results are finished Rows, in the order of the requests.

    Args:
        model: in evaluation mode.
        settings: shared by all requests.
        stop_ids: tokens that end an answer.
        unconditional: the prompt that guidance compares with.
        batch_size: most requests under way at once.
        static: run uniform stretches on fixed buffers, captured as CUDA graphs; by default on CUDA.
    """

    def __init__(
        self,
        model: ArmorForConditionalGeneration,
        settings: GenerationSettings,
        stop_ids: list[int],
        unconditional: list[int],
        batch_size: int = 64,
        static: bool | None = None,
    ):
        self.model, self.settings, self.config = model, settings, model.config
        self.device, self.dtype = model.device, model.dtype
        self.stop_ids = set(stop_ids)
        self.unconditional = unconditional
        self.guided = settings.guidance != 1 and settings.images > 0
        self.batch_size = batch_size
        self.static = self.device.type == "cuda" if static is None else static
        self.single = self.config.heads == "single"
        self.per_picture = self.config.codes_per_image
        self.context = self.config.text_config.max_position_embeddings
        self.budget = settings.max_new_tokens + settings.images * (self.per_picture + 1)
        self.rows: list[Row] = []
        self.done: dict[int, Row] = {}
        self.waiting: deque[tuple[int, Request]] = deque()
        self.steps: dict[tuple[int, int, bool], StaticStep] = {}
        self.cache: SlotCache | None = None
        self.slot = self.slots = 0

    # ---- driving -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, requests: list[Request]) -> list[Row]:
        """Answer all requests."""
        if not requests:
            return []
        self.done = {}
        for request in requests:
            first_picture = self.per_picture + 2 if self.settings.force_image else 1
            if len(request.ids) + first_picture > self.context:
                raise ArmorError(f"the prompt has {len(request.ids)} tokens; this model's context holds {self.context}")
        # longest first: a later prompt then always fits in front of the current slot
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        self.waiting.extend((i, requests[i]) for i in order)
        self._allocate(len(requests), len(requests[order[0]].ids))
        while self.rows or self.waiting:
            self._refill()
            if not self._burst():
                self._step()
        return [self.done[i] for i in range(len(requests))]

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
        if self.cache is not None and self.cache.keys.shape[1] >= count and self.slots >= slots:
            return  # captured graphs hold on to these caches
        self.steps, self.slots = {}, slots
        text, kind = self.config.text_config, (self.dtype, self.device)
        self.cache = SlotCache(text, text.num_hidden_layers, count, self.slots, *kind)
        self.hidden_RSD = self.adapter_cache = None
        if self.settings.images or self.single:
            self.hidden_RSD = torch.zeros(count, self.slots, text.hidden_size, dtype=self.dtype, device=self.device)
            self.adapter_cache = SlotCache(text, self.config.num_adapter_layers, count, self.slots, *kind)

    # ---- rows coming and going -----------------------------------------------------------------------------

    def _refill(self) -> None:
        """Let waiting requests in: all at once into an empty batch, later when enough places are free."""
        if not self.waiting:
            return
        live = sum(row.owner is None for row in self.rows)
        free = self.places - live
        if live and (free * REFILL < self.places or self.guided):
            return  # a guided batch is refilled when it is empty: its shadows come and go with their pictures
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
        cut = [tile for r in requests for tile in r.tiles]
        embeds_NTD = self.model.embed(ids_NT, torch.cat(cut).to(self.device) if cut else None)
        self.cache.window(self._select(indices), first, self.slot, first)
        mask, positions = attention(self.model, [self.rows[i].start for i in indices], first, self.slot, first)
        hidden_NTD = self.model.backbone(embeds_NTD, mask, positions, self.cache)
        # the newest hidden states of all rows; those of rows that were there before are not asked for again
        self.last_RD = hidden_NTD.new_zeros(len(self.rows), hidden_NTD.shape[-1])
        self.last_RD[indices[0] :] = hidden_NTD[:, -1]
        if self.hidden_RSD is not None:
            self.hidden_RSD[indices[0] : indices[-1] + 1, first : self.slot] = hidden_NTD

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

    # ---- one step ------------------------------------------------------------------------------------------

    def _step(self) -> None:
        """Feed each row's pending token and let each row say the next one."""
        n, slot = len(self.rows), self.slot
        ids_n1 = torch.tensor([[row.token] for row in self.rows], device=self.device)
        starts = [row.start for row in self.rows]
        low = min(starts)
        self.cache.window(n, slot, slot + 1, low)
        mask, positions = attention(self.model, starts, slot, slot + 1, low)
        hidden_n1D = self.model.backbone(self.model.embed(ids_n1), mask, positions, self.cache)
        self.last_RD = hidden_n1D[:, 0]
        if self.hidden_RSD is not None:
            self.hidden_RSD[:n, slot] = self.last_RD
        self.slot += 1
        self._say(list(range(n)))
        self._settle()

    def _say(self, indices: list[int]) -> None:
        """Let rows say their next token, each through its own head, from the newest hidden state."""
        rows = self.rows
        drawing = [i for i in indices if rows[i].drawing and len(rows[i].codes) < self.per_picture]
        closing = [i for i in indices if rows[i].drawing and len(rows[i].codes) >= self.per_picture]
        writing = [i for i in indices if not rows[i].drawing]
        visual = self._adapt(sorted(drawing + writing) if self.single else drawing)
        if writing:
            if self.single:
                logits_NV = self.model.visual_logits(torch.stack([visual[i] for i in writing]))
                logits_NV = logits_NV[:, : self.config.imgend_id]
            else:
                chosen = self._select(writing)
                logits_NV = self.model.text_logits(
                    self.last_RD[:chosen] if isinstance(chosen, int) else self.last_RD[chosen]
                )
            self._write(writing, logits_NV)
        if drawing:
            logits_NK = self.model.visual_logits(torch.stack([visual[i] for i in drawing]))
            self._draw(drawing, logits_NK[:, self.config.imgend_id :] if self.single else logits_NK)
        for i in closing:
            self._close(rows[i])

    def _write(self, indices: list[int], logits_NV: Tensor) -> None:
        """Text: logits (N, V + 1), the last column <imgbos>."""
        rows = [self.rows[i] for i in indices]
        barred = [self.barred(row) for row in rows]
        if any(barred):
            wins = logits_NV.argmax(-1).tolist()
            for row, bar, win in zip(rows, barred, wins, strict=True):
                row.imgbos_masked += bar and win == self.config.imgbos_id
            logits_NV[:, -1].masked_fill_(torch.tensor(barred, device=self.device), float("-inf"))
        s = self.settings
        said = choose(logits_NV, self.uniforms(rows, 1)[:, 0], s.temperature, s.top_k, s.top_p)
        for row, token in zip(rows, said.tolist(), strict=True):
            self._take_text(row, token)

    def barred(self, row: Row) -> bool:
        """The row may not begin another picture: it has its number, or the context has no room for one."""
        room = self.context - (self.slot - row.start)
        return len(row.pictures) >= self.settings.images or room < self.per_picture + 2

    def _take_text(self, row: Row, token: int) -> None:
        row.token = token
        row.tokens.append(token)
        row.text_tokens += 1
        if token in self.stop_ids:
            row.finish = "stop"
        elif token == self.config.imgbos_id:
            row.drawing, row.codes = True, []
        elif row.text_tokens >= self.settings.max_new_tokens or self.slot - row.start >= self.context:
            row.finish = "length"

    def _draw(self, indices: list[int], logits_NK: Tensor) -> None:
        """Codes: logits (N, K + 2), columns <imgend>, <imgpad>, codes. Shadows' logits steer, they do not speak."""
        s, rows = self.settings, [self.rows[i] for i in indices]
        if self.guided:
            at = {id(row): j for j, row in enumerate(rows)}
            own = [j for j, row in enumerate(rows) if row.owner is None]
            without = logits_NK[[at[id(rows[j].shadow)] for j in own]].float()
            logits_NK = without + s.guidance * (logits_NK[own].float() - without)
            rows = [rows[j] for j in own]
        codes_NK = logits_NK[:, 2:]
        if s.free_imgend:
            first = torch.tensor([not row.codes for row in rows], device=self.device)
            ends_N1 = logits_NK[:, :1].masked_fill(first[:, None], float("-inf"))
            codes_NK = torch.cat([codes_NK, ends_N1], -1)
        u_N = self.uniforms(rows, 1)[:, 0]
        said = choose(codes_NK, u_N, s.image_temperature, s.image_top_k, s.image_top_p)
        for row, code in zip(rows, said.tolist(), strict=True):
            if code == self.config.codebook_size:
                row.early_ends += 1
                row.codes += [row.codes[-1]] * (self.per_picture - len(row.codes))
                self._close(row)
            else:
                self._take_codes(row, [code])

    def _take_codes(self, row: Row, codes: list[int]) -> None:
        row.codes += codes
        row.tokens += [self.config.first_code_id + code for code in codes]
        row.token = row.tokens[-1]
        if row.shadow is not None:
            row.shadow.token, row.shadow.codes = row.token, row.codes
        if len(row.codes) == self.per_picture and self._ends_with_picture(row):
            self._close(row)

    def _ends_with_picture(self, row: Row) -> bool:
        """Nothing can follow the picture, so <imgend> need not be fed."""
        return self.settings.stop_after_image or row.text_tokens >= self.settings.max_new_tokens

    def _close(self, row: Row) -> None:
        """<imgend>: the picture is complete, the text head speaks next. Shadows are done with their owner's picture."""
        if row.owner is not None:
            row.finish = "shadow"
            return
        row.pictures.append(row.codes)
        row.drawing, row.token = False, self.config.imgend_id
        row.tokens.append(row.token)
        if row.shadow is not None:
            row.shadow.finish = "shadow"
            row.shadow = None
        if self._ends_with_picture(row):
            row.finish = "image" if self.settings.stop_after_image else "length"

    def _adapt(self, indices: list[int]) -> dict[int, Tensor]:
        """The adapter's newest output (D,) for some rows, by row index; rows that lag catch up in one pass."""
        newest = self.slot - 1
        steady = [i for i in indices if self.rows[i].adapted == newest]
        behind = [i for i in indices if self.rows[i].adapted < newest]
        out = {}
        for group in (steady, behind):
            if not group:
                continue
            first = min(self.rows[i].adapted for i in group)
            starts = [self.rows[i].start for i in group]
            rows = self._select(group)
            hidden_NTD = (self.hidden_RSD[:rows] if isinstance(rows, int) else self.hidden_RSD[rows])[
                :, first : self.slot
            ]
            self.adapter_cache.window(rows, first, self.slot, min(starts))
            mask, positions = attention(self.model, starts, first, self.slot, min(starts))
            visual_NTD = self.model.visual_hidden(hidden_NTD, mask, positions, self.adapter_cache)
            out.update(zip(group, visual_NTD[:, -1], strict=True))
            for i in group:
                self.rows[i].adapter_steps += self.slot - self.rows[i].adapted
                self.rows[i].adapted = self.slot
        return out

    # ---- stretches without a decision ----------------------------------------------------------------------

    def _burst(self) -> bool:
        """Run as many steps as need no decision by the host; False where the general step must serve."""
        rows, free = self.rows, self.settings.free_imgend
        if not rows:
            return True
        if all(row.drawing and row.codes and row.adapted == self.slot for row in rows) and not free:
            left = self.per_picture - max(len(row.codes) for row in rows)
            if left > 0:
                self._burst_drawing(left)
                return True
        elif self.static and not self.single and not any(row.drawing for row in rows):
            step = self._static_step(drawing=False)
            step.begin(1)
            step.advance()
            said, masked = step.said_ns[:, 0].tolist(), step.masked_n.tolist()
            for row, token, lost in zip(rows, said, masked, strict=False):
                row.imgbos_masked += lost
                self._take_text(row, token)
            self._settle()
            return True
        return False

    def _burst_drawing(self, steps: int) -> None:
        if self.static:
            step = self._static_step(drawing=True, steps=steps)
            speaking = step.begin(steps)
            for _ in range(steps):
                step.advance()
            codes = (step.said_ns[:speaking, :steps] - self.config.first_code_id).tolist()
        else:
            codes = draw_sliced(self, steps).tolist()
        for row in self.rows:
            row.adapter_steps += steps
            row.adapted = self.slot
        for row, said in zip([row for row in self.rows if row.owner is None], codes, strict=True):
            self._take_codes(row, said)
        self._settle()

    def _static_step(self, drawing: bool, steps: int = 1) -> StaticStep:
        rows = padded(len(self.rows))  # never more than were allocated: that number is padded too
        length = min(-(-(self.slot + steps) // LENGTH_STEP) * LENGTH_STEP, self.slots)
        key = (rows, length, drawing)
        if key not in self.steps:
            self.steps[key] = StaticStep(self, rows, length, drawing)
        return self.steps[key]

    # ---- small helpers -------------------------------------------------------------------------------------

    def uniforms(self, rows: list[Row], steps: int) -> Tensor:
        """The numbers (N, steps) that rows draw for their next tokens."""
        numbers = [row.u[len(row.tokens) : len(row.tokens) + steps] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    def _select(self, indices: list[int]) -> int | Tensor:
        """A row selection for the caches: a plain count when the rows are the first ones, which needs no copying."""
        if indices == list(range(len(indices))):
            return len(indices)
        return torch.tensor(indices, device=self.device)
