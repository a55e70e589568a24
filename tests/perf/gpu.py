"""Everything that only a GPU can say, in one script of 8 minutes on one card: JSON and a Markdown table.

    python tests/perf/gpu.py --out reports/gpu          # InternVL2.5-8B's sizes, random bf16 weights
    python tests/perf/gpu.py --out /tmp/gpu --tiny      # the same code at tiny sizes on a CPU

Whoever has a card runs it and commits what it writes, with the card's name in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import floor
import stage2_step
import torch

from armor_model.generation.api import GenerationSettings
from armor_model.generation.state import Request
from armor_model.presets import block, preset_dict

Row = dict[str, Any]
PLAN = floor.Plan(
    "cuda",
    batches=(1, 16, 64),
    text_batches=(1, 16, 64),
    share_batches=(16,),
    compile_batches=(),
    vqgan_batches=(1, 64),
    runs=2,
)
TINY = floor.Plan(
    "cpu",
    batches=(2,),
    guidances=(1.0,),
    text_batches=(2,),
    share_batches=(2,),
    compile_batches=(),
    vqgan_batches=(1,),
    prompt=9,
    text_tokens=4,
    runs=1,
    copy_bytes=2**20,
    matrix=128,
)


def decode(plan: floor.Plan, name: str, model: Any, vq: Any) -> Iterator[Row]:
    """Steps of drawing and writing over the machine's floor, and peak memory."""
    for _, row, value, unit, more in floor.rows(plan, model, preset_dict(name), vq):
        yield {"name": row, "value": value, "unit": unit, **more}


