"""Our inference loop against VLMEvalKit's own and a plain loop over transformers' `generate`, on the same model and
items, with identical answers: at least 5x VLMEvalKit's with armor-nano; a larger model beside it.

python -m pytest -m perf tests/perf/test_perf_understanding.py -s
"""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import rmtree

import pytest

from armor_eval.engine import Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.shapes.judge import RuleJudge
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.task import Options, UnderstandingTask

pytestmark = pytest.mark.perf

TURNS = 4
LONGEST = 8
ONE = {"MMB": 60}
ALL = dict.fromkeys(("MMMU", "MME", "MMVet", "MMB", "SEED", "HallusionBench", "POPE", "LLaVABench"), 12)
"""Benchmarks and how many units of each (groups, pictures ...); MME's items serve MME-P."""
FEW = {"MMB": 2}
LARGE = "124 M parameters, tiles of 448"
PLAIN_BATCH = 16


SETTINGS = Settings("shapes", ["perf"], Decoding(max_new_tokens=LONGEST), batch_size=64)
ASKING = replace(SETTINGS, shard=(0, 1))
"""A whole run as its only shard: asked, and not scored."""


def task_of(bench: str, limit: int | None = None) -> UnderstandingTask:
    benchmark = choose([bench])[0]
    judge = RuleJudge() if benchmark.judge == "required" else None
    return UnderstandingTask(benchmark, "shapes", Options(limit=limit), judge=judge)


def plain_transformers(base, adapter, task: UnderstandingTask, folder: Path) -> dict[str, str]:
    """Answers by item, as a script has them: 16 questions at a time in the order of the data, padded to the longest,
    through `generate` of the same InternVL; token ids and tiles by the same code as ours."""
    import torch

    processor, answers = adapter._load()[1], {}
    stops, units = list(processor.stop_ids), list(task.units())
    for i in range(0, len(units), PLAIN_BATCH):
        group = units[i : i + PLAIN_BATCH]
        asked = adapter.encode(task.requests(group, folder), SETTINGS.decoding)
        longest = max(len(request.ids) for request in asked)
        padding = [longest - len(request.ids) for request in asked]
        ids = torch.tensor([[0] * n + request.ids for n, request in zip(padding, asked, strict=True)])
        mask = torch.tensor([[0] * n + [1] * (longest - n) for n in padding])
        tiles = [image for request in asked for image in request.tiles]
        how = {"do_sample": False, "max_new_tokens": LONGEST, "eos_token_id": stops, "pad_token_id": stops[0]}
        pixels = {"pixel_values": torch.cat(tiles)} if tiles else {}
        with torch.inference_mode():
            told = base.generate(input_ids=ids, attention_mask=mask, **pixels, **how)[:, longest:].tolist()
        for unit, row in zip(group, told, strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row))
            answers[unit.id] = processor.tokenizer.decode(row[:end], skip_special_tokens=True)
    return answers


