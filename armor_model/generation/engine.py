"""The generation loop: rows in text and in image mode advance together, one token a step, over one preallocated cache.

Only the active head of a row is computed. The adapter needs keys and values of every earlier position: hidden states
before the final norm are kept, and when a row says <imgbos> the adapter catches up on the slots it skipped, for that
row only.
A row's tokens lie in slots [start, slot); its position ids count from its start.

Legend: R rows, S slots, D width, n live rows, N some of them, T tokens.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.errors import ArmorError
from armor_model.generation.cache import SlotCache
from armor_model.generation.sampling import choose, uniforms

if TYPE_CHECKING:
    from armor_model.generation.settings import GenerationSettings
    from armor_model.modeling import ArmorForConditionalGeneration


@dataclass
class Request:
    """One prompt, as token ids with its tiles."""

    ids: list[int]
    tiles: list[Tensor]
    seed: int


@dataclass
class Row:
    """A request under way. A row that only serves guidance (`owner` is set) follows the codes of its owner."""

    request: int
    start: int
    u: list[float]
    """One uniform number for each token to be sampled."""
    drawing: bool = False
    token: int = -1
    """Said, but not yet fed."""
    adapted: int = 0
    """Slots before this one are in the adapter's cache."""
    tokens: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """Of the picture being drawn."""
    pictures: list[list[int]] = field(default_factory=list)
    text_tokens: int = 0
    imgbos_masked: int = 0
    early_ends: int = 0
    adapter_steps: int = 0
    finish: str = ""
    owner: Row | None = None
    shadow: Row | None = None


