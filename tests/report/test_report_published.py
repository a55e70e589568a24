"""Published numbers: as printed, with their source, and beside ours within one protocol only."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from report_mocks import a_subset, make_run, metric, write_bundle

from armor_eval.cli import main
from armor_eval.report.embedded import Published, published, published_tables
from armor_eval.report.loading import RunView
from armor_eval.runs.protocols import declared
from armor_eval.runs.schema import Reservation, Scores


def view(protocol: str, name: str = "overall", **changes) -> RunView:
    run = make_run(kind="geneval", benchmark="geneval", protocol={"protocol": protocol, "samples": "4"}, **changes)
    found = metric(name, 0.42, (0.4, 0.44), "score")
    return RunView(Path("nowhere"), run, Scores(metrics=[found], counts={"ok": 1}, expected_items=1))


def shown(*views: RunView) -> dict[str, list[str]]:
    """Table -> its models, in order."""
    return {doc.key: [line.cells[0].text for line in doc.lines] for doc in published_tables(views)}


def test_prints_stand_beside_runs_of_their_protocol_only():
    tables = shown(view("geneval", model="ours"), view("bagel-long", model="theirs"), view("custom", model="odd"))
    assert list(tables) == ["published-geneval", "published-bagel-long"]
    assert tables["published-geneval"][0] == "ours" and "SDXL" in tables["published-geneval"]
    assert tables["published-bagel-long"] == ["theirs", "BAGEL", "UniWorld-V1"]
    assert not shown(view("custom"))


@pytest.mark.parametrize(
    "changes",
    [
        {"profile": "shapes"},
        {"subset": a_subset()},
        {"reservations": [Reservation(kind="judge", text="another judge")]},
        {"status": "partial"},
    ],
)
def test_a_run_under_other_conditions_stands_beside_no_print(changes):
    assert shown(view("geneval", **changes)) == {}


def test_a_printed_line_says_where_it_is_from_and_how_it_was_drawn():
    (doc,) = published_tables([view("geneval")])
    line = next(line for line in doc.lines if line.cells[0].text == "BAGEL")
    assert [cell.text for cell in line.cells][1] == ".82" and line.kind == "printed"
    assert "guidance 4; 50 steps; 1024 px" in line.cells[2].text and "black borders" in line.cells[2].text
    assert line.cells[3].text == "printed: repository of BAGEL, run_geneval.sh"
    assert doc.lines[0].kind == "measured" and doc.lines[0].cells[1].text.startswith("0.420 [0.400, 0.440], n 100")


def test_the_file_holds_together():
    found = published()
    assert {p.protocol for p in found.prints if p.suite == "geneval"} - {"unstated"} <= set(declared().protocols)
    assert {p.suite for p in found.prints} >= {"geneval", "geneval2", "dpg", "wise", "wise-verified"}
    assert all(p.source and p.values for p in found.prints)
    broken = {"recipes": {}, "prints": [{"suite": "x", "protocol": "x", "source": "x", "values": {"A": "n/a"}}]}
    with pytest.raises(ValidationError):
        Published.model_validate(broken)


def test_tables_shows_them(tmp_path, capsys):
    write_bundle(tmp_path / "run", view("geneval").run, view("geneval").scores.metrics)
    assert main(["tables", str(tmp_path), "--table", "published-geneval"]) == 0
    assert "IF-XL" in capsys.readouterr().out
