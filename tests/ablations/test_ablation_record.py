"""An ablation's evaluation goes through the engine: what arms did while they were trained becomes a sealed bundle."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from armor_eval.ablations.arms import ArmResult, Bench, Judgement
from armor_eval.ablations.base import Base
from armor_eval.ablations.judging import DrawingRequest, ShortQuestion
from armor_eval.ablations.plan import HeadsPlan
from armor_eval.ablations.record import Recorder, accuracy_metric
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.journal import changed_files


@pytest.fixture
def arm(tmp_path: Path) -> ArmResult:
    (tmp_path / "arm").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "arm" / "a.png")
    last = Judgement("2", 4, answers=["Red.", ""], drawn=[False], reasons=["no circle"], images=["a.png"])
    return ArmResult("i", "wohg", 1, [(4, "eval/image", 0.5)], [last], 90.0, images_seen=8, tokens=80, device_seconds=0)


def recorded(out: Path, arm: ArmResult, seeds: tuple[int, ...] = (1,)) -> Recorder:
    import torch

    questions = [ShortQuestion("q1", "Which colour?", "red", None), ShortQuestion("q2", "Which shape?", "circle", None)]
    bench = Bench(questions, [DrawingRequest("d1", "a circle", 0)], lambda model: {})
    processor = SimpleNamespace(base=SimpleNamespace(name="smolvlm"))
    base = Base(torch.nn.Linear(2, 3), processor, "f" * 64, "a test")
    recorder = Recorder(out, "ablate-heads", HeadsPlan(seeds=seeds), base, bench, ["armor-eval", "ablate-heads"])
    recorder.add_base(["red", "square"], bench)
    recorder.add_arm(arm, bench, out.parent / "arm")
    recorder.metrics.append(accuracy_metric("drawing/wohg", [[False]], ["c"]))
    recorder.claims, recorder.verdict = {"faster": {"verdict": "undecided"}}, "Said."
    return recorder


def test_what_arms_did_is_a_sealed_bundle_and_the_next_one_replaces_it(tmp_path: Path, arm: ArmResult) -> None:
    recorder = recorded(tmp_path / "run", arm)
    began = recorder._start["started"]
    assert recorder.measure() == "complete"
    run, items, scores = read_bundle(tmp_path / "run")
    assert changed_files(tmp_path / "run", run) == []
    assert [(i.id, i.score, i.output) for i in items] == [
        ("base/ask/q1", 1.0, "red"),
        ("base/ask/q2", 0.0, "square"),
        ("wohg/seed1/ask/q1", 1.0, "Red."),
        ("wohg/seed1/ask/q2", 0.0, ""),
        ("wohg/seed1/draw/d1", 0.0, None),
    ]
    assert items[-1].reason == "no circle" and (tmp_path / "run" / items[-1].output_images[0]).is_file()
    assert run.model.name == "armor-nano-smolvlm (ablation)"
    assert (run.started, run.training.optimizer_steps, run.model.parameters) == (began, 4, 9)
    assert run.cpu_seconds >= 90 and run.decoding["answers"] == "greedy, 6 tokens" and run.extras["verdict"] == "Said."
    assert scores.metrics[0].name == "drawing/wohg" and scores.expected_items == run.data.items == 5
    assert (tmp_path / "run" / "series.jsonl").read_text().count("\n") == 1
    assert recorded(tmp_path / "run", arm, seeds=(1, 2)).measure() == "complete"
    again = read_bundle(tmp_path / "run")
    assert again[0].seeds == {"arm 0": 1, "arm 1": 2} and [i.id for i in again[1]] == [i.id for i in items]
