"""Benchmarks of a known family are TOML files, also from outside of the repository; vlmeval has one door."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from harness_data import measure, mmbench, pope, seed_bench, the_run, write
from paths import ROOT

from armor_eval.cli import main
from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.families import FAMILIES
from armor_eval.tasks.formulas import composites_of
from armor_eval.tasks.understanding.declare import benchmarks, choose
from armor_model.base.errors import UserError

EXAMPLE = re.search(r"```toml\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)[1]


def declare(folder: Path, text: str = EXAMPLE, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def birds(tmp_path) -> tuple[Path, Path]:
    """CONTRIBUTING.md's example and a file of its layout."""
    write(seed_bench(12).drop(columns=["category"]), tmp_path / "data" / "Birds.tsv")
    return declare(tmp_path), tmp_path / "data"


def test_the_example_of_contributing_runs_from_outside_and_is_compared(birds, tmp_path, capsys):
    declared, data = birds
    words = ["understanding", "--bench", str(declared), "--data", str(data), "--any-data", "--limit", "4"]
    assert main([*words, "--model", "mock:A", "--out", str(tmp_path / "a"), "--json"]) == 0
    run, items, scores = read_bundle(the_run(tmp_path / "a" / "Birds"))
    assert run.benchmark == "Birds" and run.extras["declared"]["family"] == "choice"
    assert run.subset.rule == "Birds picture with its questions" and len(items) == 8
    assert scores.metrics[0].value == pytest.approx(100 * sum(it.gold == "A" for it in items) / 8)
    assert main([*words, "--model", "mock:A", "--out", str(tmp_path / "a")]) == 0  # shown again
    assert main([*words, "--model", "mock:B", "--out", str(tmp_path / "b")]) == 0
    assert [c.name for c in composites_of(run)] == ["accuracy"]
    capsys.readouterr()
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) != 2
    said = capsys.readouterr().out
    assert '"Birds"' in said and '"accuracy"' in said and "NOT COMPARABLE" not in said
    assert main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "page.html")]) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("choice", "choise"), "did you mean choice"),
        (('family = "choice"\n', ""), "family None is none"),
        (('name = "Birds"', 'name = "pope"'), "the name pope is taken"),
        (
            ('family = "choice"', 'family = "choice"\ncluster = "groups"'),
            "cluster 'groups' is none of the family choice's",
        ),
        (('family = "choice"', 'family = "choice"\nhours = 3'), "hours"),
        (('family = "choice"', "family ="), "cannot read"),
    ],
)
def test_a_declaration_that_could_not_be_scored_is_refused_when_read(tmp_path, change, told):
    path = declare(tmp_path, EXAMPLE.replace(*change))
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        choose([str(path)])
    assert "\n" not in caught.value.line() and str(path) in caught.value.line()


def test_files_that_lack_a_familys_columns_are_refused_before_a_question(birds, tmp_path, capsys):
    declared, data = birds
    frame = pd.read_csv(data / "Birds.tsv", sep="\t").drop(columns=["B"])
    write(frame, data / "Birds.tsv")
    argv = ["understanding", "--bench", str(declared), "--data", str(data), "--any-data", "--model", "mock"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    assert "lacks the column B" in capsys.readouterr().err and not (tmp_path / "r").exists()
    assert main(["understanding", "--bench", str(tmp_path / "none.toml"), "--model", "mock"]) == 2


def test_a_file_without_an_md5_is_told_the_line_that_lets_it_be_measured(birds, tmp_path, capsys):
    """`armor-eval suite` and `evaluate` have no --any-data: what they say must be of use to them."""
    declared, data = birds
    argv = ["understanding", "--bench", str(declared), "--data", str(data), "--model", "mock", "--limit", "2"]
    assert main([*argv, "--out", str(tmp_path / "r")]) == 2
    line = re.search(r"md5 = \{.*?\}", capsys.readouterr().err)[0]
    declared.write_text(EXAMPLE.replace('file = "Birds.tsv"', f'file = "Birds.tsv"\n{line}'))
    assert main([*argv, "--out", str(tmp_path / "r")]) == 0
    assert "not the published" not in capsys.readouterr().out
    page = tmp_path / "page.html"  # the declaration is the run's own, and so are the images of its questions
    assert main(["report", str(tmp_path / "r"), "--data", str(data), "--out-file", str(page)]) == 0
    assert "question images are not here" not in capsys.readouterr().err
    assert page.read_text(encoding="utf-8").count("iVBORw0KGgo") >= 1  # how a PNG begins in base64


@pytest.mark.parametrize(
    ("family", "frame", "answer", "score"),
    [
        ("circular", mmbench(3), None, 100.0),
        ("yes-no", pope(3).drop(columns=["category"]), "Yes", 50.0),
        ("pope", pope(3), "Yes", None),
    ],
)
def test_a_family_scores_a_name_that_vlmevalkit_does_not_know(family, frame, answer, score, tmp_path):
    """The official rule runs under a name of its own: a headline that disagreed with ours would be withheld."""
    text = EXAMPLE.replace('family = "choice"', f'family = "{family}"')
    if family != "circular":
        text = text.replace('form = "choice"', 'form = "question"')
    if family == "pope":  # counts an item once for each of its categories
        text = text.replace('group = ""\n', "")
    declared = declare(tmp_path, text)
    write(frame, tmp_path / "data" / "Birds.tsv")
    gold = dict(zip(map(str, frame["index"]), frame["answer"], strict=True))

    class Says(MockModel):
        def answer(self, questions, decoding):
            return [Answer(answer or gold[q.id]) for q in questions]

    done = measure(str(declared), Says(), tmp_path / "r", tmp_path / "data")
    assert done.run.status == "complete" and done.scores.withheld is None
    headline = done.scores.metrics[0]
    assert headline.value is not None and (score is None or headline.value == score)


def test_every_family_names_what_vlmevalkit_has(tmp_path):
    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    with quiet_vlmeval():
        from vlmeval import dataset

        for family in FAMILIES.values():
            assert hasattr(dataset, family.scorer), family.name
    assert {b.family for b in benchmarks().values()} <= set(FAMILIES)
    json.dumps([b.model_dump() for b in benchmarks().values()])


def test_vlmevalkit_has_one_door():
    """Nothing but armor_eval/vlmevalkit imports vlmeval."""
    for package in ("armor_eval", "armor_model", "trainer"):
        for path in (ROOT / package).rglob("*.py"):
            names = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module or "")
            inside = path.is_relative_to(ROOT / "armor_eval" / "vlmevalkit")
            assert inside or not any(n.split(".")[0] == "vlmeval" for n in names), path


