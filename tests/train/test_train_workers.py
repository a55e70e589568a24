"""`tokenize` and `build-data` by several processes, killed and gone on with: one process's files, uninterrupted."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_helpers import gpt, human, image, write_lines, write_tar
from test_train_data import build_corpus
from train_helpers import python

from armor_model import bundled
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.files import hold_folder
from trainer.data import build as builder
from trainer.data.readers import SOURCES, Index
from trainer.data.screens import ScreenSettings
from trainer.data.shards import MANIFEST, Shards
from trainer.data.tokenizing import load, tokenize
from trainer.data.workers import in_order


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.name.startswith(".lock")
    }


@pytest.fixture
def corpus(tmp_path):
    """Twelve records, four of each type that reads images, in a folder of their own."""
    folder = tmp_path / "data"
    folder.mkdir()
    records = []
    for i in range(12):
        (folder / f"{i}.png").write_bytes(image((20 * i, 0, 90)))
        talk = ([human("<image>?"), gpt("red")], [human("draw"), gpt("<image>")], [human("draw"), gpt("yes:\n<image>")])
        records.append({"id": str(i), "conversations": talk[i % 3], "images": [f"{i}.png"]})
    return write_lines(folder / "c.jsonl", records)


@pytest.fixture(scope="module")
def processor():
    return load(bundled("armor-nano"), "cpu")


@pytest.mark.slow
def test_workers_write_the_files_of_one_process(corpus, tmp_path, processor):
    one = tokenize(corpus, tmp_path / "one", processor, "nano", shard_size=2)
    by = {"workers": 2, "load": partial(load, bundled("armor-nano"), "cpu")}
    assert tokenize(corpus, tmp_path / "two", processor, "nano", shard_size=2, **by) == one
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_parts_meet_in_one_manifest_whoever_ends_last(corpus, tmp_path, processor):
    one = tokenize(corpus, tmp_path / "one", processor, "nano", shard_size=2)
    made = [tokenize(corpus, tmp_path / "two", processor, "nano", shard_size=2, part=(i, 3)) for i in (2, 0, 1)]
    assert made == [None, None, one]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    with pytest.raises(UserError, match="is not complete"):
        tokenize(corpus, tmp_path / "half", processor, "nano", shard_size=2, part=(0, 2))
        Shards([tmp_path / "half"], processor)


def test_parts_share_a_folder_with_each_other_only(tmp_path):
    with hold_folder(tmp_path, "tokenize", (0, 2)), hold_folder(tmp_path, "tokenize", (1, 2)):
        for part in ((0, 2), (0, 1), (1, 4)):
            with pytest.raises(UserError, match="another tokenize is writing"), hold_folder(tmp_path, "tokenize", part):
                pass
    (tmp_path / ".draft-1234-left").touch()
    with hold_folder(tmp_path, "tokenize"):
        assert not (tmp_path / ".draft-1234-left").exists()


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_kill_after_any_write_loses_no_shard_and_changes_none(corpus, tmp_path, processor, monkeypatch, stop):
    """Six shards and their entries are fourteen writes, with the manifest's."""
    tokenize(corpus, tmp_path / "whole", processor, "nano", shard_size=2)
    replace, left = Path.replace, [2 * stop]

    def killed(path, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        tokenize(corpus, tmp_path / "out", processor, "nano", shard_size=2)
    monkeypatch.undo()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.json") if p.name != MANIFEST}
    tokenize(corpus, tmp_path / "out", processor, "nano", shard_size=2)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")
    for entry, at in done.items():
        assert entry.with_suffix(".parquet").stat().st_mtime_ns <= at


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_in_one_line():
    with pytest.raises(RunFailed, match="a worker process died"):
        list(in_order(_die, [(i,) for i in range(3)], None, 2))


def _die(state, number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def tar_folder(tmp_path):
    """Three tars of six images; the middle one repeats an image and a caption of the first."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for t in range(3):
        samples = {}
        for i in range(6):
            color, words = (40 * i, 80 * t, 7), f"a field number {i} of the tar {t} under the sun"
            if t == 1 and i < 2:
                color, words = ((0, 0, 7), words) if i == 0 else (color, "A field number 3 of the tar 0 under the  sun")
            samples[f"{i}"] = {"png": image(color, (300, 280)), "txt": words.encode()}
        write_tar(folder / f"{t}.tar", samples)
    return sorted(folder.iterdir())


def test_tars_by_workers_are_built_as_by_one_process(tar_folder, tmp_path):
    reports = [build_corpus(tar_folder[0], tmp_path / f"out{w}", tar_folder[1:], workers=w) for w in (1, 2)]
    assert reports[0] == reports[1]
    assert files_of(tmp_path / "out1") == files_of(tmp_path / "out2")
    assert reports[0]["screens"]["dropped"] == {"duplicate": 2} and reports[0]["screens"]["kept"] == 16
    assert len(list((tmp_path / "out1/images").iterdir())) == 3, "three large files, not sixteen small ones"


def test_a_limit_over_several_tars(tar_folder, tmp_path):
    report = build_corpus(tar_folder[0], tmp_path / "out", tar_folder[1:], limit=8)
    assert (report["screens"]["kept"], report["screens"]["dropped"]) == (8, {"duplicate": 2, "limit": 2})
    assert report["screens"]["read"] == report["readers"]["tars"]["kept"] == 12


def test_workers_ahead_of_a_limit_leave_nothing(tar_folder, tmp_path, monkeypatch):
    """The same files as one process, and none is written once the whole is put together."""
    build_corpus(tar_folder[0], tmp_path / "one", tar_folder[1:], limit=3)

    def ahead(work, pieces, state, *_):
        pieces = list(pieces)
        try:
            yield work(state, *pieces[0])
        finally:  # what a pool of processes ends with: its workers have begun these
            for piece in pieces[1:]:
                work(state, *piece)

    monkeypatch.setattr(builder, "in_order", ahead)
    build_corpus(tar_folder[0], tmp_path / "two", tar_folder[1:], limit=3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


@pytest.mark.parametrize("stop", range(1, 10))
def test_a_build_killed_after_any_write_goes_on(tar_folder, tmp_path, monkeypatch, stop):
    build_corpus(tar_folder[0], tmp_path / "whole", tar_folder[1:])
    replace, left, read = Path.replace, [stop], []

    def killed(path, target):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tar_folder[0], tmp_path / "out", tar_folder[1:])
    monkeypatch.undo()
    assert not (tmp_path / "out/conversations.jsonl").exists()
    done = len(list((tmp_path / "out/.parts").glob("0*.json")))
    real = builder.read_tars
    monkeypatch.setattr(builder, "read_tars", lambda shards, *rest: read.append(shards) or real(shards, *rest))
    if stop > 1:
        with pytest.raises(UserError, match=r"a build that was killed, of other settings \(min_aesthetic, seed"):
            builder.build(tmp_path / "out", builder.Recipe(SOURCES["laion"], ScreenSettings()))
        index = Index(np.zeros(1, dtype=np.uint64), np.zeros((1, 3)), np.zeros(1, dtype=np.int8))
        same = builder.Recipe(SOURCES["laion"], ScreenSettings(min_aesthetic=0), seed=3)
        with pytest.raises(UserError, match=r"of other settings \(index differ"):  # its scores screen what is left
            builder.build(tmp_path / "out", same, list(map(str, tar_folder)), index=index)
    build_corpus(tar_folder[0], tmp_path / "out", tar_folder[1:])
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")
    assert len(read) == 3 - done


@pytest.mark.slow
@pytest.mark.parametrize("command", ["tokenize", "build-data"])
def test_killed_at_twenty_random_times_it_ends_as_uninterrupted(corpus, tar_folder, tmp_path, command):
    words = {
        "tokenize": ["trainer", "tokenize", corpus, "--model", "armor-nano", "--shard-size", 1, "--workers", 2],
        "build-data": ["trainer", "build-data", "--tars", tar_folder[0].parent, "--workers", 2],
    }[command]
    begun = time.monotonic()
    whole = python("-m", *words, "--out", tmp_path / "whole")
    assert whole.wait() == 0, whole.stdout.read()
    took, chance = time.monotonic() - begun, random.Random(0)
    for _ in range(20):
        process = python("-m", *words, "--out", tmp_path / "out")
        time.sleep(chance.uniform(0.2, 1) * took)
        process.kill()
        process.wait()
    last = python("-m", *words, "--out", tmp_path / "out")
    text = last.communicate()[0]
    assert last.returncode == 0 or "already holds conversations.jsonl" in text, text
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")


@pytest.mark.slow
def test_torchrun_shares_the_shards_out(corpus, tmp_path, processor):
    one = tokenize(corpus, tmp_path / "one", processor, "armor-nano", shard_size=2)
    words = ["trainer", "tokenize", corpus, "--out", tmp_path / "two", "--model", "armor-nano", "--shard-size", 2]
    run = python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", *words)
    assert run.wait() == 0, run.stdout.read()
    assert "the one that ends last writes the manifest" in run.stdout.read()
    manifest = json.loads((tmp_path / "two" / MANIFEST).read_text())
    assert manifest["shards"] == one["shards"] and manifest["complete"]