def prefill(plan: floor.Plan, name: str, model: Any, rows: int, tiles: int) -> Iterator[Row]:
    """Questions about images of `tiles` tiles, one token answered: tokens/s, and the share of the measured matrix rate
    that the decoder's products alone come to (the vision tower's are not counted, so MFU is a lower bound)."""
    config, sizes = model.config, preset_dict(name)
    vision = sizes["vision_config"]
    side, patch = (max(v) if isinstance(v := vision[key], (list, tuple)) else v for key in ("image_size", "patch_size"))
    per_tile = int((side // patch * config.downsample_ratio) ** 2)
    pixels = torch.zeros(tiles, 3, side, side, dtype=model.dtype)
    ids = [7] * 8 + [config.image_token_id] * (tiles * per_tile) + [7] * plan.prompt
    settings = GenerationSettings(max_new_tokens=1, allow_images=False)
    engine = floor.engine_for(plan, model, settings, rows)
    requests = [Request(ids, [pixels.clone()], i) for i in range(rows)]
    taken = []
    for turn in range(plan.runs + 1):
        began = floor.clock(plan)
        engine.run(requests)
        if turn:
            taken.append(floor.clock(plan) - began)
    seconds, tokens = statistics.median(taken), rows * len(ids)
    text = sizes["text_config"]
    work = 2 * tokens * text["num_hidden_layers"] * block(text)
    rate = floor.rates(plan, model.dtype).flops
    label = f"prefill, {rows} questions of {tiles} tiles"
    yield {
        "name": label,
        "value": tokens / seconds,
        "unit": "tokens/s",
        "mfu": work / seconds / rate,
        "ms": 1e3 * seconds,
    }


def refill(plan: floor.Plan, model: Any, rows: int, requests: int) -> Iterator[Row]:
    """Answers of very mixed length (each token ends it with 1 in 20): refilled against whole batches."""
    stops = list(range(0, model.config.vocab_size, 20))
    settings = GenerationSettings(max_new_tokens=plan.text_tokens, temperature=1.0, allow_images=False)
    asked = [Request([7] * plan.prompt, [], i) for i in range(requests)]
    seconds = {}
    for how in ("whole batches", "refilled"):
        engine = floor.Timed(plan, model, settings, stops, [5] * 12, rows)
        groups = [asked] if how == "refilled" else [asked[i : i + rows] for i in range(0, requests, rows)]
        for group in groups[:1]:
            engine.run(group[:rows])  # graphs are captured
        began = floor.clock(plan)
        for group in groups:
            engine.run(group)
        seconds[how] = floor.clock(plan) - began
    yield {
        "name": f"refill against whole batches, {rows} rows, {requests} answers",
        "unit": "x",
        "value": seconds["whole batches"] / seconds["refilled"],
        "answers_per_s": requests / seconds["refilled"],
    }


def judging(plan: floor.Plan, images: int) -> Iterator[Row]:
    """GenEval's batched judge with the shapes world's detector (RTMDet), images a second."""
    import numpy as np

    from armor_eval.shapes.detector import EmbeddedDetector
    from armor_eval.tasks.geneval.prompts import load_vocabulary

    detector = EmbeddedDetector(load_vocabulary("shapes"), plan.device)
    shown = list(np.random.default_rng(0).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8))
    detector.detect(shown[:4])
    began = time.perf_counter()
    detector.detect(shown)
    yield {
        "name": f"judging {images} images, embedded detector",
        "value": images / (time.perf_counter() - began),
        "unit": "images/s",
    }


def training(plan: floor.Plan, name: str, batch: int) -> Iterator[Row]:
    """A stage-2 step: tokens/s, MFU against the vendor's peak, memory, beside the plainly written step."""
    result = stage2_step.measure(name, batch, plan.runs + 1, plan.device)
    ours, plain = result["ours"], result["plain"]
    yield {
        "name": f"stage-2 step, batch {batch}",
        "value": ours["tokens_per_second"],
        "unit": "tokens/s",
        "mfu": ours["utilisation"],
        "peak_gb": ours["peak_bytes"] and ours["peak_bytes"] / 1e9,
        "over_plain": ours["tokens_per_second"] / plain["tokens_per_second"],
    }


def measure(plan: floor.Plan, name: str, until: float) -> list[Row]:
    """All rows; what fails, or is still to come at `until` (of `time.perf_counter`), is a row that says why, and the
    rest goes on."""
    from test_perf_floor import random_model

    tiny = not plan.cuda
    dtype = torch.float32 if tiny else torch.bfloat16
    longer = plan if tiny else replace(plan, text_tokens=256)
    rows = attempted("training", until, training, plan, name, 2 if tiny else 8)  # the others need the memory after it
    gc.collect()
    if plan.cuda:
        torch.cuda.empty_cache()
    model, vq = random_model(name, dtype, plan.device)
    rows += attempted("prefill", until, prefill, plan, name, model, *((2, 1) if tiny else (16, 6)))
    rows += attempted("refill", until, refill, longer, model, *((2, 6) if tiny else (16, 128)))
    rows += attempted("judging", until, judging, plan, 4 if tiny else 256)
    return rows + attempted("decode", until, decode, plan, name, model, vq)


def attempted(part: str, until: float, work: Callable[..., Iterator[Row]], *what: Any) -> list[Row]:
    """The part's rows so far, and why no more came."""
    rows: list[Row] = []
    try:
        for row in work(*what) if time.perf_counter() < until else ():
            rows.append({"part": part, **row})
            if time.perf_counter() >= until:
                break
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        rows.append({"part": part, "name": part, "value": None, "unit": "", "not_measured": reason})
    if time.perf_counter() >= until:
        reason = "the minutes were over"
        rows.append({"part": part, "name": f"{part}: what follows", "value": None, "unit": "", "not_measured": reason})
    return rows


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown."""
    head = f"# {result['model']} on {result['device']}"
    lines = [
        head,
        "",
        f"torch {result['torch']}, {result['seconds']:.0f} s.",
        "",
        "| part | what | value | more |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        value = "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
        fixed = ("part", "name", "value", "unit")
        more = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items() if k not in fixed
        )
        lines.append(f"| {row['part']} | {row['name']} | {value} | {more} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--preset", default="internvl2_5-8b")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is begun")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU: whether the script runs")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        print("no GPU here: --tiny tries the script at tiny sizes")
        return 2
    began = time.perf_counter()
    plan, name = (TINY, "tiny") if args.tiny else (PLAN, args.preset)
    rows = measure(plan, name, began + 60 * args.minutes)
    device = f"{platform.processor() or 'CPU'} (tiny sizes)" if args.tiny else torch.cuda.get_device_name()
    result = {
        "model": name,
        "device": device,
        "torch": torch.__version__,
        "seconds": time.perf_counter() - began,
        "rows": rows,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "gpu.md").write_text(table(result))
    print(table(result))
    return 1 if any(row["value"] is None for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
