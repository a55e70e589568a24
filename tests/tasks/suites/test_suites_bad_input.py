"""What no score could be made of is refused in one line, before anything is drawn."""

from __future__ import annotations

import json

import pytest
from suite_world import QUESTIONS, declare, dpg_suite, geneval2_replies, geneval2_suite, replies, write_images

from armor_eval.cli import main
from armor_eval.tasks.suites.declare import git_blob_id


def refused(capsys, arguments: list[str]) -> str:
    assert main(["draw", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def geneval2_line(**changes):
    row = {"prompt": "a fern", "atom_count": 3, "vqa_list": [["Any ferns?", "Yes"]], "skills": ["object"]}
    return json.dumps({**row, **changes}) + "\n"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (geneval2_line(skills=["texture"]), "item 0: unknown skill 'texture'"),
        (geneval2_line(atom_count=11), "item 0: unknown group '11'"),
        (geneval2_line(vqa_list=[["Any ferns?", ""]]), "data.jsonl line 1: vqa_list.0.1:"),
        (geneval2_line(vqa_list=[["Any ferns?", "  "]]), "item 0: question 0 accepts no answer"),
        (geneval2_line(skills=["object", "count"]), "data.jsonl line 1: 1 questions, but 2 skills"),
        (geneval2_line(vqa_list=[], skills=[]), "item 0 has no question"),
        (geneval2_line() * 2, "two images would be called alike"),
        ("{not json\n", "data.jsonl line 1: not JSON"),
        ("", "holds no items"),
    ],
)
def test_a_question_file_of_geneval2s_form(tmp_path, capsys, lines, said):
    suite = geneval2_suite(tmp_path)
    (tmp_path / "data.jsonl").write_text(lines)
    judge = geneval2_replies(tmp_path / "r.jsonl")
    assert said in refused(capsys, ["--suite", str(suite), "--model", "mock", "--judge", judge])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({1: ("a0", "2", "3", "entity - part", "q")}, "item a0: questions 2, 3 hang on each other in a circle"),
        ({1: ("a0", "2", "7", "entity - part", "q")}, "item a0: question 2 hangs on 7, which is not there"),
        ({1: ("a0", "1", "0", "entity - part", "q")}, "item a0: two questions have one id"),
        ({0: ("a0", "1", "0", "colour", "q")}, "item a0: unknown skill 'colour'"),
        (
            {0: ("a0", "1", "2", "entity - part", "q"), 1: ("a0", "2", "0", "entity - part", "q")},
            "item a0: a question stands before the one it hangs on",
        ),
    ],
)
def test_a_question_file_of_dpgs_form(tmp_path, capsys, changes, said):
    rows = [changes.get(at, row) for at, row in enumerate(QUESTIONS)]
    suite = dpg_suite(tmp_path, rows=rows)
    suite.write_text(suite.read_text().replace('"row-order"\n', '"before"\n'))
    assert said in refused(capsys, ["--suite", str(suite), "--model", "mock", "--judge", "replies:r"])


def test_a_file_of_another_hash_is_not_the_published_one(tmp_path, capsys):
    (tmp_path / "geneval2_data.jsonl").write_text(geneval2_line())
    (tmp_path / "dpg_bench.csv").write_text("item_id\n")
    for suite, kind in (("geneval2", "sha256"), ("dpg-official", "git blob")):
        line = refused(capsys, ["--suite", suite, "--data", str(tmp_path), "--model", "mock", "--judge", "replies:r"])
        assert f"is not the published {'geneval2_data.jsonl' if kind == 'sha256' else 'dpg_bench.csv'}" in line
        assert f"{kind} " in line and "expected" in line and "github.com" in line
    missing = refused(capsys, ["--suite", "geneval2", "--model", "mock", "--judge", "replies:r"])
    assert "needs geneval2_data.jsonl" in missing and "CC BY-NC 4.0" in missing and "--download" in missing


