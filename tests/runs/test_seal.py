"""What a bundle holds after it was scored is what was measured - or every reader says that it was changed."""

import json
from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.report.loading import load_runs, notices
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.journal import Journal, changed_files, check_journal
from armor_eval.runs.schema import Item, Seal
from armor_model.base.errors import RunFailed

ARGV = ["modality", "--model", "mock", "--profile", "shapes", "--limit", "3"]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    assert main([*ARGV, "--out", str(tmp_path / "r")]) == 0
    return tmp_path / "r" / "modality"


def edit_items(folder: Path) -> None:
    lines = (folder / "items.jsonl").read_text().splitlines()
    item = json.loads(lines[0])
    lines[0] = json.dumps({**item, "score": 1.0 - item["score"]})
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")


def edit_scores(folder: Path) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    scores["metrics"][0]["value"] = 99.0
    (folder / "scores.json").write_text(json.dumps(scores))


def edit_run(folder: Path) -> None:
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "benchmark": "MMB"}))


@pytest.mark.parametrize(
    ("edit", "name"), [(edit_items, "items.jsonl"), (edit_scores, "scores.json"), (edit_run, "run.json")]
)
def test_an_edited_file_is_named_by_every_reader(run_folder: Path, edit, name: str, tmp_path: Path, capsys) -> None:
    assert changed_files(run_folder, read_bundle(run_folder)[0]) == []
    edit(run_folder)
    said = f"changed after it was measured ({name})"
    assert any(said in line for line in notices(load_runs([run_folder])))
    capsys.readouterr()
    assert main(["compare", str(run_folder), str(run_folder), "--out", str(tmp_path / "c")]) in (3, 4)
    assert said in capsys.readouterr().out
    assert main(["baseline", "save", "b", str(run_folder), "--baselines", str(tmp_path / "b")]) == 2
    assert said in capsys.readouterr().err


def test_a_seal_outlives_updates_and_files_left_behind(run_folder: Path) -> None:
    run = read_bundle(run_folder)[0]
    assert isinstance(run.seal, Seal)
    with Bundle.open(run_folder, run) as bundle:
        bundle.update(extras={**run.extras, "note": "added by us"})
    run = read_bundle(run_folder)[0]
    assert changed_files(run_folder, run) == []
    (run_folder / "items.jsonl").unlink()  # an archive
    assert changed_files(run_folder, run) == []


def item(i: int) -> Item:
    return Item(id=str(i), cluster="c", prompt="p", prompt_sha256="h", status="ok")


@pytest.mark.parametrize("how", ["removed", "renamed", "replaced"])
def test_a_journal_that_left_its_place_stops_the_run_at_once(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "r"
    folder.mkdir()
    journal = Journal(folder / "items.jsonl")
    journal.append(item(1))
    if how == "renamed":
        folder.rename(tmp_path / "other")
    else:
        (folder / "items.jsonl").unlink()
    if how == "replaced":
        (folder / "items.jsonl").write_text("")
    with pytest.raises(RunFailed, match="removed or replaced"):
        journal.append(item(2))


def test_hostile_journal_lines_cost_themselves(tmp_path: Path) -> None:
    good = item(1).model_dump_json().encode()
    deep = b'{"id": "x", "gold": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    nan = good.replace(b'"score":null', b'"score":NaN').replace(b'"1"', b'"2"')
    lines = [good, deep, b"[" * 50_000, b"{", b"\xff\xfe", nan, good, b"", b"null"]
    (tmp_path / "items.jsonl").write_bytes(b"\n".join(lines))
    items, dropped = check_journal(tmp_path / "items.jsonl")
    assert list(items) == ["1"] and dropped == 7
