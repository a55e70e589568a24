"""A score over time: only comparable runs on one line, in order, with intervals, and the others named."""

import json
from pathlib import Path

import pytest
from report_mocks import a_subset, make_items, make_run, metric, write_bundle

from armor_eval.cli import main
from armor_eval.runs.schema import ModelInfo

DAYS = ("2026-11-03", "2026-11-01", "2026-11-02")


def add(folder: Path, name: str, value: float = 80.0, day: str = DAYS[0], **changes: object) -> None:
    changes.setdefault("model", ModelInfo(spec="m", name="m", fingerprint=name * 8))
    run = make_run(name, started=f"{day}T10:00:00+00:00", git_commit=f"{name:0<40}", **changes)
    write_bundle(folder / name, run, [metric("F1", value, (value - 5, value + 5))], make_items(4))


def lines(capsys, *arguments: str) -> dict:
    assert main(["history", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_runs_of_one_model_are_a_line_in_the_order_of_their_start(tmp_path: Path, capsys) -> None:
    for name, day, value in zip("abc", DAYS, (83.0, 81.0, 82.0), strict=True):
        add(tmp_path / "r", name, value, day)
    (line,) = lines(capsys, str(tmp_path / "r"))["lines"]
    assert line["name"] == "POPE, F1, m"
    assert [(run["run_id"], run["metric"]["value"]) for run in line["runs"]] == [("b", 81), ("c", 82), ("a", 83)]
    assert line["runs"][0]["metric"]["ci95"] == [76, 86]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"subset": a_subset()}, "subset"),
        ({"protocol": {"thinking": "keep"}}, "protocol"),
        ({"prompt_sha256": "0" * 64}, "prompt_sha256"),
        ({"judge": "gpt"}, "judge"),
        ({"decoding": {"temperature": 1.0}}, "decoding"),
        ({"profile": "shapes"}, "profile"),
    ],
)
def test_what_is_not_comparable_is_a_line_of_its_own_and_says_why(changes, field, tmp_path: Path, capsys) -> None:
    add(tmp_path / "r", "a")
    add(tmp_path / "r", "b", day=DAYS[1], **changes)
    assert len(lines(capsys, str(tmp_path / "r"))["lines"]) == 2
    assert main(["history", str(tmp_path / "r"), "--out", str(tmp_path / "o")]) == 0
    page = (tmp_path / "o" / "history.md").read_text().replace("\\", "")
    if field != "profile":  # whose lines have other names
        assert "is not comparable with" in page and field in page


def test_checkpoints_share_a_line_only_where_asked(tmp_path: Path, capsys) -> None:
    for name, day in zip("abc", DAYS, strict=True):
        add(tmp_path / "r", name, day=day, model=name)
    assert len(lines(capsys, str(tmp_path / "r"))["lines"]) == 3
    (line,) = lines(capsys, str(tmp_path / "r"), "--join-models")["lines"]
    assert [run["model"] for run in line["runs"]] == ["b", "c", "a"]


def test_unfinished_runs_are_on_no_line_and_named(tmp_path: Path, capsys) -> None:
    add(tmp_path / "r", "a")
    add(tmp_path / "r", "b", status="partial", status_reason="interrupted")
    found = lines(capsys, str(tmp_path / "r"))
    assert [run["run_id"] for line in found["lines"] for run in line["runs"]] == ["a"]
    assert len(found["left_out"]) == 1 and "is partial" in found["left_out"][0]


@pytest.mark.parametrize("by", ["date", "commit"])
def test_the_plot_is_drawn_with_a_mark_a_run_and_its_words(by: str, tmp_path: Path) -> None:
    for name, day, value in zip("abc", DAYS, (83.0, 81.0, 82.0), strict=True):
        add(tmp_path / "r", name, value, day)
    assert main(["history", str(tmp_path / "r"), "--by", by, "--out", str(tmp_path / "o")]) == 0
    svg = (tmp_path / "o" / f"pope-by-{by}.svg").read_text()
    assert svg.count("<use ") >= 3 and "2026-11-01 b000000000 81.0 %" in svg and "POPE (%)" in svg
    assert ("b000000000</text>" in svg) == (by == "commit")
    assert {p.name for p in (tmp_path / "o").iterdir()} == {
        f"pope-by-{by}.svg",
        "history.md",
        "history.html",
        "history.csv",
    }
    assert (tmp_path / "o" / "history.csv").read_text().count("POPE, F1, m") == 3


def test_nothing_to_draw_is_said_in_one_line(tmp_path: Path, capsys) -> None:
    add(tmp_path / "r", "a", status="partial")
    assert main(["history", str(tmp_path / "r")]) == 2
    assert "no line can be drawn" in capsys.readouterr().err
    assert main(["history", str(tmp_path / "r"), "--bench", "POPEE"]) == 2
    assert "did you mean" in capsys.readouterr().err.lower()
