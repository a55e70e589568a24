"""A folder is one thing: every run at and below it is found, and none lies inside another."""

from __future__ import annotations

from pathlib import Path

import pytest
from stats_runs import write_bundle

from armor_eval.cli import main
from armor_eval.runs.bundle import find_runs, run_folder
from armor_model.base.errors import UserError


@pytest.fixture
def nested(tmp_path) -> Path:
    """A run with two others below it, as `--bench A --out X` and then `--bench A,B --out X` once left them."""
    write_bundle(tmp_path / "x", [1.0, 0.0] * 20, "SEED")
    for bench in ("MMMU", "MMVet"):
        write_bundle(tmp_path / "x" / bench, [1.0, 0.0] * 20, bench)
    return tmp_path / "x"


def test_every_run_at_and_below_a_folder_is_found(tmp_path) -> None:
    for name in ("b", "a/deep/c", "a/b"):
        write_bundle(tmp_path / name, [1.0])
    assert [str(p.relative_to(tmp_path)) for p in find_runs(tmp_path)] == ["a/b", "a/deep/c", "b"]
    assert find_runs(tmp_path / "b") == [tmp_path / "b"] and find_runs(tmp_path / "none") == []


@pytest.mark.parametrize(
    "command",
    [
        ["report", "{x}", "--out", "{x}.html"],
        ["tables", "{x}"],
        ["compare", "{x}", "{x}"],
        ["baseline", "save", "n", "{x}"],
    ],
)
def test_a_run_inside_a_run_is_refused_with_both_names(nested, tmp_path, capsys, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.format(x=nested) for word in command]) == 2
    error = capsys.readouterr().err
    assert f"{nested / 'MMMU'} is a run inside the run {nested}" in error and "Traceback" not in error


def test_a_run_lies_in_out_and_its_name_also_alone(nested, tmp_path) -> None:
    assert run_folder(tmp_path / "out", "MMB") == tmp_path / "out" / "MMB"
    assert run_folder(nested, "SEED") == nested, "a run of before the rule is resumed where it lies"
    with pytest.raises(UserError, match="is a run inside the run"):
        run_folder(nested, "MMB")
