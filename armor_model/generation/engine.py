"""The generation loop: rows in text and in image mode advance together, one token a step, over one preallocated cache.

Only the active head of a row is computed. The adapter needs keys and values of every earlier position: hidden states
before the final norm are kept, and when a row says <imgbos> the adapter catches up on the slots it skipped, for that
row only. A row's tokens lie in slots [start, slot); its position ids count from its start. Finished rows make room
for waiting requests. Stretches in which all rows draw (on a GPU: or write) run without asking the host (burst.py).

Legend: R rows, S slots, D width, n live rows, N some of them, T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.generation.burst import LENGTH_STEP, StaticStep, draw_sliced, padded
from armor_model.generation.cache import attention
from armor_model.generation.places import Places
from armor_model.generation.rows import Request, Row
from armor_model.generation.sampling import choose

if TYPE_CHECKING:
    from collections.abc import Iterator


HOLD = 64
"""Text steps that the static buffers are filled for at a time."""


class Engine(Places):
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
    """

    # ---- driving -------------------------------------------------------------------------------------------

    def run(self, requests: list[Request]) -> list[Row]:
        """Answer all requests."""
        done = dict(self.stream(requests))
        return [done[i] for i in range(len(requests))]

    @torch.inference_mode()
    def stream(self, requests: list[Request]) -> Iterator[tuple[int, Row]]:
        """Answer all requests; each is given, with its number, as soon as it is finished."""
        if not requests:
            return
        self.rows, self.done = [], {}
        self.waiting.clear()
        for request in requests:
            first_picture = self.per_picture + 2 if self.settings.force_image else 1
            if len(request.ids) + first_picture > self.context:
                raise UserError(f"the prompt has {len(request.ids)} tokens; this model's context holds {self.context}")
        # longest first: a later prompt then always fits in front of the current slot
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].ids))
        self.waiting.extend((i, requests[i]) for i in order)
        self._allocate(len(requests), len(requests[order[0]].ids))
        while self.rows or self.waiting:
            self._refill()
            if not self._burst():
                self._step()
            while self.done:
                yield self.done.popitem()

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
            self._burst_writing()
            return True
        return False

    def _burst_writing(self) -> None:
        """One step in which all rows write; the buffers are filled anew only when rows or their rights have changed."""
        step = self._static_step(drawing=False)
        left = min(self.settings.max_new_tokens - row.text_tokens for row in self.rows)
        near = min(self.context - (self.slot - row.start) for row in self.rows) - self.per_picture - 2
        if near < HOLD or not step.stands():
            step.begin(1 if near < HOLD else min(left, HOLD))
        step.advance()
        for row, token, lost in zip(self.rows, *step.newest(), strict=False):
            row.imgbos_masked += lost
            self._take_text(row, token)
        self._settle()

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

    def uniforms(self, rows: list[Row], steps: int) -> Tensor:
        """The numbers (N, steps) that rows draw for their next tokens."""
        numbers = [row.u[len(row.tokens) : len(row.tokens) + steps] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)
