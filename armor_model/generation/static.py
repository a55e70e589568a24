"""Static-shape decoding: sampling on the device, and steps that need no decision by the host.

Where every row draws (or every row writes), tokens stay on the device. `draw_sliced` is the eager form, which reads
only the KV slots in use; `draw_parallel` is the same for guessed codes. `StaticStep` is the same step on fixed buffers,
which torch.compile can fuse and a CUDA graph can replay; without CUDA it runs uncaptured, which is how the tests hold
it against the eager form.

Legend: n rows, m conditional rows (the others serve guidance), W codes at a time, S slots, L slots seen, D width, K
choices, N any number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.generation.state import Batch, Row, as_mask, attention

if TYPE_CHECKING:
    from armor_model.generation.api import GenerationSettings
    from armor_model.modeling import ArmorModel

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


# ---- sampling: one random number a row and step, so that a row's choice does not depend on its batch ---------------


def choose(logits_NK: Tensor, u_N: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Choices (N,): the most likely one at temperature 0, else the inverse of the cumulative distribution at `u_N`.

    Args:
        logits_NK: any float type; -inf never comes out.
        u_N: uniform numbers in [0, 1), one a row.
        temperature: divides the logits.
        top_k: keep the k most likely; 0 keeps all.
        top_p: of those, keep the smallest set that holds this probability.
    """
    if temperature == 0:
        return logits_NK.argmax(-1)
    scaled_NK = logits_NK.float() / temperature
    order_NK = None
    if 0 < top_k < scaled_NK.shape[-1]:
        scaled_NK, order_NK = scaled_NK.topk(top_k, dim=-1)
    elif top_p < 1:
        scaled_NK, order_NK = scaled_NK.sort(dim=-1, descending=True)
    p_NK = scaled_NK.softmax(-1)
    if top_p < 1:
        before_NK = p_NK.cumsum(-1) - p_NK
        p_NK = p_NK.masked_fill(before_NK >= top_p, 0)
    # in fp64: the running sum of 92 K small numbers must not lose the tail
    cumulative_NK = p_NK.double().cumsum(-1)
    target_N1 = u_N.to(cumulative_NK)[:, None] * cumulative_NK[:, -1:]
    index_N1 = torch.searchsorted(cumulative_NK, target_N1, right=True).clamp(max=p_NK.shape[-1] - 1)
    return (index_N1 if order_NK is None else order_NK.gather(-1, index_N1))[:, 0]


