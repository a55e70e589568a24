"""Steps that need no decision: every row draws (or every row writes), so the tokens stay on the device.

`draw_sliced` is the eager form: it reads only the slots in use. `StaticStep` is the same step on fixed buffers, which
torch.compile can fuse and a CUDA graph can replay; without CUDA it runs uncaptured, which is how the tests hold it
against the eager form.

Legend: n rows, m rows that speak (not shadows), S slots, L slots seen, D width, K choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.generation.cache import as_mask, attention
from armor_model.generation.sampling import choose

if TYPE_CHECKING:
    from collections.abc import Callable

    from armor_model.generation.engine import Engine

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Row counts that graphs are captured for; a batch is padded to the next one."""
LENGTH_STEP = 256
"""Slots seen by a captured step are rounded up to this."""
COMPILE_PAYS = 20_000
"""Steps from which on `compile="auto"` compiles. An estimate, never measured on a GPU: about a minute for 35 blocks (46
CPU-seconds here), against some 3 ms a step for about 30 small kernels a block that fusion takes away."""
COMPILATIONS = 64
"""Most versions of the compiled step in a process; one more is an error of torch's."""
WARM_UP = 3
"""Uncaptured runs before a capture, as CUDA graphs ask for (lazy initialisations must be over)."""


def roles(engine: Engine, drawing: bool) -> tuple[list[int], list[int], list[int]]:
    """Rows that speak, their shadows (the same rows without guidance), and for each row the position in the first list
    whose code it is fed."""
    own = [i for i, row in enumerate(engine.rows) if row.owner is None]
    if not (engine.guided and drawing):
        return own, own, list(range(len(own)))
    at = {id(row): i for i, row in enumerate(engine.rows)}
    place = {id(engine.rows[i]): j for j, i in enumerate(own)}
    shadows = [at[id(engine.rows[i].shadow)] for i in own]
    return own, shadows, [place[id(row.owner or row)] for row in engine.rows]


def guide(engine: Engine, logits_nK: Tensor, own_m: Tensor, shadow_m: Tensor) -> Tensor:
    """Logits of the rows that speak: without + guidance * (with - without)."""
    if not engine.guided:
        return logits_nK
    without_mK = logits_nK[shadow_m].float()
    return without_mK + engine.settings.guidance * (logits_nK[own_m].float() - without_mK)


def code_logits(engine: Engine, visual_nD: Tensor) -> Tensor:
    """Logits of the codes alone: <imgend> and <imgpad> are not on offer."""
    logits = engine.model.visual_logits(visual_nD)
    return logits[:, engine.config.first_code_id :] if engine.single else logits[:, 2:]


def draw_sliced(engine: Engine, steps: int) -> Tensor:
    """`steps` codes for every row (m, steps); advances the engine's slot."""
    model, s, n = engine.model, engine.settings, len(engine.rows)
    device = engine.device
    own, shadows, feed = roles(engine, drawing=True)
    own_m, shadow_m = torch.tensor(own, device=device), torch.tensor(shadows, device=device)
    feed_n = torch.tensor(feed, device=device)
    ids_n1 = torch.tensor([[row.token] for row in engine.rows], device=device)
    u_ms = engine.uniforms([engine.rows[i] for i in own], steps)
    starts = [row.start for row in engine.rows]
    low, first, out = min(starts), engine.slot, []
    masks, positions = attention(model, starts, first, first + steps, low)
    if max(starts) == low:
        masks = None  # one new token a step, and no row has padding: it may see all
    rotary = model.model.language_model.rotary_emb(model.new_embeddings, positions)
    for t in range(steps):
        slot, now = first + t, slice(t, t + 1)
        mask = None if masks is None else masks[:, :, now, : slot + 1 - low]
        turn = (positions[:, now], engine.cache, tuple(part[:, now] for part in rotary))
        for cache in (engine.cache, engine.adapter_cache):
            cache.window(n, slot, slot + 1, low)
        hidden_n1D = model.backbone(model.embed(ids_n1), mask, *turn)
        visual_n1D = model.visual_hidden(hidden_n1D, mask, turn[0], engine.adapter_cache, turn[2])
        logits_mK = guide(engine, code_logits(engine, visual_n1D[:, 0]), own_m, shadow_m)
        codes_m = choose(logits_mK, u_ms[:, t], s.image_temperature, s.image_top_k, s.image_top_p)
        out.append(codes_m)
        ids_n1 = (codes_m + engine.config.first_code_id)[feed_n][:, None]
    engine.slot += steps
    return torch.stack(out, 1)


