"""Loss curves from the logs of runs."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from trainer.cli import main
from trainer.curves import read_losses
from trainer.logs import RunLog


def write_run(folder, value):
    log = RunLog(folder)
    for step in (10, 20):
        log.write(step, {"loss/text": value / step, "loss/image/t2i": 2 * value / step, "gradient_norm": 1.0})
    log.close()


def test_stages_and_runs_are_drawn_side_by_side(tmp_path, capsys):
    for run in ("a", "b"):
        for stage in ("0-base", "1-1"):
            write_run(tmp_path / run / stage, 3.0)
    out = tmp_path / "losses.svg"
    assert main(["curves", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert "2 stages of 2 runs" in capsys.readouterr().out
    drawn = out.read_text()
    lines = [g for g in ElementTree.fromstring(drawn).iter() if g.get("id", "").startswith("line2d")]
    assert len([g for g in lines if "stroke-opacity: 0.8" in ElementTree.tostring(g, "unicode")]) == 2 * 2 * 2
    for name in ("0-base", "1-1", "image/t2i"):
        assert f"<!-- {name} -->" in drawn  # what a text drawn as outlines says
    assert main(["curves", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert len(out.read_text()) == len(drawn)


def test_runs_of_different_stages_have_a_panel_each(tmp_path, capsys):
    for run, stage in (("run1", "stage 1"), ("run2", "stage 2"), ("again", "stage 1")):
        write_run(tmp_path / run, 3.0)
        (tmp_path / run / "run.json").write_text(json.dumps({"kind": "training", "benchmark": stage}))
    out = tmp_path / "losses.svg"
    assert main(["curves", *(str(tmp_path / run) for run in ("run1", "run2", "again")), "--out-file", str(out)]) == 0
    assert "2 stages of 3 runs" in capsys.readouterr().out
    assert all(f"<!-- {stage} -->" in out.read_text() for stage in ("stage 1", "stage 2"))


def test_a_line_cut_by_a_kill_is_left_out(tmp_path):
    write_run(tmp_path, 1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('[1]\n{"loss/text": 1}\n{"step": 30, "loss/te')
    assert read_losses(tmp_path / "log.jsonl")["text"] == [(10, 0.1), (20, 0.05)]


@pytest.mark.parametrize(("name", "said"), [("losses.svg", "holds no log.jsonl"), ("losses.xyz", "no format")])
def test_what_can_not_be_drawn_is_said(tmp_path, capsys, name, said):
    if said == "no format":
        write_run(tmp_path, 1.0)
    assert main(["curves", str(tmp_path), "--out", str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