def guide(logits_nK: Tensor, cond: list[int] | Tensor, uncond: list[int] | Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: without + guidance * (with - without), for the conditional rows (m, K)."""
    without_mK = logits_nK[uncond].float()
    return without_mK + guidance * (logits_nK[cond].float() - without_mK)


def roles(rows: list[Row], guided: bool) -> tuple[list[int], list[int], list[int]]:
    """Indices of the conditional rows, of their unconditional ones (the same without guidance), and for each row the
    position in the first list whose token it is fed."""
    cond = [i for i, row in enumerate(rows) if row.conditional is None]
    if not guided:
        return cond, cond, list(range(len(cond)))
    index = {id(row): i for i, row in enumerate(rows)}
    position = {id(rows[i]): j for j, i in enumerate(cond)}
    uncond = [index[id(rows[i].unconditional)] for i in cond]
    return cond, uncond, [position[id(row.conditional or row)] for row in rows]


def code_logits(model: ArmorModel, visual_nD: Tensor) -> Tensor:
    """Logits of the codes alone: <imgend> and <imgpad> are not on offer."""
    logits = model.visual_logits(visual_nD)
    return logits[..., model.config.first_code_id :] if model.config.heads == "single" else logits[..., 2:]


# ---- the eager form ------------------------------------------------------------------------------------------------


def _pass_of(model: ArmorModel, s: GenerationSettings, batch: Batch, steps: int) -> Callable[[Tensor, int], Tensor]:
    """One pass of the next `steps`: tokens of the conditional rows (m, W) and how many steps are done to the codes that
    follow each of them (m, W), drawn with the very random numbers of these steps."""
    rows, n, device = batch.rows, len(batch.rows), batch.device
    cond, uncond, fed = roles(rows, s.guided)
    cond_m, uncond_m, fed_n = (torch.tensor(indices, device=device) for indices in (cond, uncond, fed))
    u_ms = batch.uniforms([rows[i] for i in cond], steps)
    starts, first = [row.start for row in rows], batch.slot
    low, padding = min(starts), max(starts) > min(starts)
    masks, positions = attention(model, rows, first, first + steps, low)
    rotary = model.rotary(model.new_embeddings, positions)

    def run(ids_mW: Tensor, done: int) -> Tensor:
        width, slot = ids_mW.shape[1], first + done
        now, mask = slice(done, done + width), None
        if masks is not None and (padding or width > 1):  # else one new token that may see all
            mask = masks[:, :, now, : slot + width - low]
        now_nW, now_rotary = positions[:, now], (rotary[0][:, now], rotary[1][:, now])
        batch.cache.at(n, slot, slot + width, low)
        batch.adapter_cache.at(n, slot, slot + width, low)
        hidden_nWD = model.backbone(model.embed(ids_mW[fed_n]), mask, now_nW, batch.cache, now_rotary)
        visual_nWD = model.visual_hidden(hidden_nWD, mask, now_nW, batch.adapter_cache, now_rotary)
        logits_nWK = code_logits(model, visual_nWD)
        logits_mWK = guide(logits_nWK, cond_m, uncond_m, s.guidance) if s.guided else logits_nWK
        u_N = u_ms[:, now].flatten()
        codes_N = choose(logits_mWK.flatten(0, 1), u_N, s.image_temperature, s.image_top_k, s.image_top_p)
        return codes_N.view(ids_mW.shape)

    return run


def draw_sliced(model: ArmorModel, s: GenerationSettings, batch: Batch, steps: int) -> Tensor:
    """`steps` codes for every conditional row (m, steps), one after the other; advances the batch's slot."""
    run, out = _pass_of(model, s, batch, steps), []
    ids_m1 = torch.tensor([[row.token] for row in batch.rows if row.conditional is None], device=batch.device)
    for t in range(steps):
        out.append(run(ids_m1, t))
        ids_m1 = out[-1] + model.config.first_code_id
    batch.slot += steps
    return torch.cat(out, 1)


def draw_parallel(model: ArmorModel, s: GenerationSettings, batch: Batch, steps: int, side: int) -> tuple[Tensor, int]:
    """Lossless parallel drawing, speculative Jacobi decoding with coupled draws: `steps` codes for every conditional
    row (m, steps), and the passes that they took; advances the batch's slot.

    Several codes (W) are guessed, one pass computes what would be drawn after each guessed prefix - with the very
    random numbers that one-by-one drawing uses there -, and the codes up to the first that differs from its guess, that
    one included, are exactly those of one-by-one drawing. The rest are the next guesses. Training-free; fewer steps for
    a few rows, more arithmetic in each: not for throughput.

    Method: Song et al. 2021 (arXiv 2002.03629), Teng et al. 2024 (arXiv 2410.01699); ours keeps one number a position,
    so that not the distribution alone but every image stays.

    `side`: codes in a line of the image; what lies above is the first guess.
    """
    run, first_code_id, done, passes = _pass_of(model, s, batch, steps), model.config.first_code_id, 0, 0
    drawn_mS = torch.tensor([row.codes for row in batch.rows if row.conditional is None], device=batch.device)
    token_m1 = drawn_mS[:, -1:] + first_code_id
    guess_mW = drawn_mS[:, :0]
    while done < steps:
        width = min(s.parallel_draw, steps - done)
        while guess_mW.shape[1] < width - 1:
            known_mS = torch.cat([drawn_mS, guess_mW], 1)
            above = known_mS[:, -side] if known_mS.shape[1] >= side else known_mS[:, -1]
            guess_mW = torch.cat([guess_mW, above[:, None]], 1)
        guess_mW = guess_mW[:, : width - 1]
        codes_mW = run(torch.cat([token_m1, guess_mW + first_code_id], 1), done)
        agreed = (codes_mW[:, :-1] == guess_mW).long().cumprod(1).sum(1)
        right = int(agreed.min()) + 1
        drawn_mS = torch.cat([drawn_mS, codes_mW[:, :right]], 1)
        token_m1, guess_mW = drawn_mS[:, -1:] + first_code_id, codes_mW[:, right:]
        done, passes = done + right, passes + 1
    batch.slot += steps
    return drawn_mS[:, -steps:], passes


# ---- the static form -----------------------------------------------------------------------------------------------


class StaticStep:
    """One step for a fixed number of rows and of slots seen, drawing or writing, on buffers that never move.

    Args:
        model: in evaluation mode.
        settings: how to decode.
        batch: whose caches the step holds on to.
        rows: at most the batch's.
        length: slots seen.
        drawing: whether the rows draw (else they write).
        max_steps: most steps between two calls of `load`.
        backend: torch.compile's, or an empty string.
        graph_pool: a list for the memory pool that the graphs of one batch share; the first to capture fills it.
    """

    def __init__(
        self,
        model: ArmorModel,
        settings: GenerationSettings,
        batch: Batch,
        rows: int,
        length: int,
        drawing: bool,
        max_steps: int,
        backend: str,
        graph_pool: list[tuple[int, int]],
    ):
        self.model, self.settings, self.batch = model, settings, batch
        self.rows, self.length, self.drawing, self.graph_pool = rows, length, drawing, graph_pool
        device = batch.device

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.ids_n1, self.starts_n, self.origins_n = zeros(rows, 1), zeros(rows), zeros(rows)
        self.slot_1, self.step_1 = zeros(1), zeros(1)
        self.u_ns = zeros(rows, max_steps + 2 * WARM_UP, dtype=torch.float64)
        self.tokens_ns = zeros(rows, max_steps + 2 * WARM_UP)
        self.cond_n, self.uncond_n, self.fed_n = (torch.arange(rows, device=device) for _ in range(3))
        self.no_image_n, self.masked_n = zeros(rows, dtype=torch.bool), zeros(rows)
        self.keys_L = torch.arange(length, device=device)
        self.views = batch.cache.first(rows)
        self.adapter_views = batch.adapter_cache.first(rows)
        self.hidden_nSD = batch.hidden_RSD[:rows]
        self.run = fused(self._step, backend) if backend else self._step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loaded: tuple[list[int], int, int] = ([], 0, 0)
        """Which rows the buffers describe, since which slot, and for how many steps they hold."""
        self.slot = 0
        # dynamic RoPE asks the host how long the text is: its cosines are computed outside of the graph
        kind = model.decoder.rotary_emb.rope_type
        self.rotary_outside = "dynamic" in kind or kind == "longrope"
        self.rotary = model.rotary(zeros(1, dtype=model.dtype), torch.zeros_like(self.ids_n1))

    def _positions(self) -> Tensor:
        return (self.slot_1 - self.origins_n)[:, None].clamp(min=0)

    def _update_rotary(self) -> None:
        fresh = self.model.rotary(self.rotary[0], self._positions())
        for buffer, value in zip(self.rotary, fresh, strict=True):
            buffer.copy_(value)

    def _step(self) -> None:
        model, batch, s = self.model, self.batch, self.settings
        positions_n1 = self._positions()
        seen_nL = (self.keys_L >= self.starts_n[:, None]) & (self.keys_L <= self.slot_1)
        mask = as_mask(model, seen_nL[:, None, None])
        if not self.rotary_outside:
            self._update_rotary()
        batch.cache.at_static(self.views, self.slot_1, self.length)
        hidden_n1D = model.backbone(model.embed(self.ids_n1), mask, positions_n1, batch.cache, self.rotary)
        u_n = self.u_ns.index_select(1, self.step_1)[:, 0]
        if self.drawing:
            batch.adapter_cache.at_static(self.adapter_views, self.slot_1, self.length)
            visual_n1D = model.visual_hidden(hidden_n1D, mask, positions_n1, batch.adapter_cache, self.rotary)
            logits_nK = code_logits(model, visual_n1D[:, 0])
            if s.guided:
                logits_nK = guide(logits_nK, self.cond_n, self.uncond_n, s.guidance)
            codes_n = choose(logits_nK, u_n, s.image_temperature, s.image_top_k, s.image_top_p)
            tokens_n = codes_n + model.config.first_code_id
        else:
            if batch.with_adapter:
                self.hidden_nSD.index_copy_(1, self.slot_1, hidden_n1D)
            logits_nK = model.text_logits(hidden_n1D[:, 0])
            self.masked_n.copy_(self.no_image_n & (logits_nK.argmax(-1) == model.config.imgbos_id))
            logits_nK[:, -1].masked_fill_(self.no_image_n, float("-inf"))
            tokens_n = choose(logits_nK, u_n, s.temperature, s.top_k, s.top_p)
        self.tokens_ns.index_copy_(1, self.step_1, tokens_n[:, None])
        self.ids_n1.copy_(tokens_n[self.fed_n][:, None])
        self.slot_1 += 1
        self.step_1 += 1

    def load(self, steps: int) -> int:
        """Fill the buffers from the batch's rows; padding rows see themselves only. Returns the number of conditional
        rows."""
        batch = self.batch
        cond, uncond, fed = roles(batch.rows, self.settings.guided and self.drawing)

        def fill(buffer: Tensor, values: list, padding: int) -> None:
            buffer.copy_(torch.tensor(values + [padding] * (len(buffer) - len(values)), dtype=buffer.dtype))

        fill(self.ids_n1[:, 0], [row.token for row in batch.rows], 0)
        fill(self.starts_n, [row.start for row in batch.rows], batch.slot)
        fill(self.origins_n, [row.origin for row in batch.rows], batch.slot)
        fill(self.cond_n, cond, 0)
        fill(self.uncond_n, uncond, 0)
        fill(self.fed_n, fed, 0)
        fill(self.no_image_n, [row.must_write(batch.slot) for row in batch.rows], True)
        self.loaded = ([id(row) for row in batch.rows], batch.slot, steps)
        self.slot = batch.slot
        self.slot_1.fill_(batch.slot)
        self.step_1.zero_()
        self.u_ns[: len(cond), :steps] = batch.uniforms([batch.rows[i] for i in cond], steps)
        if batch.device.type == "cuda" and self.graph is None:
            self._capture()
            return self.load(steps)  # the warm-up has moved the buffers on
        return len(cond)

    def _capture(self) -> None:
        """Capture the step. Warm-up writes slots that are written again before anything may see them."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                if self.rotary_outside:
                    self._update_rotary()
                self.run()
                self.slot_1 -= 1
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        # one pool for a batch's graphs: what a step leaves is in the buffers, so they may overwrite each other's
        if not self.graph_pool:
            self.graph_pool.append(torch.cuda.graph_pool_handle())
        with torch.cuda.graph(self.graph, pool=self.graph_pool[0]):
            self.run()

    def is_current(self) -> bool:
        """Whether the buffers go on where the batch is: same rows, no step by anybody else, random numbers left."""
        rows, since, steps = self.loaded
        taken = self.batch.slot - since
        return taken < steps and self.slot == self.batch.slot and rows == [id(row) for row in self.batch.rows]

    def advance(self) -> None:
        """One step; the tokens stay on the device."""
        if self.rotary_outside:
            self._update_rotary()
        if self.graph is not None:
            self.graph.replay()
        else:
            self.run()
        self.batch.slot += 1
        self.slot = self.batch.slot

    def last_tokens(self) -> tuple[list[int], list[int]]:
        """Each row's token of the last step, and whether a masked <imgbos> would have won; one transfer."""
        tokens_n = self.tokens_ns[:, self.slot - self.loaded[1] - 1]
        tokens, masked = torch.stack([tokens_n, self.masked_n]).tolist()
        return tokens, masked


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
