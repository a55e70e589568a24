"""`armor-eval suite FILE.toml`: one model, every task, tables and page; what is wrong in the file is said first."""

import json
from pathlib import Path

import pytest
from paths import ROOT

import armor_eval
from armor_eval.cli import main
from armor_eval.cli.suite import read_plan
from armor_eval.runs.bundle import read_bundle
from armor_model.base.errors import UserError


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_a_file_measures_every_kind_of_task_and_a_longer_one_goes_on(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    head = f'out = "{out}"\nlimit = 2\n[decoding]\nimage_temperature = 0.5\n'
    assert main(["suite", written(tmp_path, 'tasks = ["POPE"]\n' + head.partition("[")[0])]) == 0
    first = (out / "POPE" / "run.json").read_text()
    file = written(tmp_path, 'tasks = ["POPE", "geneval", "modality", "shapes-vqa"]\n' + head)
    capsys.readouterr()
    assert main(["suite", file, "--json"]) == 0
    runs = [one["run"] for one in json.loads(capsys.readouterr().out)]
    assert [run["benchmark"] for run in runs] == ["POPE", "geneval", "modality", "shapes-vqa"]
    assert (out / "POPE" / "run.json").read_text() == first, "what is complete is read, not measured again"
    assert runs[1]["command"] == ["armor-eval", "suite", file, "--json"]
    assert [run["decoding"]["image_temperature"] for run in runs[1:]] == [0.5] * 3
    page = (out / "report.html").read_text()
    assert all(f">{run['benchmark']} (shapes) (" in page for run in runs), "a row each in the results"
    assert "shapes-vqa" in (out / "tables" / "tables.md").read_text()


def test_a_suite_by_the_api_is_the_commands_own(tmp_path: Path) -> None:
    (one,) = armor_eval.evaluate("armor-nano", ["shapes-vqa"], tmp_path / "api", limit=3)
    assert main(["draw", "--suite", "shapes-vqa", "--limit", "3", "--out", str(tmp_path / "draw")]) == 0
    seen = [
        [(item.id, item.score, item.output_images) for item in read_bundle(folder)[1]]
        for folder in (one.path, tmp_path / "draw" / "shapes-vqa")
    ]
    assert seen[0] == seen[1] and len(seen[0]) == 3
    with pytest.raises(UserError, match="suite of profile official"):
        armor_eval.evaluate("armor-nano", ["geneval2"], tmp_path / "other")
    with pytest.raises(UserError, match=r"geneval2 needs a judge.*say suite_judge: hf:ID"):
        armor_eval.evaluate("armor-nano", ["geneval2"], tmp_path / "other", profile="official")
    with pytest.raises(UserError, match="suite_judge: nothing in POPE reads it"):
        armor_eval.evaluate("armor-nano", ["POPE"], tmp_path / "other", suite_judge="hf:any")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('taks = ["POPE"]', "unknown key 'taks' (did you mean tasks?)"),
        ('tasks = ["POPE"]\nlimt = 3', "unknown key 'limt' (did you mean limit?)"),
        (
            'tasks = ["POPE"]\n[decoding]\ntemprature = 1',
            "unknown key 'decoding.temprature' (did you mean temperature?)",
        ),
        ('tasks = ["POPE"]\nlimit = 0', "limit: Input should be greater than or equal to 1, not 0"),
        ('tasks = "POPE"', "tasks: Input should be a valid list, not 'POPE'"),
        ('tasks = ["POEP"]', "unknown benchmark 'POEP' (did you mean POPE?)"),
        ('tasks = ["POPE", "shapes-vqua"]', "(did you mean shapes-vqa?)"),
        ('tasks = ["POPE"]\nmodel_args = "load_in_5bit=1"', "takes no --model-args"),
        ("limit = 3", "names no task"),
        ("tasks = [", "is no TOML"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(text: str, line: str, tmp_path: Path, capsys) -> None:
    file = written(tmp_path, text)
    assert main(["suite", file, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert line in said.err and said.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_example_is_read_and_a_missing_file_is_named(tmp_path: Path, capsys) -> None:
    plan = read_plan(ROOT / "benchmarks" / "armor-nano.toml")
    assert {"geneval", "modality"} < set(plan.tasks) and plan.model == "armor-nano"
    assert main(["suite", str(tmp_path / "none.toml")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_baselines_stand_beside_their_benchmarks_and_go_on_like_the_rest(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    head = f'out = "{out}"\nlimit = 3\n'
    assert main(["suite", written(tmp_path, 'tasks = ["MME", "MME-P", "geneval"]\n' + head)]) == 0
    first = (out / "MME" / "run.json").read_text()
    file = written(tmp_path, 'tasks = ["MME-P", "MME", "geneval"]\nbaselines = true\n' + head)
    capsys.readouterr()
    assert main(["suite", file, "--json"]) == 0
    runs = {Path(one["path"]).name: one["run"] for one in json.loads(capsys.readouterr().out)}
    assert [*runs] == ["MME-P", "MME-P-blind", "MME-P-constant", "MME", "MME-blind", "MME-constant", "geneval"]
    assert (out / "MME" / "run.json").read_text() == first
    assert {name: run["model"]["name"] for name, run in runs.items() if "armor-nano" not in run["model"]["name"]} == {
        "MME-P-constant": "mock:Yes",
        "MME-constant": "mock:Yes",
    }
    assert {name for name, run in runs.items() if run["extras"].get("blind")} == {"MME-P-blind", "MME-blind"}
    kept = (out / "MME-blind" / "items.jsonl").read_bytes()
    assert main(["suite", file]) == 0
    shown = capsys.readouterr().out
    assert "Blind" in shown and "Constant" in shown and (out / "MME-blind" / "items.jsonl").read_bytes() == kept


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('tasks = ["geneval"]\nbaselines = true', "nothing in geneval has baselines"),
        ('tasks = ["POPE"]\nbaselines = true\nrepeats = 2', "baselines are of one whole run"),
    ],
)
def test_baselines_that_there_are_none_of_are_refused(text: str, line: str, tmp_path: Path, capsys) -> None:
    assert main(["suite", written(tmp_path, text), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