@pytest.mark.parametrize(
    ("name", "units", "size"), [("MMB", ONE, "armor-nano"), ("all nine", ALL, "armor-nano"), ("MMB", FEW, LARGE)]
)
def test_batched_loop_against_vlmevalkits_and_plain_transformers(name, units, size, request, tmp_path, bench_row):
    """All sides in turn, in one process, on one thread. CPU-seconds and the best of some turns: what other programs
    take from this one lengthens a turn's wall time, not its CPU time, and both sides' alike.
    """
    import torch
    from test_perf_generation import base_of

    from armor_eval.models import registry
    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    checkpoint = request.getfixturevalue("large" if size == LARGE else "checkpoint")
    turns = 2 if size == LARGE else TURNS
    model = registry.load(str(checkpoint), "shapes")
    tasks = [task_of(bench, limit) for bench, limit in units.items()]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cost = {who: {"cpu": [0.0] * turns, "wall": [0.0] * turns} for who in ("ours", "theirs", "plain")}
    base = base_of(model._load()[0])
    answers: dict[tuple[str, str], str] = {}
    with quiet_vlmeval():
        from vlmeval.dataset import build_dataset
        from vlmeval.inference import infer_data_job
        from vlmeval.smp import load

        from armor_eval.vlmevalkit.model import ArmorVLM
        from armor_eval.vlmevalkit.runner import accept_any_data

        accept_any_data()
        their_model = ArmorVLM(model_path=str(checkpoint), max_new_tokens=LONGEST)
        their_model._adapter = model  # the same weights in the same memory
        for task in tasks:
            table = task.table
            bench, dataset = table.benchmark.name, table.benchmark.dataset
            os.environ.update({"LMUData": str(lmu(table, tmp_path / bench)), "PRED_FORMAT": "tsv"})
            for turn in range(-1, turns):  # the first one warms up
                took = stopwatch()
                evaluate(task, model, tmp_path / bench / f"ours{turn}", ASKING)
                ours = took()
                items = read_bundle(tmp_path / bench / f"ours{turn}")[1]
                said = {it.id: " ".join(it.output.split()) for it in items}
                data = build_dataset(dataset)  # a job strips the pictures from its dataset
                their_model.set_dump_image(data.dump_image)
                work = tmp_path / bench / f"theirs{turn}"
                work.mkdir()
                took = stopwatch()
                infer_data_job(their_model, str(work), "ARMOR", data)
                theirs = took()
                took = stopwatch()
                plainly = plain_transformers(base, model, task, work)
                plain = took()
                if turn >= 0:
                    for who, (cpu, wall) in (("ours", ours), ("theirs", theirs), ("plain", plain)):
                        cost[who]["cpu"][turn] += cpu
                        cost[who]["wall"][turn] += wall
            frame = load(str(work / f"ARMOR_{dataset}.tsv"))
            found = {str(i): "" if p != p else str(p) for i, p in zip(frame["index"], frame["prediction"], strict=True)}
            assert said == {i: " ".join(text.split()) for i, text in found.items()}, bench
            assert said == {i: " ".join(text.split()) for i, text in plainly.items()}, bench
            answers |= {(bench, i): text for i, text in said.items()}
    torch.set_num_threads(threads)
    ms = {f"{who}_cpu_ms": 1000 * min(cost[who]["cpu"]) / len(answers) for who in cost}
    ratio = {who: min(cost[who]["cpu"]) / min(cost["ours"]["cpu"]) for who in ("theirs", "plain")}
    against = {"theirs": "VLMEvalKit's infer_data_job", "plain": f"transformers' generate, batches of {PLAIN_BATCH}"}
    for who, other in against.items():
        pairs = sorted(t / o for o, t in zip(cost["ours"]["cpu"], cost[who]["cpu"], strict=True))
        bench_row(
            f"understanding ({name}), against {other}, CPU-seconds",
            ratio[who],
            "x",
            ">= 5" if who == "theirs" and size == "armor-nano" else None,
            items=len(answers),
            size=size,
            turns=turns,
            lowest=pairs[0],
            highest=pairs[-1],
            wall=min(cost[who]["wall"]) / min(cost["ours"]["wall"]),
            **ms,
        )
    if size == "armor-nano":
        assert len(set(answers.values())) > 1
        assert ratio["theirs"] >= 5


def stopwatch():
    """Call what it gives for (CPU-seconds of this process, wall seconds) since."""
    cpu, wall = time.process_time(), time.perf_counter()
    return lambda: (time.process_time() - cpu, time.perf_counter() - wall)


def lmu(table, folder: Path) -> Path:
    """The same rows, with pictures, as a data folder of VLMEvalKit's."""
    import pandas as pd

    from armor_eval.vlmevalkit.official import write_predictions

    frame = pd.read_csv(table.path, sep="\t")
    wanted = {row.id for row in table.rows}
    images = {str(i): c for i, c in zip(frame["index"], frame["image"], strict=True)}
    frame = frame[[str(i) in wanted for i in frame["index"]]]
    frame["image"] = [images.get(str(c), c) for c in frame["image"]]
    (folder / "lmu").mkdir(parents=True)
    write_predictions(frame, folder / "lmu" / f"{table.benchmark.dataset}.tsv")
    return folder / "lmu"


