"""A model's steps against what the machine could do: the rows that `make bench` prints for a GPU at InternVL2.5-8B's
sizes, and for a CPU at armor-nano's. Every row comes from the same code on both.

floor of a step = max((weights + keys and values) / copy bandwidth, FLOPs / matrix rate), both rates measured here.

Legend: n rows (with guidance twice the pictures), L positions seen, D width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from armor_model.generation.api import GenerationSettings
from armor_model.generation.engine import Engine
from armor_model.generation.state import Batch, Request, as_mask
from armor_model.generation.static import StaticStep
from armor_model.presets import block, count

DRAW = GenerationSettings(force_image=True, stop_after_image=True, max_images=1, max_new_tokens=1)
UNCONDITIONAL = 12
"""Tokens of the prompt that guidance compares with."""
KINDS = {
    "draw": "time of a code over the floor, images/s",
    "text": "time of a text token over the floor",
    "shares": "shares of head, adapter and attention in a step",
    "compile": "time of compiled steps over plain ones",
    "vqgan": "VQGAN decoding over its floor, images/s",
    "memory": "peak over weights and cache",
}


@dataclass
class Plan:
    """What is measured, where, and how often."""

    device: str
    batches: tuple[int, ...] = (1, 8, 32, 64, 128)
    guidances: tuple[float, ...] = (1.0, 3.0)
    text_batches: tuple[int, ...] = (1, 64, 128)
    share_batches: tuple[int, ...] = (1, 64)
    compile_batches: tuple[int, ...] = (1, 64)
    vqgan_batches: tuple[int, ...] = (1, 8, 64)
    prompt: int = 64
    """Tokens of each request."""
    text_tokens: int = 128
    runs: int = 3
    copy_bytes: int = 2**30
    matrix: int = 8192
    """Side of the square matrices whose product gives the matrix rate."""
    backend: bool | str = True
    """`compile` of the compiled rows."""

    @property
    def cuda(self) -> bool:
        return self.device.startswith("cuda")


@dataclass
class Rates:
    """Measured ceilings."""

    bandwidth: float
    """Bytes/s of a large copy, read and written."""
    flops: float
    """FLOP/s of a large matrix product in the model's type."""

    def floor(self, size: float, flops: float) -> float:
        """Seconds."""
        return max(size / self.bandwidth, flops / self.flops)


def clock(plan: Plan) -> float:
    """Seconds: of the wall once a GPU is idle, of this process on a CPU that others may share."""
    if plan.cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def seconds(plan: Plan, work: Callable[[], Any], repeats: int = 10) -> float:
    """Median seconds of one `work`; on CUDA replayed from a graph, so that launch gaps do not count."""
    work()
    if plan.cuda:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        work = graph.replay
    times = []
    for _ in range(plan.runs):
        start = clock(plan)
        for _ in range(repeats):
            work()
        times.append((clock(plan) - start) / repeats)
    return statistics.median(times)


def rates(plan: Plan, dtype: torch.dtype) -> Rates:
    a = torch.empty(plan.copy_bytes, dtype=torch.uint8, device=plan.device)
    b = torch.empty_like(a)
    m = torch.randn(plan.matrix, plan.matrix, device=plan.device).to(dtype)
    out = torch.empty_like(m)
    copying = seconds(plan, lambda: b.copy_(a))
    return Rates(2 * plan.copy_bytes / copying, 2 * plan.matrix**3 / seconds(plan, lambda: torch.matmul(m, m, out=out)))


@dataclass
class Cost:
    """Bytes and FLOPs of a step, from the configuration alone."""

    config: dict[str, Any]
    itemsize: int
    drawing: bool

    def floor(self, rates: Rates, rows: int, seen: float) -> float:
        """Seconds of one step of `rows` rows, each over `seen` positions."""
        t, parts = self.config["text_config"], count(self.config)
        layers = t["num_hidden_layers"] + (self.config["num_adapter_layers"] if self.drawing else 0)
        weights = layers * block(t) + parts["visual_head" if self.drawing else "text_head"]
        head_dim = t.get("head_dim") or t["hidden_size"] // t["num_attention_heads"]
        cached = 2 * layers * t["num_key_value_heads"] * head_dim * seen * rows
        attention = 4 * layers * t["num_attention_heads"] * head_dim * seen * rows
        return rates.floor(self.itemsize * (weights + cached), 2 * weights * rows + attention)


