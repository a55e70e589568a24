"""What the ablation commands refuse before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_mocks import make_run

from armor_eval.ablations.plan import HeadsPlan
from armor_eval.cli import main


@pytest.mark.parametrize("command", ["ablate-heads", "ablate-stages"])
def test_a_folder_of_another_kind_of_run_is_left_as_it_is(command: str, tmp_path: Path, capsys, monkeypatch) -> None:
    def trained(*_args, **_kwargs):
        raise AssertionError("trained")

    monkeypatch.setattr("armor_eval.ablations.heads.get_base", trained)
    monkeypatch.setattr("armor_eval.ablations.schemes.get_base", trained)
    held = dict.fromkeys(("scores.json", "items.jsonl", "series.jsonl"), "kept")
    held["run.json"] = make_run().model_dump_json()
    for name, text in held.items():
        (tmp_path / name).write_text(text)
    assert main([command, "--quick", "--out", str(tmp_path)]) == 2
    assert "kind of run differs (understanding there" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_text() for name in held} == held


@pytest.mark.parametrize(
    ("text", "options", "word"),
    [
        (b"steps = 0\n", [], "steps: Input should be greater"),
        (b"validation = 'many'\n", [], "validation: Input should be"),
        (b"stage_steps = [1, 0, 1]\n", [], "stage_steps.1: Input should be greater than or equal to 1"),
        (b"\xff\xfe\x00", [], "cannot read"),
        (b"", ["--seeds", "-1"], "--seeds: Input should be greater than or equal to 0"),
        (b"seeds = [-1]\n", ["--seeds", "1"], "seeds.0: Input should be greater than or equal to 0"),
        (b"lr = inf\n", [], "lr: Input should be a finite number"),
    ],
)
def test_a_wrong_plan_is_one_line_also_of_a_quick_run(text, options, word, tmp_path: Path, capsys) -> None:
    (tmp_path / "plan.toml").write_bytes(text)
    command = "ablate-stages" if b"stage_" in text else "ablate-heads"
    argv = [command, "--quick", "--out", str(tmp_path / "run"), "--config", str(tmp_path / "plan.toml"), *options]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_a_file_wins_over_the_quick_plan_but_not_over_its_stamp(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("pool = 77\nquick = false\n")
    plan = HeadsPlan.read(tmp_path / "plan.toml", small=True, steps=5)
    assert (plan.pool, plan.steps, plan.quick, plan.questions) == (77, 5, True, 1)
