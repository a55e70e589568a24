"""Verdicts a cell, what may be compared, and the four formats."""

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from report_mocks import a_subset, a_training, make_items, make_run, metric, shapes_run, write_bundle

from armor_eval.cli import main
from armor_eval.report import formats
from armor_eval.report.claims import load_claims, widened
from armor_eval.report.loading import RunView, load_runs, notices
from armor_eval.report.tables import build, rank_printed
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.protocols import declared
from armor_eval.runs.schema import DataInfo, ScorerInfo, Scores
from armor_model.base.errors import UserError


def view(run, *metrics) -> RunView:
    return RunView(Path("nowhere"), run, Scores(metrics=list(metrics), counts={"ok": 1}, expected_items=1))


def cell(views, row, column, table="table2"):
    doc = next(d for d in build(views) if d.key == table)
    return next(c for c in doc.cells if (c.row, c.column) == (row, column))


def test_a_printed_value_is_widened_by_its_rounding() -> None:
    assert widened("87.7") == pytest.approx((87.65, 87.75))
    assert widened("0.37") == pytest.approx((0.365, 0.375))


@pytest.mark.parametrize(
    ("ci95", "verdict"),
    [((88.0, 88.84), "differs"), ((88.0, 88.85), "match"), ((88.95, 90.0), "match"), ((88.96, 90.0), "differs")],
)
def test_match_is_where_the_widened_print_meets_the_interval(ci95, verdict) -> None:
    found = cell([view(make_run(), metric("F1", sum(ci95) / 2, ci95))], "internvl-2-5", "POPE")
    assert found.verdict == verdict
    assert found.gap == pytest.approx(sum(ci95) / 2 - 88.9)


@pytest.mark.parametrize(
    ("changes", "column", "name", "why"),
    [
        ({"status": "partial", "status_reason": "3 of 9 items missing"}, "POPE", "F1", "partial: 3 of 9 items missing"),
        ({"subset": a_subset()}, "POPE", "F1", "subset of 30 of 9000"),
        ({"benchmark": "MMB", "dataset": "MMBench_DEV_EN"}, "MMB", "circular accuracy", "no MMBench split"),
        ({"benchmark": "MMVet", "dataset": "MMVet", "judge": "gpt-4o"}, "MMVet", "score", "judge gpt-4o"),
        ({"benchmark": "POPE", "dataset": "POPE_mini"}, "POPE", "F1", "measured on POPE_mini"),
    ],
)
def test_other_conditions_are_not_comparable_and_say_why(changes, column, name, why) -> None:
    found = cell([view(make_run(**changes), metric(name, 88.9, (80.0, 95.0)))], "internvl-2-5", column)
    assert found.verdict == "not comparable"
    assert why in found.why


def test_no_interval_and_a_withheld_value_carry_no_verdict() -> None:
    assert cell([view(make_run(), metric("F1", 88.9, None))], "internvl-2-5", "POPE").verdict == "not comparable"
    withheld = metric("F1", None, None, note="9 of 10 items were not judged")
    found = cell([view(make_run(), withheld)], "internvl-2-5", "POPE")
    assert (found.verdict, found.why) == ("not comparable", "9 of 10 items were not judged")


def test_what_was_not_run_says_what_it_takes() -> None:
    assert cell([], "armor-internvl2-5", "MMVet").why == "needs weights (not published), GPU, judge"
    assert {c.verdict for d in build([]) for c in d.cells} == {"not run", "no print"}


def test_shapes_results_never_stand_in_an_official_column() -> None:
    run = shapes_run("s", "understanding", "POPE")
    docs = {d.key: d for d in build([view(run, metric("F1", 88.9, (88.0, 89.0)))])}
    assert all(c.run is None for c in docs["table2"].cells)
    shown = docs["shapes-understanding"].lines[0].cells
    assert [c.text for c in shown] == ["armor-nano", "88.9 [88.0, 89.0], n 100 [1]"]
    assert "no official benchmark" in docs["shapes-understanding"].caption


def test_mme_fills_both_columns_from_one_run() -> None:
    run = make_run(benchmark="MME", dataset="MME")
    both = (
        metric("perception + reasoning", 2338.9, (2300.0, 2380.0), "points"),
        metric("perception", 1600.0, (1590.0, 1610.0), "points"),
    )
    assert cell([view(run, *both)], "internvl-2-5", "MME").verdict == "match"
    assert cell([view(run, *both)], "internvl-2-5", "MME_P").verdict == "differs"