class StaticStep:
    """One step for a fixed number of rows and of slots seen, drawing or writing, on buffers that never move."""

    def __init__(self, engine: Engine, rows: int, length: int, drawing: bool):
        self.engine, self.rows, self.length, self.drawing = engine, rows, length, drawing
        device = engine.device
        self.ids_n1 = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.starts_n = torch.zeros(rows, dtype=torch.long, device=device)
        self.slot_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.turn_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.u_ns = torch.zeros(rows, engine.budget + 2 * WARM_UP, dtype=torch.float64, device=device)
        self.said_ns = torch.zeros(rows, engine.budget + 2 * WARM_UP, dtype=torch.long, device=device)
        self.own_n = torch.arange(rows, device=device)
        self.shadow_n = torch.arange(rows, device=device)
        self.feed_n = torch.arange(rows, device=device)
        self.barred_n = torch.zeros(rows, dtype=torch.bool, device=device)
        self.masked_n = torch.zeros(rows, dtype=torch.long, device=device)
        self.keys_L = torch.arange(length, device=device)
        self.views = engine.cache.first(rows)
        self.adapter_views = engine.adapter_cache.first(rows) if engine.adapter_cache is not None else []
        self.hidden_nSD = engine.hidden_RSD[:rows] if engine.hidden_RSD is not None else None
        self.step = fused(self._step, engine.compile) if engine.compile else self._step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.filled: tuple[list[int], int, int] = ([], 0, 0)
        """Which rows the buffers describe, since which slot, and for how many steps they hold."""
        # dynamic RoPE asks the host how long the text is: its cosines are computed outside of the graph
        rotary = engine.model.model.language_model.rotary_emb
        self.rotary_outside = "dynamic" in rotary.rope_type or rotary.rope_type == "longrope"
        self.rotary = rotary(torch.zeros(1, dtype=engine.dtype, device=device), torch.zeros_like(self.ids_n1))

    def _positions(self) -> Tensor:
        return (self.slot_1 - self.starts_n)[:, None].clamp(min=0)

    def _update_rotary(self) -> None:
        fresh = self.engine.model.model.language_model.rotary_emb(self.rotary[0], self._positions())
        for buffer, value in zip(self.rotary, fresh, strict=True):
            buffer.copy_(value)

    def _step(self) -> None:
        e, s = self.engine, self.engine.settings
        positions_n1 = self._positions()
        seen_nL = (self.keys_L >= self.starts_n[:, None]) & (self.keys_L <= self.slot_1)
        mask = as_mask(e.model, seen_nL[:, None, None])
        if not self.rotary_outside:
            self._update_rotary()
        e.cache.static(self.views, self.slot_1, self.length)
        embeds_n1D = e.model.embed(self.ids_n1)
        hidden_n1D = e.model.backbone(embeds_n1D, mask, positions_n1, e.cache, self.rotary)
        u_n = self.u_ns.index_select(1, self.turn_1)[:, 0]
        if self.drawing:
            e.adapter_cache.static(self.adapter_views, self.slot_1, self.length)
            visual_n1D = e.model.visual_hidden(hidden_n1D, mask, positions_n1, e.adapter_cache, self.rotary)
            logits_nK = guide(e, code_logits(e, visual_n1D[:, 0]), self.own_n, self.shadow_n)
            said_n = choose(logits_nK, u_n, s.image_temperature, s.image_top_k, s.image_top_p) + e.config.first_code_id
        else:
            if self.hidden_nSD is not None:
                self.hidden_nSD.index_copy_(1, self.slot_1, hidden_n1D)
            logits_nK = e.model.text_logits(hidden_n1D[:, 0])
            self.masked_n.copy_(self.barred_n & (logits_nK.argmax(-1) == e.config.imgbos_id))
            logits_nK[:, -1].masked_fill_(self.barred_n, float("-inf"))
            said_n = choose(logits_nK, u_n, s.temperature, s.top_k, s.top_p)
        self.said_ns.index_copy_(1, self.turn_1, said_n[:, None])
        self.ids_n1.copy_(said_n[self.feed_n][:, None])
        self.slot_1 += 1
        self.turn_1 += 1

    def begin(self, steps: int) -> int:
        """Fill the buffers from the engine's rows; padding rows see themselves only. Returns how many rows speak."""
        e = self.engine
        own, shadows, feed = roles(e, self.drawing)

        def fill(buffer: Tensor, values: list, padding: int) -> None:
            buffer.copy_(torch.tensor(values + [padding] * (len(buffer) - len(values)), dtype=buffer.dtype))

        fill(self.ids_n1[:, 0], [row.token for row in e.rows], 0)
        fill(self.starts_n, [row.start for row in e.rows], e.slot)
        fill(self.own_n, own, 0)
        fill(self.shadow_n, shadows, 0)
        fill(self.feed_n, feed, 0)
        fill(self.barred_n, [e.barred(row) for row in e.rows], True)
        self.filled = ([id(row) for row in e.rows], e.slot, steps)
        self.at = e.slot
        self.slot_1.fill_(e.slot)
        self.turn_1.zero_()
        self.u_ns[: len(own), :steps] = e.uniforms([e.rows[i] for i in own], steps)
        if e.device.type == "cuda" and self.graph is None:
            self._capture()
            return self.begin(steps)  # the warm-up has moved the buffers on
        return len(own)

    def _capture(self) -> None:
        """Capture the step. Warm-up writes slots that are written again before anything may see them."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                if self.rotary_outside:
                    self._update_rotary()
                self.step()
                self.slot_1 -= 1
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # one pool for an engine's graphs: what a step leaves is in the buffers, so they may overwrite each other's
        if self.engine.graph_pool is None:
            self.engine.graph_pool = torch.cuda.graph_pool_handle()
        with torch.cuda.graph(self.graph, pool=self.engine.graph_pool):
            self.step()

    def stands(self) -> bool:
        """The buffers go on where the engine is: same rows, no step by anybody else, numbers left to draw."""
        rows, since, steps = self.filled
        taken = self.engine.slot - since
        return taken < steps and self.at == self.engine.slot and rows == [id(row) for row in self.engine.rows]

    def advance(self) -> None:
        """One step; what was said stays on the device."""
        if self.rotary_outside:
            self._update_rotary()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step()
        self.engine.slot += 1
        self.at = self.engine.slot

    def newest(self) -> tuple[list[int], list[int]]:
        """What each row said in the last step, and whether <imgbos> would have won where it is barred; one transfer."""
        said_n = self.said_ns[:, self.at - self.filled[1] - 1]
        said, masked = torch.stack([said_n, self.masked_n]).tolist()
        return said, masked


def fused(step: Callable[[], None], backend: str) -> Callable[[], None]:
    """The step under torch.compile. All steps share one method, whose compilations are kept for the process: after the
    second shape torch makes sizes symbolic, so that a few serve every number of rows and slots."""
    compiled = torch.compile(step, backend=backend, fullgraph=True)

    def call() -> None:
        # torch's own limit of 8 is soon reached: drawing and writing, one row and several, settings that are constants
        with torch._dynamo.config.patch(recompile_limit=COMPILATIONS):
            compiled()

    return call


def padded(count: int) -> int:
    """The captured row count for `count` rows."""
    return next((size for size in SIZES if size >= count), count)
