"""Training writes a run bundle: its cost stands in Table 3's columns beside the scores of the model that it trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

from armor_eval.report.tables import training_of
from armor_eval.runs.bundle import read_bundle
from trainer.cli import main
from trainer.data.tokenizing import tokenize


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A few drawing requests of the shapes world, tokenised for the bundled model."""
    from armor_model import bundled, load_processor
    from trainer.shapes.conversations import sample_conversation
    from trainer.shapes.world import render

    root, rng, lines = tmp_path_factory.mktemp("data"), np.random.default_rng(0), []
    for i in range(8):
        record = sample_conversation(rng, "t2i", i)
        render(record["images"][0]).save(root / f"{i}.png")
        lines.append(json.dumps({**record, "images": [f"{i}.png"]}) + "\n")
    (root / "c.jsonl").write_text("".join(lines))
    tokenize(root / "c.jsonl", root / "shards", load_processor(bundled("armor-nano")), "armor-nano")
    return root / "shards"


def stage(shards, out, *words: object, model: object = "armor-nano") -> int:
    common = ["stage", "--stage", 2, "--model", model, "--data", shards, "--out", out, "--mix", "t2i=8", "--steps", 4]
    return main([*map(str, common), "--batch-size", "4", "--log-every", "2", "--save-every", "2", *map(str, words)])


def test_a_stage_writes_its_cost_and_the_next_one_adds_its_own(shards, tmp_path):
    from armor_model.base.hashing import sha256_folder

    assert stage(shards, tmp_path / "one", "--profile", "shapes") == 0
    run, items, scores = read_bundle(tmp_path / "one")
    assert (run.kind, run.benchmark, run.profile, run.status, items) == (
        "training",
        "stage 2",
        "shapes",
        "complete",
        [],
    )
    result = json.loads((tmp_path / "one/result.json").read_text())
    assert run.training.model_dump() == {
        "images_seen": 16,
        "tokens": result["cost"]["tokens"],
        "device_days": result["cost"]["device_days"],
        "optimizer_steps": 4,
    }
    assert run.model.fingerprint == sha256_folder(tmp_path / "one/model")
    assert run.extras["config"]["optimization"]["batch_size"] == 4
    assert {m.name: m.value for m in scores.metrics}["loss/image"] == result["losses"]["loss/image"]
    points = [json.loads(line) for line in (tmp_path / "one/series.jsonl").read_text().splitlines()]
    log = [json.loads(line) for line in (tmp_path / "one/log.jsonl").read_text().splitlines()]
    assert [(p["step"], p["value"]) for p in points if p["name"] == "loss/image"] == [
        (line["step"], line["loss/image"]) for line in log
    ]
    assert stage(shards, tmp_path / "two", model=tmp_path / "one/model") == 0
    after, _, _ = read_bundle(tmp_path / "two")
    assert (after.training.images_seen, after.training.optimizer_steps) == (32, 8), "what the model has cost in all"
    assert after.extras["this_training"]["optimizer_steps"] == 4


def test_the_saved_configuration_trains_the_same_model(shards, tmp_path):
    assert stage(shards, tmp_path / "one") == 0
    words = ["stage", "--config", tmp_path / "one/config.toml", "--out", tmp_path / "two", "--set", "loop.keep=1"]
    assert main([*map(str, words)]) == 0
    one, two = ((tmp_path / d / "model/model.safetensors").read_bytes() for d in ("one", "two"))
    assert one == two
    assert len(list((tmp_path / "two/checkpoints").iterdir())) == 1


def test_a_run_that_stops_says_why_and_one_that_goes_on_is_whole(shards, tmp_path, monkeypatch, capsys):
    from armor_model.base.errors import RunFailed
    from trainer.loop import Loop

    def stops(self, *_):
        if self.step == 3:
            raise RunFailed("a reason")
        return real(self, *_)

    real = Loop._one_step
    monkeypatch.setattr(Loop, "_one_step", stops)
    assert stage(shards, tmp_path / "run") == 1
    run, _, scores = read_bundle(tmp_path / "run")
    assert (run.status, scores) == ("failed", None) and "a reason" in run.status_reason
    monkeypatch.setattr(Loop, "_one_step", real)
    assert stage(shards, tmp_path / "run", "--resume") == 0
    again, _, _ = read_bundle(tmp_path / "run")
    assert (again.status, again.started, again.run_id) == ("complete", run.started, run.run_id)
    assert again.wall_seconds > run.wall_seconds and again.training.optimizer_steps == 4


def test_two_runs_do_not_share_a_folder(shards, tmp_path, capsys):
    import fcntl

    (tmp_path / "run").mkdir()
    with (tmp_path / "run/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stage(shards, tmp_path / "run") == 2
    assert "another command is writing" in capsys.readouterr().err


def test_table_three_reads_the_cost_of_the_model_that_was_measured(shards, tmp_path):
    from types import SimpleNamespace

    assert stage(shards, tmp_path / "run") == 0
    trained, _, _ = read_bundle(tmp_path / "run")
    measured = SimpleNamespace(run=SimpleNamespace(kind="geneval", model=trained.model, training=None))
    other = SimpleNamespace(run=SimpleNamespace(kind="geneval", model=SimpleNamespace(fingerprint="x"), training=None))
    views = [measured, other, SimpleNamespace(run=trained)]
    run, training = training_of([measured], views)
    assert run is trained and training.images_seen == 16
    assert training_of([other], views) is None
    assert armor_eval_tables(tmp_path / "run", tmp_path / "tables") == 0


def armor_eval_tables(run, out) -> int:
    from armor_eval.cli import main as harness

    return harness(["tables", str(run), "--out", str(out)])
