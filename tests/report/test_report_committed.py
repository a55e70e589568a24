"""What stands in reports/ is what its runs say: tables are rebuilt from the kept records and compared byte for byte."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT
from report_mocks import images, make_items, make_run, metric, write_bundle

from armor_eval.report.files import archive, write_tables
from armor_eval.report.loading import load_runs, notices
from armor_eval.report.tables import build
from armor_model.base.hashing import sha256_folder

REPORTS = ROOT / "reports"


def test_committed_tables_match_their_bundles(tmp_path: Path) -> None:
    views = load_runs([REPORTS / "runs"])
    made = write_tables(build(views), tmp_path, ["md", "tex", "csv", "html"], notices(views))
    assert {p.name for p in made} == {p.name for p in (REPORTS / "tables").iterdir()}
    for path in made:
        assert path.read_text() == (REPORTS / "tables" / path.name).read_text(), f"{path.name}: run make reports"


def strings(value: object) -> Iterator[str]:
    """Every string of a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def test_kept_runs_name_no_machine_and_stay_small() -> None:
    """No absolute path: what a run read and wrote is named from where the command was typed."""
    for file in REPORTS.rglob("*.json*"):
        lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
        for text in (text for line in lines for text in strings(json.loads(line))):
            assert not any(Path(word).is_absolute() and len(Path(word).parts) > 2 for word in text.split()), file
    assert sum(f.stat().st_size for f in REPORTS.rglob("*") if f.is_file()) < 5_000_000


def test_an_archive_holds_heads_and_sheets_and_makes_the_same_tables(tmp_path: Path) -> None:
    shown = images(3)
    first = next(iter(shown))
    run = make_run(
        extras={"figures": [{"path": first, "title": "Figure", "name": "f"}, {"path": "../x.png", "name": "no"}]}
    )
    write_bundle(
        tmp_path / "runs/pope", run, [metric("F1", 88.7, (88.1, 89.3))], make_items(9, images=list(shown)), shown
    )
    archive(load_runs([tmp_path / "runs"]), tmp_path / "kept")
    kept = {str(p.relative_to(tmp_path / "kept")) for p in (tmp_path / "kept").rglob("*") if p.is_file()}
    assert kept == {"pope/run.json", "pope/scores.json", f"pope/{first}"}
    texts = []
    for place in ("runs", "kept"):
        write_tables(build(load_runs([tmp_path / place])), tmp_path / f"t-{place}", ["md"])
        texts.append((tmp_path / f"t-{place}/tables.md").read_text())
    assert texts[0] == texts[1]


def test_two_runs_of_one_folder_name_are_refused(tmp_path: Path) -> None:
    from armor_model.base.errors import UserError

    for place in ("a", "b"):
        write_bundle(tmp_path / place / "pope", make_run(place), [metric("F1", 88.7, None)])
    with pytest.raises(UserError, match="two of the runs"):
        archive(load_runs([tmp_path]), tmp_path / "kept")


def test_what_is_told_of_interleaved_answers_is_the_bundled_checkpoints() -> None:
    kept = [
        REPORTS / "runs" / f"interleaved{rest}" for rest in ("", "-blind", "-text-only", "-image-only", "-constant")
    ]
    models = {json.loads((path / "run.json").read_text())["model"]["fingerprint"] for path in kept}
    assert models == {sha256_folder(ROOT / "armor_model" / "pretrained" / "armor-nano")}
    numbers = [json.loads((path / "scores.json").read_text())["metrics"] for path in kept]
    page = (REPORTS / "interleaved" / "README.md").read_text()
    table = {line.split(" | ")[0].strip("| "): line for line in page[: page.index("first release")].splitlines()}
    for row in zip(*numbers, strict=True):
        name = row[0]["name"]
        cells = [f"{m['value']:.1f} [{m['ci95'][0]:.1f}, {m['ci95'][1]:.1f}]" for m in row]
        told = table["all right (headline)" if name == "all right" else name]
        assert told.endswith(" | ".join(["", *cells]) + " |"), name
    own, blind = (metrics[0]["value"] for metrics in numbers[:2])
    assert f"{own} % all right, {blind} % blind" in (ROOT / "docs" / "interleaved.md").read_text()
