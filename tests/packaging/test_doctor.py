"""`armor-eval doctor`: which weights and data are there, and what each command still needs."""

import json
from pathlib import Path

from paths import ROOT

from armor_eval.cli import main
from armor_eval.cli.doctor import COMMAND, EXTRAS, NEEDS
from armor_eval.tasks.geneval.weights import declared
from armor_eval.tasks.suites.declare import suites


def test_what_is_missing_is_named_where_it_is_needed_and_gone_once_it_is_there(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path))
    monkeypatch.setenv("LMUData", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def rows() -> dict[str, tuple[str, str]]:
        assert main(["doctor", "--json"]) == 0
        return {row["what"]: (row["state"], row["found"]) for row in json.loads(capsys.readouterr().out)}

    geneval, data = f"{COMMAND}geneval --profile official", f"{COMMAND}understanding, vlmeval of published data"
    before = rows()
    assert before[geneval] == ("missing", "weights mask2former, weights clip")
    assert before["weights clip"][0] == "missing" and "--clip-weights FILE" in before["weights clip"][1]
    assert before[data][0] == "missing" and before[data][1].endswith("(0 of 8 are there)")
    assert before["models in the cache"][0] == "note"
    assert {f"suite {s.name}" for s in suites().values() if s.profile == "official"} <= set(before)
    for name in ("mask2former", "clip"):
        (tmp_path / declared(name).file).touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "POPE.tsv").touch()
    (tmp_path / "hub" / "models--owner--name").mkdir(parents=True)
    after = rows()
    assert after[geneval] == ("ok", "nothing more")
    assert after[data][0] == "ok" and "(1 of 8 are there)" in after[data][1] and "POPE" not in after[data][1]
    assert after["models in the cache"] == ("ok", "owner/name")


def test_every_need_is_a_row_and_every_extra_is_pyprojects(capsys):
    assert main(["doctor", "--json"]) == 0
    names = [row["what"] for row in json.loads(capsys.readouterr().out)]
    for command, needs in NEEDS.items():
        assert all(any(name.startswith(need) for name in names) for need in needs), command
    project = (ROOT / "pyproject.toml").read_text()
    for extra, packages in EXTRAS.items():
        line = next(line for line in project.splitlines() if line.startswith(f"{extra} = "))
        assert all(f'"{package}>=' in line for package in packages)
    assert main(["doctor"]) == 0
    assert "still needs" in capsys.readouterr().out