OFFICIAL_BUILD = {
    "detector": "mask2former-swin-s",
    "weights_sha256": "c9d0c4f2" + "0" * 56,
    "colors": "ViT-L-14-quickgelu",
    "colors_weights_sha256": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "threshold": 0.3,
    "counting_threshold": 0.9,
    "max_objects": 16,
    "position_threshold": 0.1,
}


def geneval_view(model="ARMOR-8B", value=0.37, *, prompts, settings=OFFICIAL_BUILD, **changes):
    """A run of before labels were written: the label is then read off its record."""
    fields = {
        "kind": "geneval",
        "benchmark": "geneval",
        "model": model,
        "training": a_training(),
        "data": DataInfo(name="geneval", sha256=prompts.ljust(64, "0"), items=2212),
        "extras": {"samples": 4},
        "scorer": ScorerInfo(name="geneval-official-rules", version="1", settings=settings),
        "decoding": {"guidance": 3.0},
        "run_id": model,
    }
    return view(make_run(**{**fields, **changes}), metric("overall", value, (value - 0.02, value + 0.02), "score"))


def test_geneval_is_the_papers_number_only_under_its_protocol() -> None:
    good = geneval_view(prompts=load_prompts_sha())
    assert cell([good], "armor", "score", "table3").verdict == "match"
    doc = next(d for d in build([good]) if d.key == "table3")
    line = next(li for li in doc.lines if li.kind == "measured")
    assert [c.text for c in line.cells[:5]] == ["measured: ARMOR-8B", "8.08B", "204,800", "0.004/cpu", "-"]
    assert "GenEval, the paper's number" in doc.head
    assert any("saturated" in note for note in doc.notes) and any("people's judgement" in note for note in doc.notes)
    sha = load_prompts_sha()
    for changes, why in (
        ({"settings": {**OFFICIAL_BUILD, "detector": "rtmdet"}}, "detector custom rtmdet"),
        ({"settings": {**OFFICIAL_BUILD, "threshold": 0.5}}, "detector custom mask2former-swin-s"),
        ({"settings": {**OFFICIAL_BUILD, "weights_sha256": "f" * 64}}, "detector custom mask2former-swin-s"),
        ({"extras": {"samples": 2}}, "samples 2 (geneval: 4)"),
        (
            {"prompts": "09472cc9c24e225417b1d5df27e688e5f2a0fcac9ec772f33d9debe4e5d49f27"},
            "protocol bagel-long: prompts",
        ),
        ({"prompts": "12345678"}, "prompts custom 12345678 (geneval: official)"),
    ):
        found = cell([geneval_view(**{"prompts": sha, **changes})], "armor", "score", "table3")
        assert found.verdict == "not comparable" and why in found.why and "not the paper's number" in found.why


def test_tables_never_rank_two_protocols_and_say_why() -> None:
    def marks(*views):
        doc = next(d for d in build(views) if d.key == "table3")
        return [c.rank for li in doc.lines if li.kind == "measured" for c in li.cells if c.rank]

    sha = load_prompts_sha()
    ours, theirs = geneval_view(prompts=sha), geneval_view("LDM", 0.30, prompts=sha)
    assert marks(ours, theirs) == ["best"]
    for changes in ({"extras": {"samples": 2}}, {"decoding": {"guidance": 7.5}}):
        other = geneval_view("LDM", 0.30, prompts=sha, **changes)
        assert marks(ours, other) == []
        (said,) = [line for line in notices([ours, other]) if "differ in protocol" in line]
        assert "samples 2" in said or "guidance 7.5" in said


def load_prompts_sha() -> str:
    return declared().prompts["official"].files[0].sha256


def test_repeats_are_shown_and_never_averaged() -> None:
    views = [view(make_run(f"r{i}"), metric("F1", 80.0 + i, (79.0, 90.0))) for i in range(2)]
    lines = [li for d in build(views) if d.key == "table2" for li in d.lines if li.kind == "measured"]
    assert len(lines) == 2
    text = formats.markdown(next(d for d in build(views) if d.key == "table2"))
    assert "80.0 " in text and "81.0 " in text and "80.5" not in text


