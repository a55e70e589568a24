"""Steps of a batch: one token a row, each through its own head; and stretches in which all rows draw (on a GPU: or
write), which run without asking the host (static.py).

Legend: n live rows, N some of them, D width, V text choices, K codes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.generation.cpu import Kernels
from armor_model.generation.state import Batch, Limits, Row, attention
from armor_model.generation.static import (
    LENGTH_STEP,
    StaticStep,
    choose,
    draw_parallel,
    draw_sliced,
    guide,
    padded,
    roles,
)

if TYPE_CHECKING:
    from armor_model.config import ArmorFields
    from armor_model.generation.api import GenerationSettings
    from armor_model.modeling import ArmorModel

TEXT_STEPS = 64
"""Text steps that the static buffers are filled for at a time."""


class Steps(ABC):
    """How the rows of a batch advance; which rows there are, and where their caches come from, is the engine's."""

    model: ArmorModel
    settings: GenerationSettings
    config: ArmorFields
    device: torch.device
    limits: Limits
    static: bool
    compile: str
    """torch.compile's backend for the present requests; empty where steps run as they are."""
    single: bool

    def __init__(self) -> None:
        self.steps: dict[tuple[int, int, bool], StaticStep] = {}
        self.graph_pool: list[tuple[int, int]] = []
        self.passes = 0
        """Forward passes that codes took, where they are drawn without static buffers."""

    @cached_property
    def _kernels(self) -> Kernels:
        return Kernels(self.model)

    @abstractmethod
    def _adapt(self, batch: Batch, indices: list[int]) -> dict[int, Tensor]:
        """The adapter's newest output (D,) for some rows, by row index."""

    @abstractmethod
    def _settle(self, batch: Batch) -> None:
        """Take finished rows out, give rows that begin an image what they need."""

    @abstractmethod
    def _make_room(self, batch: Batch, steps: int) -> None:
        """See to it that so many slots are free."""

    # ---- one step in general -------------------------------------------------------------------------------

    def _step(self, batch: Batch) -> None:
        """Feed each row's pending token and sample each row's next one."""
        with self._kernels.used() if len(batch.rows) > 1 else nullcontext():  # for one row torch's own is as fast
            self._advance(batch)
        self._settle(batch)

    def _advance(self, batch: Batch) -> None:
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
        else:
            several = len(batch.rows) > 1 or self.settings.parallel_draw > 1
            with self._kernels.used() if several else nullcontext():
                if self.settings.parallel_draw > 1:
                    side = math.isqrt(self.limits.codes_per_image)
                    drawn, passes = draw_parallel(self.model, self.settings, batch, steps, side)
                else:
                    drawn, passes = draw_sliced(self.model, self.settings, batch, steps), steps
            codes = drawn.tolist()
            self.passes += passes
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


def _sampling(row: Row) -> tuple[float, int, float]:
    return _sampling_of(row.limits.settings)


def _sampling_of(s: GenerationSettings) -> tuple[float, int, float]:
    """What decides the choice of a text token."""
    return s.temperature, s.top_k, s.top_p