class Engine:
    """Runs requests through a model; results are finished Rows, in the order of the requests.

    Args:
        model: in evaluation mode.
        settings: shared by all requests.
        stop_ids: tokens that end an answer.
        unconditional: the prompt that guidance compares with.
        batch_size: most requests under way at once.
    """

    def __init__(
        self,
        model: ArmorForConditionalGeneration,
        settings: GenerationSettings,
        stop_ids: list[int],
        unconditional: list[int],
        batch_size: int = 64,
    ):
        self.model, self.settings, self.config = model, settings, model.config
        self.device, self.dtype = model.device, model.dtype
        self.stop_ids = set(stop_ids)
        self.unconditional = unconditional
        self.guided = settings.guidance != 1 and settings.images > 0
        self.batch_size = batch_size
        self.single = self.config.heads == "single"
        self.per_picture = self.config.codes_per_image
        self.budget = settings.max_new_tokens + settings.images * (self.per_picture + 1)
        self.rows: list[Row] = []
        self.done: dict[int, Row] = {}
        self.slot = 0

    # ---- driving -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def run(self, requests: list[Request]) -> list[Row]:
        """Answer all requests."""
        limit = self.config.text_config.max_position_embeddings
        for request in requests:
            if len(request.ids) + 1 > limit:
                raise ArmorError(f"the prompt has {len(request.ids)} tokens; this model's context holds {limit}")
        waiting = deque(enumerate(requests))
        while waiting:
            batch = [waiting.popleft() for _ in range(min(self.batch_size, len(waiting)))]
            self._allocate(batch)
            self._admit(batch)
            while self.rows:
                self._step()
        return [self.done[i] for i in range(len(requests))]

    def _allocate(self, batch: list[tuple[int, Request]]) -> None:
        """Caches for a batch; the adapter's, and the hidden states it reads, only when a picture is possible."""
        prompt = max(max(len(r.ids) for _, r in batch), len(self.unconditional) if self.guided else 0)
        self.slots = prompt + self.budget
        count = len(batch) * (2 if self.guided else 1)
        text = self.config.text_config
        self.cache = SlotCache(text, text.num_hidden_layers, count, self.slots, self.dtype, self.device)
        self.hidden_RSD = self.adapter_cache = None
        if self.settings.images or self.single:
            shape = (count, self.slots, text.hidden_size)
            self.hidden_RSD = torch.zeros(shape, dtype=self.dtype, device=self.device)
            layers = self.config.num_adapter_layers
            self.adapter_cache = SlotCache(text, layers, count, self.slots, self.dtype, self.device)
        self.slot = prompt

    def _admit(self, batch: list[tuple[int, Request]]) -> None:
        """Prefill new rows so that their prompts end at the current slot, and let them say their first token."""
        n = len(self.rows)
        for index, request in batch:
            start = self.slot - len(request.ids)
            self.rows.append(Row(index, start, uniforms(request.seed, self.budget), adapted=start))
        self._prefill(range(n, len(self.rows)), [r for _, r in batch])
        fresh = list(range(n, len(self.rows)))
        if self.settings.force_image:
            for i in fresh:
                self._take_text(self.rows[i], self.config.imgbos_id)
        else:
            self._say(fresh)
        self._settle()

    def _prefill(self, indices: range, requests: list[Request]) -> None:
        T = max(len(r.ids) for r in requests)
        first = self.slot - T
        ids_NT = torch.tensor([[0] * (T - len(r.ids)) + r.ids for r in requests], device=self.device)
        cut = [tile for r in requests for tile in r.tiles]
        embeds_NTD = self.model.embed(ids_NT, torch.cat(cut).to(self.device) if cut else None)
        rows = self._select(list(indices))
        starts = [self.rows[i].start for i in indices]
        self.cache.window(rows, first, self.slot, first)
        mask, positions = self._attention(starts, first, self.slot, first)
        hidden_NTD = self.model.backbone(embeds_NTD, mask, positions, self.cache)
        self.last_RD = self._put_last(indices, hidden_NTD[:, -1])
        if self.hidden_RSD is not None:
            self.hidden_RSD[indices.start : indices.stop, first : self.slot] = hidden_NTD

    def _put_last(self, indices: range, last_ND: Tensor) -> Tensor:
        """The newest hidden states of all rows, with those of new rows appended."""
        return last_ND if indices.start == 0 else torch.cat([self.last_RD[: indices.start], last_ND])

    def _step(self) -> None:
        """Feed each row's pending token and let each row say the next one."""
        n, slot = len(self.rows), self.slot
        ids_n1 = torch.tensor([[row.token] for row in self.rows], device=self.device)
        starts = [row.start for row in self.rows]
        low = min(starts)
        self.cache.window(n, slot, slot + 1, low)
        mask, positions = self._attention(starts, slot, slot + 1, low)
        hidden_n1D = self.model.backbone(self.model.embed(ids_n1), mask, positions, self.cache)
        self.last_RD = hidden_n1D[:, 0]
        if self.hidden_RSD is not None:
            self.hidden_RSD[:n, slot] = self.last_RD
        self.slot += 1
        self._say(list(range(n)))
        self._settle()

    # ---- speaking ------------------------------------------------------------------------------------------

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
                logits_NV = self.model.text_logits(self._pick(self.last_RD, writing))
            self._write(writing, logits_NV)
        if drawing:
            logits_NK = self.model.visual_logits(torch.stack([visual[i] for i in drawing]))
            self._draw(drawing, logits_NK[:, self.config.imgend_id :] if self.single else logits_NK)
        for i in closing:
            self._close(rows[i])

    def _write(self, indices: list[int], logits_NV: Tensor) -> None:
        """Text: logits (N, V + 1), the last column <imgbos>."""
        rows = [self.rows[i] for i in indices]
        barred = [len(row.pictures) >= self.settings.images for row in rows]
        if any(barred):
            wins = logits_NV.argmax(-1).tolist()
            for row, bar, win in zip(rows, barred, wins, strict=True):
                row.imgbos_masked += bar and win == self.config.imgbos_id
            logits_NV = logits_NV.clone()
            logits_NV[torch.tensor(barred, device=self.device), -1] = float("-inf")
        s = self.settings
        said = choose(logits_NV, self._uniforms(rows), s.temperature, s.top_k, s.top_p)
        for row, token in zip(rows, said.tolist(), strict=True):
            self._take_text(row, token)

    def _take_text(self, row: Row, token: int) -> None:
        row.token = token
        row.tokens.append(token)
        row.text_tokens += 1
        if token in self.stop_ids:
            row.finish = "stop"
        elif token == self.config.imgbos_id:
            row.drawing, row.codes = True, []
        elif row.text_tokens >= self.settings.max_new_tokens:
            row.finish = "length"

    def _draw(self, indices: list[int], logits_NK: Tensor) -> None:
        """Codes: logits (N, K + 2), columns <imgend>, <imgpad>, codes. Shadows' logits steer, they do not speak."""
        s, rows = self.settings, [self.rows[i] for i in indices]
        logits_NK = logits_NK.float()
        if self.guided:
            at = {id(row): j for j, row in enumerate(rows)}
            own = [j for j, row in enumerate(rows) if row.owner is None]
            other = [at[id(rows[j].shadow)] for j in own]
            without = logits_NK[other]
            logits_NK = without + s.guidance * (logits_NK[own] - without)
            rows = [rows[j] for j in own]
        may_end = s.free_imgend and all(row.codes for row in rows)
        codes_NK = logits_NK[:, 2:]
        if s.free_imgend:
            ends_N1 = logits_NK[:, :1]
            if not may_end:
                barred = torch.tensor([not row.codes for row in rows], device=self.device)
                ends_N1 = ends_N1.masked_fill(barred[:, None], float("-inf"))
            codes_NK = torch.cat([codes_NK, ends_N1], -1)
        said = choose(codes_NK, self._uniforms(rows), s.image_temperature, s.image_top_k, s.image_top_p)
        for row, code in zip(rows, said.tolist(), strict=True):
            if code == self.config.codebook_size:
                row.early_ends += 1
                row.codes += [row.codes[-1]] * (self.per_picture - len(row.codes))
                self._close(row)
                continue
            row.codes.append(code)
            row.tokens.append(self.config.first_code_id + code)
            row.token = row.tokens[-1]
            if len(row.codes) == self.per_picture and self._ends_with_picture(row):
                self._close(row)
            if row.shadow is not None:
                row.shadow.token, row.shadow.codes = row.token, row.codes

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

    def _uniforms(self, rows: list[Row]) -> Tensor:
        return torch.tensor([row.u[len(row.tokens)] for row in rows], dtype=torch.float64, device=self.device)

    # ---- the adapter ---------------------------------------------------------------------------------------

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
            low = min(starts)
            rows = self._select(group)
            hidden_NTD = self.hidden_RSD[:rows] if isinstance(rows, int) else self.hidden_RSD[rows]
            hidden_NTD = hidden_NTD[:, first : self.slot]
            self.adapter_cache.window(rows, first, self.slot, low)
            mask, positions = self._attention(starts, first, self.slot, low)
            visual_NTD = self.model.visual_hidden(hidden_NTD, mask, positions, self.adapter_cache)
            out.update(zip(group, visual_NTD[:, -1], strict=True))
            for i in group:
                self.rows[i].adapter_steps += self.slot - self.rows[i].adapted
                self.rows[i].adapted = self.slot
        return out

    # ---- rows coming and going -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Give rows that begin a picture their shadow, take finished rows out."""
        if self.guided:
            begins = [row for row in self.rows if row.drawing and row.owner is None and row.shadow is None]
            self._add_shadows([row for row in begins if not row.finish])
        for i in reversed(range(len(self.rows))):
            if self.rows[i].finish:
                self._remove(i)

    def _add_shadows(self, owners: list[Row]) -> None:
        """Rows with the unconditional prompt, which will be fed the same <imgbos> and codes as their owners."""
        if not owners:
            return
        n, start = len(self.rows), self.slot - len(self.unconditional)
        for owner in owners:
            owner.shadow = Row(-1, start, [], True, owner.token, start, owner=owner)
            self.rows.append(owner.shadow)
        self._prefill(range(n, len(self.rows)), [Request(self.unconditional, [], 0)] * len(owners))

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

    # ---- small helpers -------------------------------------------------------------------------------------

    def _select(self, indices: list[int]) -> int | Tensor:
        """A row selection for the caches: a plain count when the rows are the first ones, which needs no copying."""
        if indices == list(range(len(indices))):
            return len(indices)
        return torch.tensor(indices, device=self.device)

    def _pick(self, all_RD: Tensor, indices: list[int]) -> Tensor:
        rows = self._select(indices)
        return all_RD[:rows] if isinstance(rows, int) else all_RD[rows]

    def _attention(self, starts: list[int], first: int, stop: int, low: int) -> tuple[Tensor | None, Tensor]:
        """For queries in slots [first, stop) over keys in [low, stop): mask (N, 1, T, stop - low), or None where every
        cached slot may be seen, and position ids (N, T)."""
        starts_N1 = torch.tensor(starts, device=self.device)[:, None]
        queries_T = torch.arange(first, stop, device=self.device)
        positions_NT = (queries_T[None] - starts_N1).clamp(min=0)
        if all(start == low for start in starts) and (stop - first == 1 or first == low):
            return None, positions_NT
        keys = torch.arange(low, stop, device=self.device)[None, None, None]
        queries = queries_T[None, None, :, None]
        begin = starts_N1[:, :, None, None]
        # a padding query may see itself: a softmax over nothing is NaN
        mask = ((keys >= begin) & (keys <= queries)) | (keys == queries)
        if self.config.text_config._attn_implementation == "eager":
            mask = torch.zeros(mask.shape, dtype=self.dtype, device=self.device).masked_fill(
                ~mask, torch.finfo(self.dtype).min
            )
        return mask, positions_NT
