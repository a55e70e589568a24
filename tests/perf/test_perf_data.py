"""Training data against the plain ways: tokenising by tiles that are cut, by one process; loading the global batch."""

from __future__ import annotations

import io
import json
import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from armor_model import bundled
from armor_model.images import open_image
from trainer.batches import collate
from trainer.config import Optimization
from trainer.data.records import Tally, checked, encode, to_messages
from trainer.data.shards import Shards
from trainer.data.tokenizing import Job, load, make_shard, tokenize
from trainer.loader import DataLoader, Mixture

pytestmark = pytest.mark.perf
SIZE = "armor-nano"


def photo(number: int, side: int = 512) -> bytes:
    """A JPEG with as much detail as a photograph: smooth noise and some grain."""
    rng = np.random.default_rng(number)
    rough = Image.fromarray(rng.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8)).resize((side, side))
    grain = rng.normal(0, 8, (side, side, 3))
    out = io.BytesIO()
    Image.fromarray((np.asarray(rough) + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def processor():
    """armor-nano's words, InternVL2.5's tiles."""
    torch.set_num_threads(1)
    processor = load(bundled("armor-nano"), "cpu")
    processor.settings.image_size, processor.settings.image_seq_length, processor.settings.max_tiles = 448, 256, 12
    return processor


def corpus(folder, images: int, kind: str = "ti2t"):
    talk = {"ti2t": ("<image>\nwhat is it?", "red"), "t2i": ("draw a red circle.", "<image>")}[kind]
    lines = []
    for i in range(images):
        (folder / f"{i}.jpg").write_bytes(photo(i))
        turns = [{"from": who, "value": words} for who, words in zip(("human", "gpt"), talk, strict=True)]
        lines.append(json.dumps({"id": str(i), "conversations": turns, "images": [f"{i}.jpg"]}))
    (folder / "c.jsonl").write_text("\n".join(lines))
    return folder / "c.jsonl"


def test_an_image_to_look_at_is_measured_and_not_cut(tmp_path, processor, bench_row):
    n = 40
    raw = [json.loads(line) for line in corpus(tmp_path, n).read_text().splitlines()]
    job = Job(tmp_path, tmp_path, 8192, 32)
    times = {"cut_s": [], "counted_s": []}
    for _ in range(3):
        started = time.process_time()
        for record in raw:
            record = checked(record, "", tmp_path, Tally())
            messages = to_messages(record, [open_image(path) for path in record["images"]], [])
            encode(processor, "ti2t", messages)
        times["cut_s"].append((time.process_time() - started) / n)
        started = time.process_time()
        assert make_shard(processor, job, "shard-000000.parquet", [("", r) for r in raw])["rows"] == n
        times["counted_s"].append((time.process_time() - started) / n)
    best = {name: min(values) for name, values in times.items()}
    share = best["counted_s"] / best["cut_s"]
    bench_row("tokenize: CPU of a 512x512 image to look at", share, "of cutting its tiles", "<= 0.6", **best)
    assert share <= 0.6


def rate(out) -> float:
    """Shards a second, once the workers run."""
    at = sorted(path.stat().st_mtime for path in out.glob("*.parquet"))
    return (len(at) - 2) / (at[-1] - at[1])


def test_two_workers_tokenise_twice_as_fast(tmp_path, processor, bench_row):
    file = corpus(tmp_path, 48)
    file.write_text("\n".join([file.read_text()] * 20))
    how = {"shard_size": 48, "max_length": 8192}
    nano = load(bundled("armor-nano"), "cpu")
    tokenize(file, tmp_path / "one", nano, "nano", **how)
    by = {"workers": 2, "load": partial(load, bundled("armor-nano"), "cpu")}
    tokenize(file, tmp_path / "two", nano, "nano", **how, **by)
    one, two = rate(tmp_path / "one"), rate(tmp_path / "two")
    bench_row("tokenize: two workers", two / one, "x of one", ">= 1.8", shards_s=two)


def test_a_process_pays_for_its_own_conversations(tmp_path, processor, bench_row):
    talk = [{"from": "human", "value": "draw a red circle. " * 40}, {"from": "gpt", "value": "a red circle. " * 60}]
    lines = [json.dumps({"id": str(i), "conversations": talk}) for i in range(2048)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    tokenize(tmp_path / "c.jsonl", tmp_path / "s", processor, "nano")
    pools, steps, own = Shards([tmp_path / "s"], processor).pools(), 12, 8

    def seconds(world: int, whole: bool) -> float:
        batch = own * world
        loader = DataLoader(Mixture(pools, {"t2t": 2048}, batch, 5), Optimization(steps, batch), (0, world), (0, 1))
        loader.make(0)
        started = time.process_time()
        for step in range(steps):
            if whole:  # what every process did before: read the global batch, keep a slice
                collate(sorted(loader.mixture.batch(step), key=len)[::world], 0, 1)
            else:
                loader.make(step)
        return (time.process_time() - started) / steps

    alone, ours, plain = seconds(1, False), seconds(64, False), seconds(64, True)
    about = {"one_ms": alone * 1e3, "of_64_ms": ours * 1e3, "whole_ms": plain * 1e3}
    bench_row("loader: CPU of a step for one of 64 processes", ours / alone, "of a process alone", "<= 1.5", **about)
    bench_row("loader: one of 64 processes", plain / ours, "x less CPU than the global batch", ">= 10")
    assert ours <= 1.5 * alone and plain >= 10 * ours
