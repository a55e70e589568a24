"""What is true of a number travels with it: reservations stand in every format, and never rank with what has none."""

from pathlib import Path

import pytest
from report_mocks import a_subset, make_items, make_run, metric, write_bundle

from armor_eval.cli import main
from armor_eval.report.loading import RunView
from armor_eval.report.tables import build
from armor_eval.runs.comparable import rankable, reservations_of
from armor_eval.runs.schema import Reservation, Scores

OTHER_FILE = {"extras": {"data_is_published": False}}
HALF_UNREAD = {"reservations": [Reservation(kind="unread", text="612 of 1,000 answers could not be read")]}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (OTHER_FILE, "the data file is not the published one"),
        (HALF_UNREAD, "612 of 1,000 answers could not be read"),
        ({"extras": {"blind": True}}, "images were left out (blind baseline)"),
        ({"subset": a_subset()}, "subset of 30 of 9000 items"),
    ],
)
def test_a_reservation_is_printed_in_every_format(changes, text, tmp_path: Path, capsys) -> None:
    folder = write_bundle(tmp_path / "r", make_run(**changes), [metric("F1", 85.0, (80.0, 90.0))], make_items(100))
    assert main(["tables", str(folder), "--out", str(tmp_path / "t")]) == 0
    for name in ("tables.md", "tables.tex", "tables.csv", "tables.html", "table2.csv"):
        shown = (tmp_path / "t" / name).read_text()
        assert text in shown.replace("\\_", "_").replace("\\(", "(").replace("\\)", ")"), name
    assert main(["report", str(folder), "--out", str(tmp_path / "page.html")]) == 0
    assert text in (tmp_path / "page.html").read_text()


def test_only_numbers_under_equal_reservations_are_ranked() -> None:
    runs = [
        make_run("a", model="one"),
        make_run("b", model="two"),
        make_run("c", model="three", **OTHER_FILE),
        make_run("d", model="four", **HALF_UNREAD),
    ]
    assert rankable(runs[0], runs[1]) and not rankable(runs[0], runs[2]) and not rankable(runs[0], runs[3])
    assert [r.kind for r in reservations_of(runs[2])] == ["data"]
    views = [
        RunView(
            Path("nowhere"),
            run,
            Scores(metrics=[metric("F1", 80.0 + at, (70.0, 90.0))], counts={"ok": 1}, expected_items=1),
        )
        for at, run in enumerate(runs)
    ]
    table = next(doc for doc in build(views) if doc.key == "table2")
    marked = [
        line.cells[0].text
        for line in table.lines
        if line.kind == "measured" and any(c.rank == "best" for c in line.cells)
    ]
    assert marked == ["measured: two"], "the two above it are under reservation"