def test_marks_are_given_within_comparable_rows_only() -> None:
    marks = rank_printed(load_claims().table("table2"))
    assert marks["armor-internvl2-5", "POPE"] == "second"
    assert marks["tokenflow-xl-qwen", "POPE"] == "best"
    assert marks["internvl-2-5", "POPE"] == "best"
    same = [
        view(make_run(f"r{m}", model=m), metric("F1", v, (v - 1, v + 1))) for m, v in (("A-1", 80.0), ("B-1", 82.0))
    ]
    doc = next(d for d in build(same) if d.key == "table2")
    assert [c.rank for li in doc.lines if li.kind == "measured" for c in li.cells if c.text[:2] in ("80", "82")] == [
        None,
        "best",
    ]
    apart = [same[0], view(make_run("rB", model="B-1", prompt_sha256="0" * 64), metric("F1", 82.0, (81.0, 83.0)))]
    doc = next(d for d in build(apart) if d.key == "table2")
    assert not any(c.rank for li in doc.lines if li.kind == "measured" for c in li.cells)


def test_differences_between_runs_are_one_line_each() -> None:
    a, b = make_run("a"), make_run("b", prompt_sha256="0" * 64, status="failed", status_reason="out of memory")
    said = notices([view(a), view(b), view(make_run("c", subset=a_subset()))])
    assert any("b (POPE" in s and "failed: out of memory" in s for s in said)
    assert any("differ in prompts: POPE (3 runs" in s and "never averaged" in s for s in said)
    assert sum("Subsets, not compared" in s and "30 of 9000 items" in s for s in said) == 1


def test_a_run_that_lost_items_or_scores_is_named_and_an_archive_is_not(tmp_path: Path) -> None:
    def bundle(name: str) -> Path:
        return write_bundle(tmp_path / name, make_run(name), [metric("F1", 88.7, (88.0, 89.0))], make_items(20))

    def said(folder: Path) -> list[str]:
        return [line for line in notices(load_runs([folder])) if "holds" in line or str(folder) in line]

    whole, torn, emptied, archived, unscored = map(bundle, ("whole", "torn", "emptied", "archived", "unscored"))
    lines = (torn / "items.jsonl").read_text().splitlines()
    (torn / "items.jsonl").write_text("\n".join([*lines[:10], lines[10][:30]]))
    (emptied / ".lock").touch()  # every folder that was measured into keeps one
    for folder in (emptied, archived):
        (folder / "items.jsonl").unlink()
    (unscored / "scores.json").unlink()
    assert said(whole) == said(archived) == []
    assert "is partial: the folder holds 10 items, its scores are of 20; it carries no verdict" in said(torn)[0]
    assert "has 1 torn or repeated lines" in said(torn)[1]
    assert "is partial: the folder holds 0 items, its scores are of 20" in said(emptied)[0]
    assert "has no scores.json" in said(unscored)[0]
    for folder, verdict in ((whole, "match"), (archived, "match"), (torn, "not comparable")):
        assert cell(load_runs([folder]), "internvl-2-5", "POPE").verdict == verdict
    assert read_bundle(whole)[0].status == read_bundle(archived)[0].status == "complete"
    assert read_bundle(torn)[0].status == read_bundle(emptied)[0].status == "partial"


def test_bad_input_is_one_line(tmp_path: Path, capsys) -> None:
    def said(*argv: str) -> str:
        assert main(list(argv)) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    assert "no runs in" in said("tables", str(tmp_path))
    assert "no such run" in said("report", str(tmp_path / "x"))
    assert "did you mean table2" in said("tables", "--table", "tabl2")
    assert "unknown format" in said("tables", "--format", "pdf")
    assert "unknown row name" in said("tables", "--row", "a=b")
    folder = write_bundle(tmp_path / "old", make_run(), [metric("F1", 1.0, None)])
    (folder / "run.json").write_text(
        (folder / "run.json").read_text().replace('"schema_version":1', '"schema_version":0')
    )
    assert "schema version 0" in said("tables", str(folder))
    fresh = write_bundle(tmp_path / "new", make_run(model="mine"), [metric("F1", 1.0, None)])
    assert "did you mean mine" in said("tables", str(fresh), "--row", "mina=internvl-2-5")
    assert "did you mean mine" in said(
        "report", str(fresh), "--row", "mina=internvl-2-5", "--out", str(tmp_path / "r.html")
    )
    (fresh / "run.json").write_text((fresh / "run.json").read_text()[:80])
    assert "run.json is damaged" in said("tables", str(fresh))


