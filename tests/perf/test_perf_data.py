"""Training data against the plain ways: tokenising by tiles that are cut, by one process; loading the global batch.

Two workers against one are counted in CPU-seconds, since a wall clock counts whoever else is on the machine: what a
piece costs all processes, halved, as if two cores had nothing else to do. A process's start and its first piece
(imports, weights) are left out and told beside it; what two that run at once cost each other is in it.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from armor_model import bundled
from armor_model.images import open_image
from trainer.batches import collate
from trainer.config import Optimization
from trainer.data import build as builder
from trainer.data import tokenizing
from trainer.data.readers import SOURCES
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


@dataclass(frozen=True)
class Clocked:
    """`work`, which notes the CPU-seconds of each piece under the process that did it."""

    work: Callable[..., Any]
    notes: Path

    def __call__(self, state: Any, *piece: Any) -> Any:
        started = time.process_time()
        made = self.work(state, *piece)
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {time.process_time() - started} {time.process_time()}\n")
        return made


def two_cores(module: Any, run: Callable[[Path, int], object], folder: Path, monkeypatch) -> dict[str, float]:
    """Of `run(out, workers)`, whose pieces `module` hands to in_order: by one process and by two workers, in two turns;
    medians over pieces, since neighbours on the machine cost cache and clock rate."""
    real, notes, steady, rest, start = module.in_order, folder / "notes", defaultdict(list), defaultdict(list), []
    monkeypatch.setattr(module, "in_order", lambda work, *more: real(Clocked(work, notes), *more))
    for workers in (1, 2, 1, 2):
        notes.unlink(missing_ok=True)
        started = time.process_time()
        run(folder / f"out{len(rest[workers])}-{workers}", workers)
        parent, pieces = time.process_time() - started, defaultdict(list)
        for line in notes.read_text().splitlines():
            process, *numbers = line.split()
            pieces[process].append(tuple(map(float, numbers)))
        assert len(pieces) == workers
        every = [took for own in pieces.values() for took, _ in own]
        rest[workers].append((parent - sum(every) * (workers == 1)) / len(every))
        steady[workers] += [took for own in pieces.values() for took, _ in own[1:]]
        start += [own[0][1] for own in pieces.values() if workers == 2]
    one, two = (median(steady[n]) + min(rest[n]) for n in (1, 2))
    about = {"piece_ms_of_one": one * 1e3, "piece_ms_of_two": two * 1e3, "start_cpu_s": median(start)}
    return {"value": one / (two / 2), **about}


@pytest.mark.parametrize("kind", ["ti2t", "t2i"])
def test_two_workers_tokenise_twice_as_fast(tmp_path, bench_row, monkeypatch, kind):
    file = corpus(tmp_path, 48, kind)
    file.write_text("\n".join([file.read_text()] * 24))
    begin = partial(load, bundled("armor-nano"), "cpu")
    nano = begin()

    def run(out: Path, workers: int) -> None:
        tokenize(file, out, nano, "nano", shard_size=16, max_length=8192, workers=workers, load=begin)

    found = two_cores(tokenizing, run, tmp_path, monkeypatch)
    value = found.pop("value")
    bench_row(f"tokenize ({kind}): two workers on two cores", value, "x of one", ">= 1.8", size="armor-nano", **found)


def test_two_workers_build_data_twice_as_fast(tmp_path, bench_row, monkeypatch):
    (tmp_path / "tars").mkdir()
    photos = [photo(i) for i in range(24)]
    for t in range(24):
        with tarfile.open(tmp_path / f"tars/{t:02d}.tar", "w") as tar:
            for i, data in enumerate(photos):
                data += f"{t}".encode()  # behind the image's end: another file, no duplicate
                words = f"photograph {i} of tar {t}, of a field beside a river under the sun"
                for name, content in ((f"{i}.jpg", data), (f"{i}.txt", words.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    recipe = builder.Recipe(SOURCES["webdataset"], builder.ScreenSettings(min_aesthetic=0))
    tars = [str(path) for path in sorted((tmp_path / "tars").iterdir())]
    found = two_cores(builder, lambda out, n: builder.build(out, recipe, tars, workers=n), tmp_path, monkeypatch)
    made = {(tmp_path / f"out0-{n}/conversations.jsonl").read_bytes() for n in (1, 2)}
    assert len(made) == 1
    value = found.pop("value")
    bench_row("build-data: two workers on two cores", value, "x of one", ">= 1.8", size="576 images", **found)


def test_what_an_image_to_draw_costs(tmp_path, bench_row):
    """Reading and cropping a 512x512 JPEG file against the encoder of Chameleon's VQGAN at its published size, with
    random weights: on a CPU the network is everything, so a GPU has it."""
    from armor_model.images import to_pixels
    from armor_model.vq import ChameleonVQ

    data = [photo(i) for i in range(16)]
    started = time.process_time()
    pixels = torch.stack([to_pixels(open_image(one, drawn=True), 256) for one in data])
    read = (time.process_time() - started) / len(data)
    bench_row(
        "an image to draw: reading, resizing, cropping 512x512", read * 1e3, "ms CPU", "<= 20", size="a JPEG file"
    )
    vq = ChameleonVQ().eval()
    started = time.process_time()
    with torch.no_grad():
        vq.encode(pixels[:2])
    encoded = (time.process_time() - started) / 2
    about = {
        "size": "Chameleon's VQGAN",
        "reading_of_it": read / encoded,
        "parameters": sum(p.numel() for p in vq.model.encoder.parameters()),
    }
    bench_row("an image to draw: Chameleon's encoder at 256x256", encoded, "s CPU", None, **about)


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
    # Of eight conversations, putting them together costs more than reading them, in both.
    bench_row("loader: one of 64 processes", plain / ours, "x less CPU than the global batch", ">= 5")
    assert ours <= 1.5 * alone and plain >= 5 * ours