class Timed(Engine):
    """An engine that times its steps apart from prefills, and from what is done once for a finished row: a prefix
    cache's copy of it would count for much in images of 16 codes."""

    def __init__(self, plan: Plan, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.plan, self.spent, self.stepped, self.settling = plan, 0.0, 0, 0.0

    def _time(self, work: Callable[..., None], batch: Batch, *args: Any) -> None:
        start, slot, self.settling = clock(self.plan), batch.slot, 0.0
        work(batch, *args)
        self.spent += clock(self.plan) - start - self.settling
        self.stepped += batch.slot - slot

    def _settle(self, batch: Batch) -> None:
        start = clock(self.plan)
        super()._settle(batch)
        self.settling += clock(self.plan) - start

    def _draw(self, batch: Batch, steps: int) -> None:
        self._time(super()._draw, batch, steps)

    def _write(self, batch: Batch) -> None:
        self._time(super()._write, batch)

    def _step(self, batch: Batch) -> None:
        self._time(super()._step, batch)


def run(plan: Plan, engine: Timed, batch: int) -> tuple[float, float, int]:
    """Median seconds of a run and of a step, and steps; after a first run that captures or compiles."""
    requests = [Request([7] * plan.prompt, [], i) for i in range(batch)]
    engine.run(requests)
    whole, per_step = [], []
    for _ in range(plan.runs):
        engine.spent, engine.stepped = 0.0, 0
        start = clock(plan)
        engine.run(requests)
        whole.append(clock(plan) - start)
        per_step.append(engine.spent / engine.stepped)
    return statistics.median(whole), statistics.median(per_step), engine.stepped


def engine_for(plan: Plan, model: Any, settings: GenerationSettings, batch: int, **options: Any) -> Timed:
    return Timed(plan, model, settings, [], [5] * UNCONDITIONAL, batch, **options)


def seen(plan: Plan, guidance: float, drawn: float) -> float:
    """Positions that a row sees after so many codes; with guidance the mean of a row and its unconditional one."""
    shorter = 0 if guidance == 1 else (plan.prompt - UNCONDITIONAL) / 2
    return plan.prompt + 1 + drawn - shorter


def sizes(model: Any, engine: Engine) -> tuple[int, int]:
    """Bytes of the weights, with oneDNN's copy of them where there is one, and of what the engine has allocated for its
    rows."""
    weights = sum(p.nbytes for p in model.parameters())
    weights += sum(each.module.weight.nbytes for each in engine._kernels.products if each.laid_out)
    batch = engine.batch
    return weights, sum(t.nbytes for t in (*batch.cache.stores, *batch.adapter_cache.stores, batch.hidden_RSD))


def rows(plan: Plan, model: Any, config: dict[str, Any], vq: Any) -> Iterator[tuple[str, str, float, str, dict]]:
    """(kind, name, value, unit, more) of every row; `config` is the model's as a preset's settings."""
    itemsize, codes = model.dtype.itemsize, model.config.codes_per_image
    ceiling = rates(plan, model.dtype)
    reached = {"gb_per_s": ceiling.bandwidth / 1e9, "tflops": ceiling.flops / 1e12}
    for guidance in plan.guidances:
        for batch in plan.batches:
            if plan.cuda:
                torch.cuda.reset_peak_memory_stats()
            engine = engine_for(plan, model, replace(DRAW, guidance=guidance), batch)
            whole, step, _ = run(plan, engine, batch)
            cost, n = Cost(config, itemsize, True), batch * (1 if guidance == 1 else 2)
            floor = statistics.mean(cost.floor(ceiling, n, seen(plan, guidance, t)) for t in range(codes))
            decoding = seconds(plan, decoder(plan, vq, batch), 1)
            more = {
                "ms": 1e3 * step,
                "floor_ms": 1e3 * floor,
                "images_per_s": batch / (whole + decoding),
                "floor_images_per_s": batch / (codes * floor),
                **reached,
            }
            yield "draw", f"draw, batch {batch}, guidance {guidance:g}: step over the floor", step / floor, "x", more
            if plan.cuda:
                weights, cache = sizes(model, engine)
                peak = torch.cuda.max_memory_allocated()
                more = {"peak_gb": peak / 1e9, "weights_gb": weights / 1e9, "cache_gb": cache / 1e9}
                name = f"draw, batch {batch}, guidance {guidance:g}: peak over weights and cache"
                yield "memory", name, peak / (weights + cache), "x", more
            del engine
    writing = GenerationSettings(max_new_tokens=plan.text_tokens, allow_images=False)
    for batch in plan.text_batches:
        _, step, steps = run(plan, engine_for(plan, model, writing, batch), batch)
        floor = statistics.mean(
            Cost(config, itemsize, False).floor(ceiling, batch, plan.prompt + 1 + t) for t in range(steps)
        )
        more = {"ms": 1e3 * step, "floor_ms": 1e3 * floor, "tokens_per_s": batch / step}
        yield "text", f"text, batch {batch}: step over the floor", step / floor, "x", more
    for batch in plan.share_batches:
        for part, share, whole in shares(plan, model, batch):
            yield "shares", f"draw, batch {batch}: share of {part}", 100 * share, "%", {"step_ms": 1e3 * whole}
    for batch in plan.compile_batches:
        plain = run(plan, engine_for(plan, model, DRAW, batch, static=True, compile=False), batch)[1]
        start = time.perf_counter()
        fused = engine_for(plan, model, DRAW, batch, compile=plan.backend)
        step = run(plan, fused, batch)[1]
        more = {"ms": 1e3 * step, "plain_ms": 1e3 * plain, "with_compiling_s": time.perf_counter() - start}
        yield "compile", f"draw, batch {batch}: compiled over plain static steps", step / plain, "x", more
    vq_ceiling = ceiling if vq_dtype(vq) == model.dtype else rates(plan, vq_dtype(vq))
    for batch in plan.vqgan_batches:
        taken = seconds(plan, decoder(plan, vq, batch), 1)
        floor = vqgan_floor(plan, vq, batch, vq_ceiling)
        more = {"images_per_s": batch / taken, "floor_images_per_s": batch / floor}
        yield "vqgan", f"VQGAN decoding, batch {batch}: time over the floor", taken / floor, "x", more


# ---- parts -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def shares(plan: Plan, model: Any, batch: int) -> Iterator[tuple[str, float, float]]:
    """(part, its share of a drawing step in the middle of a picture, the step's seconds), each part timed alone on the
    step's own buffers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    engine = engine_for(plan, model, DRAW, batch, static=True, compile=False)
    engine.run([Request([7] * plan.prompt, [], i) for i in range(batch)])
    step: StaticStep = max((s for (*_, drawing), s in engine.steps.items() if drawing), key=lambda s: s.rows)
    middle = engine.prompt + model.config.codes_per_image // 2

    def whole() -> None:
        step.slot_1.fill_(middle)
        step.step_1.zero_()
        step.run()

    taken = seconds(plan, whole)
    step.slot_1.fill_(middle)
    hidden_n1D = torch.randn(step.rows, 1, model.config.text_config.hidden_size, device=plan.device).to(model.dtype)
    seen_nL = (step.keys_L >= step.starts_n[:, None]) & (step.keys_L <= step.slot_1)
    mask, positions = as_mask(model, seen_nL[:, None, None]), step.slot_1.expand(step.rows)[:, None]

    def adapter() -> None:
        adapter_cache = step.batch.adapter_cache
        adapter_cache.at_static(step.adapter_views, step.slot_1, step.length)
        model.visual_hidden(hidden_n1D, mask, positions, adapter_cache, step.rotary)

    stacks = [(model.model.language_model.layers, step.views), (model.adapter, step.adapter_views)]
    layers = [(layer.self_attn, *views[i]) for blocks, views in stacks for i, layer in enumerate(blocks)]
    kernel = ALL_ATTENTION_FUNCTIONS[model.config.text_config._attn_implementation]
    heads, width = model.config.text_config.num_attention_heads, layers[0][1].shape[-1]
    query = torch.randn(step.rows, heads, 1, width, device=plan.device).to(model.dtype)

    def attention() -> None:
        for layer, keys, values in layers:
            kernel(layer, query, keys[:, :, : step.length], values[:, :, : step.length], mask, scaling=layer.scaling)

    for name, work in (
        ("the visual head", lambda: model.visual_logits(hidden_n1D[:, 0])),
        ("the text head, which drawing does not compute", lambda: model.text_logits(hidden_n1D[:, 0])),
        ("the adapter", adapter),
        ("attention over the cache", attention),
    ):
        yield name, seconds(plan, work) / taken, taken


def vq_dtype(vq: Any) -> torch.dtype:
    return next(vq.parameters()).dtype


def decoder(plan: Plan, vq: Any, batch: int) -> Callable[[], None]:
    codes = torch.randint(vq.codebook_size, (batch, vq.grid, vq.grid), device=plan.device)

    @torch.inference_mode()
    def work() -> None:
        vq._decode(codes)  # `decode` without its check of the range, which asks the host

    return work


@torch.inference_mode()
def vqgan_floor(plan: Plan, vq: Any, batch: int, ceiling: Rates) -> float:
    """Seconds: the decoder's FLOPs as torch counts them, or its codebook and output read and written once."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        decoder(plan, vq, 1)()
    size = sum(p.nbytes for p in vq.parameters()) + batch * 3 * vq.image_size**2 * vq_dtype(vq).itemsize
    return ceiling.floor(size, batch * counter.get_total_flops())