def test_partial_and_failed_runs_are_shown_as_such_and_carry_no_verdict() -> None:
    runs = [
        view(make_run("p", status="partial", status_reason="2 items missing"), metric("F1", 88.7, (88.0, 89.0))),
        view(make_run("f", status="failed", status_reason="out of memory"), metric("F1", 88.7, (88.0, 89.0))),
    ]
    (doc,) = build(runs, only=["table2"])
    cells = [c for c in doc.cells if c.run is not None]
    assert [c.verdict for c in cells] == ["not comparable"] * 2
    assert ["2 items missing" in cells[0].why, "out of memory" in cells[1].why] == [True, True]


def test_a_blind_run_never_reads_as_the_models_own() -> None:
    """Same model, same benchmark: the run without pictures has a row, a label and a footnote of its own."""
    seen = view(shapes_run("s", "understanding", "POPE"), metric("F1", 82.3, (77.8, 86.1)))
    blind = view(shapes_run("b", "understanding", "POPE", extras={"blind": True}), metric("F1", 23.1, (15.5, 32.9)))
    (doc,) = build([seen, blind], only=["shapes-understanding"])
    first, second = (line.cells[0].text for line in doc.lines)
    assert second == f"{first}, blind" and blind.label == f"{seen.label}, blind"
    assert "pictures left out (blind)" in doc.notes[-1] and "blind" not in doc.notes[-2]
    with pytest.raises(UserError, match="no runs given"):
        load_runs([])


HOSTILE = "<script>alert(1)</script>|`x`$\\_{}&%#\n=1+1 \u4f60"


def test_every_format_escapes_an_untrusted_name(tmp_path: Path) -> None:
    run = make_run(model=HOSTILE)
    doc = next(d for d in build([view(run, metric("F1", 88.9, (88.0, 89.0)))]) if d.key == "table2")
    md, tex, html = formats.markdown(doc), formats.latex(doc), formats.html(doc)
    assert "<script" not in md and "<script" not in html and "&lt;script&gt;" in html
    assert "\\textless{}script" in tex and "[U+4F60]" in tex
    row = next(line for line in md.splitlines() if "alert" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == len(doc.head) + 1
    run = make_run(model="=1+1")
    doc = next(d for d in build([view(run, metric("F1", 88.9, (88.0, 89.0)))]) if d.key == "table2")
    cells = list(csv.DictReader(io.StringIO(formats.csv_cells([doc]))))
    assert {c["model"] for c in cells} == {"", "'=1+1"}


def test_the_command_writes_all_formats_that_agree(tmp_path: Path, capsys) -> None:
    write_bundle(tmp_path / "runs/pope", make_run(), [metric("F1", 88.7, (88.1, 89.3))], make_items(20))
    assert main(["tables", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"tables.md", "tables.tex", "tables.csv", "tables.html", "table2.csv", "table5.tex", "claims.csv"} <= names
    records = list(csv.DictReader((tmp_path / "out/tables.csv").open()))
    assert len(records) == 23 * 9 + 19 + 4 + 1
    hit = [r for r in records if r["measured"]]
    assert [(r["row"], r["column"], r["measured"], r["verdict"], r["n"], r["run_id"]) for r in hit] == [
        ("internvl-2-5", "POPE", "88.7", "match", "100", "pope-a")
    ]
    assert hit[0]["command"] == "armor-eval understanding --bench POPE"
    for name in ("tables.md", "tables.html", "tables.tex"):
        assert "88.7 " in (tmp_path / "out" / name).read_text()


@pytest.mark.latex
def test_the_latex_compiles(tmp_path: Path) -> None:
    run = make_run(model=HOSTILE)
    docs = build(
        [
            view(run, metric("F1", 88.9, (88.0, 89.0))),
            view(shapes_run("s", "geneval", "geneval"), metric("overall", 0.5, (0.4, 0.6), "score")),
        ]
    )
    (tmp_path / "t.tex").write_text(formats.latex_document(docs))
    assert shutil.which("pdflatex"), "pdflatex is missing: apt-get install texlive-latex-recommended"
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 10_000