def test_overhead_is_under_5_ms_an_item(tmp_path, bench_row):
    """With a model that costs nothing: reading, decoding, journaling, scoring by VLMEvalKit, intervals."""
    model = MockModel()
    evaluate(task_of("SEED"), model, tmp_path / "warm", SETTINGS)  # imports vlmeval
    began, cpu = time.perf_counter(), time.process_time()
    done = evaluate(task_of("MMB"), model, tmp_path / "r", SETTINGS)
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    n = len(read_bundle(done.path)[1])
    bench_row("harness overhead an item", 1000 * cpu / n, "ms CPU", "< 5", items=n, wall_ms=1000 * wall / n)
    assert 1000 * cpu / n < 5


def test_reading_a_tsv_against_vlmevalkits_load(tmp_path, bench_row, monkeypatch):
    """One pass of ours (two hashes, a digest of each image, cells as text) against what VLMEvalKit's `load` does:
    `read_csv`. Then what a second process pays, which finds what the first one found. CPU-seconds, all in turn.
    """
    import pandas as pd

    from armor_eval.tasks.understanding import tsv
    from armor_eval.tasks.understanding.table import read_table

    file, seed = tmp_path / "SEEDBench_IMG.tsv", choose(["SEED"])[0]
    write_large(file, rows=800, image=150_000)
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tsv, "SETTLED_SECONDS", 0.0)
    cost: dict[str, list[float]] = {"first": [], "second": [], "theirs": []}
    for turn in range(-1, TURNS):
        rmtree(tmp_path / "cache", ignore_errors=True)
        for who in cost:
            took = stopwatch()
            if who == "theirs":
                rows = len(pd.read_csv(file, sep="\t"))
            else:
                rows = len(read_table(seed, file, need_published=False).rows)
            if turn >= 0:
                cost[who].append(took()[0])
            assert rows == 800
    for who, name, target in (
        ("first", "reading a TSV of 160 MB, against VLMEvalKit's load, CPU-seconds", 3.5),
        ("second", "the same TSV in a second process, against VLMEvalKit's load, CPU-seconds", 1.0),
    ):
        pairs = sorted(ours / theirs for ours, theirs in zip(cost[who], cost["theirs"], strict=True))
        ratio = min(cost[who]) / min(cost["theirs"])
        size = "800 rows of 200 KB"
        bench_row(name, ratio, "x", f"< {target}", size=size, turns=TURNS, lowest=pairs[0], highest=pairs[-1])
        assert ratio < target


def write_large(file: Path, rows: int, image: int) -> None:
    """SEED-Bench's layout with images of so many bytes (noise: their text alone matters)."""
    import base64

    noise = base64.b64encode(os.urandom(image)).decode()
    with file.open("w", encoding="utf-8") as out:
        out.write("index\timage\tquestion\tA\tB\tC\tD\tanswer\tcategory\n")
        for i in range(rows):
            out.write(f"{i}\t{i:08d}{noise}\tWhich?\ta{i}\tb{i}\tc{i}\td{i}\t{'ABCD'[i % 4]}\tkind\n")


def test_memory_is_under_a_gigabyte(tmp_path, bench_row):
    """A process of its own without a model, on a file whose pictures alone are 1 GB: vlmeval, torch, pandas and all."""
    write_large(tmp_path / "SEEDBench_IMG.tsv", rows=1000, image=750_000)
    argv = ["understanding", "--bench", "SEED", "--model", "mock", "--data", str(tmp_path), "--any-data", "--blind"]
    words = [sys.executable, "-m", "armor_eval", *argv, "--out", str(tmp_path / "r")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    peak = read_bundle(tmp_path / "r" / "SEED")[0].peak_memory_bytes / 2**30
    bench_row("harness memory with a 1 GB data file, no model", peak, "GiB", "< 1.0")
    assert peak < 1.0