BY_NAME = re.compile(
    r"(?:==|!=|\bin\b|startswith\()\s*\(?[\"'](?:" + "|".join(map(re.escape, [*benchmarks()])) + r")\b"
)


def test_no_branch_asks_for_a_benchmarks_name():
    """Outside of the families: what benchmarks have in common is declared, not asked for by name."""
    places = ("tasks/understanding", "vlmevalkit", "stats", "cli", "engine")
    for path in (p for place in places for p in (ROOT / "armor_eval" / place).rglob("*.py")):
        found = BY_NAME.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found[0]}"


def test_a_row_without_category_belongs_to_no_group(birds, tmp_path):
    declared, data = birds
    measure(str(declared), MockModel("A"), tmp_path / "r", data)
    assert {it.group for it in read_bundle(the_run(tmp_path / "r"))[1]} == {None}


@pytest.mark.parametrize(
    ("bench", "answer", "told"),
    [
        ("ChartQA", "__import__('os').system('touch owned')", "would run as Python"),
        ("ChartQA", "9**9**9", "would run as Python"),
        ("ChartQA", "[x for x in ()]", "would run as Python"),
        ("OCRBench", "print('x')", "expected a list of texts"),
        ("OCRBench", "[]", "expected a list of texts"),
        ("OCRBench", "['a', 1]", "expected a list of texts"),
    ],
)
def test_an_answer_that_vlmevalkit_would_run_costs_its_row(bench, answer, told, tmp_path):
    """Its `evaluate` hands the answer's cell to Python's eval: what is no plain value never gets there."""
    from harness_data import MAKERS

    frame = MAKERS[choose([bench])[0].dataset]()
    frame.loc[0, "answer"] = answer
    write(frame, tmp_path / f"{choose([bench])[0].dataset}.tsv")
    done = measure(bench, MockModel("B"), tmp_path / "r", tmp_path)
    item = next(it for it in read_bundle(tmp_path / "r")[1] if it.id == "0")
    assert item.status == "error" and told in item.reason
    assert done.run.status == "partial" and not Path("owned").exists()


@pytest.mark.parametrize(
    ("column", "cell", "told"),
    [
        ("choices", "[__import__('os').getpid()]", "expected a list of 1 to 26"),
        ("choices", "[]", "expected a list of 1 to 26"),
        ("choices", str(["x"] * 27), "expected a list of 1 to 26"),
        ("answer_option", "E", "none of its choices A, B, C, D"),
        ("skills", " __import__('os').getpid()", "expected a list of texts"),
        ("skills", "algebra", "expected a list of texts"),
        ("skills", "[1]", "expected a list of texts"),
    ],
)
def test_what_mathvistas_rule_would_run_or_end_at_costs_its_row(column, cell, told, tmp_path):
    from harness_data import mathvista, task_of

    frame = mathvista()
    frame.loc[0, column] = cell
    write(frame, tmp_path / "MathVista_MINI.tsv")
    problems = {row.id: row.problem for row in task_of("MathVista", tmp_path).table.rows}
    assert told in problems.pop("0") and set(problems.values()) == {None}


def test_mathvistas_judge_is_asked_for_what_is_not_right_at_once_and_lists_have_a_line_of_their_own(tmp_path):
    from harness_data import mathvista

    from armor_eval.runs.schema import JudgeInfo
    from armor_eval.vlmevalkit.records import Judged

    write(mathvista().iloc[:8], tmp_path / "MathVista_MINI.tsv")

    class Extracts:
        info = JudgeInfo(name="extracts", endpoint="local")

        def judge(self, requests, done=None):
            self.asked = [r.id for r in requests]
            said = {r.id: "[]" if r.id == "5" else "C" if r.id == "7" else "0" for r in requests}
            return Judged({r.prompt: said[r.id] for r in requests}, said, said)

    class Says(MockModel):
        def answer(self, questions, decoding):
            return [Answer({"0": "(A)", "1": "1", "3": "B."}.get(q.id, "It is circle-ish")) for q in questions]

    judge = Extracts()
    done = measure("MathVista", Says(), tmp_path / "r", tmp_path, judge=judge)
    assert judge.asked == ["2", "4", "5", "6"], "7 is read as C by its text"
    values = {m.name: m.value for m in done.scores.metrics}
    assert values["accuracy"] == 62.5 and values["accuracy, lists and texts compared as they are"] == 75.0
    assert done.scores.withheld is None and done.run.status == "complete"
    assert FAMILIES["extracted"].read_reply(None, "1e999") is None