def test_a_git_blob_is_named_as_git_names_it(tmp_path):
    (tmp_path / "x").write_bytes(b"hello\n")
    assert git_blob_id(tmp_path / "x") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_names_judges_and_folders(tmp_path, capsys):
    suite, images = str(geneval2_suite(tmp_path)), write_images(tmp_path / "images", ["nothing of it"])
    said = [
        (["--suite", "genval2"], "unknown suite 'genval2' (did you mean geneval2?)"),
        (["--suite", suite], "mine needs a judge; its own judge is org/Judge-8B"),
        (["--suite", suite, "--judge", "hg:x"], "no judge 'hg:x' (did you mean hf?)"),
        (["--suite", suite, "--judge", "replies:nowhere"], "cannot read the replies nowhere"),
        (["--suite", suite, "--images", str(images)], "holds no image of mine"),
        (["--suite", suite, "--images", str(images / "x")], "is not a folder"),
        (["--suite", f"{suite},{suite}"], "--suite names mine twice"),
        (["--suite", suite, "--images", str(images), "--guidance", "2"], "leave --guidance out"),
    ]
    for arguments, words in said:
        assert words in refused(capsys, arguments)


def test_replies_that_cannot_serve(tmp_path, capsys):
    suite = str(geneval2_suite(tmp_path))
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"item": "0", "probe": "0", "p": 1.5}\n')
    assert "bad.jsonl line 1: p:" in refused(capsys, ["--suite", suite, "--model", "mock", "--judge", f"replies:{bad}"])
    words = replies(tmp_path / "words.jsonl", [{"item": "0", "probe": "0", "reply": "yes"}])
    assert "holds no probabilities" in refused(
        capsys, ["--suite", suite, "--model", "mock", "--judge", words, "--out", str(tmp_path / "o")]
    )
    two = [{"item": "0", "probe": str(k), "reply": "yes", "judge": name} for k, name in enumerate("ab")]
    several = replies(tmp_path / "two.jsonl", two)
    assert "replies of several judges: a, b" in refused(capsys, ["--suite", suite, "--judge", several])


def test_a_suite_of_the_users_own(tmp_path, capsys):
    values = {"judge": '"vqa_text"', "loader": '"./mine.py:read"', "reduction": '"dependent"', "images": '"{id}"'}
    suite = declare(tmp_path, "birds", values, "birds.txt")
    (tmp_path / "birds.txt").write_text("a wren\na robin\n")
    assert "has no loader './mine.py:read'" in refused(capsys, ["--suite", str(suite), "--judge", "replies:r"])
    (tmp_path / "mine.py").write_text(
        "from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem\n"
        "def read(files, suite):\n"
        "    lines = files[0].read_text().splitlines()\n"
        "    items = [SuiteItem(str(i), t, (Probe('is', f'Is it {t}?', ('yes',)),)) for i, t in enumerate(lines)]\n"
        "    return SuiteData(suite.name, '', items)\n"
    )
    judge = replies(
        tmp_path / "r.jsonl",
        [{"item": "0", "question": "Is it a wren?", "reply": "yes"}, {"item": "1", "probe": "is", "reply": "no"}],
    )
    command = ["draw", "--suite", str(suite), "--model", "mock", "--judge", judge, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "50.0 %" in capsys.readouterr().out
    for broken, said in (("reduction", "unknown reduction 'nothing'"), ("judge", "judge: Input should be")):
        declare(tmp_path, "birds", {**values, broken: '"nothing"'}, "birds.txt")
        assert said in refused(capsys, ["--suite", str(suite), "--judge", judge])
    suite.write_text(suite.read_text().replace('"birds"', '"geneval2"', 1))
    declare(tmp_path, "geneval2", values, "birds.txt")
    assert "the name geneval2 is taken" in refused(capsys, ["--suite", str(tmp_path / "geneval2.toml")])


def test_mplug_says_what_it_needs(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "modelscope", None)
    line = refused(
        capsys, ["--suite", str(dpg_suite(tmp_path)), "--model", "mock", "--judge", "mplug", "--out", str(tmp_path)]
    )
    assert "needs modelscope" in line and "pip install" in line
