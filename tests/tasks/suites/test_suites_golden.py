"""Suites' numbers are those of the official scripts, on invented data that those scripts have scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from paths import SHARED
from suite_world import dpg_declaration, geneval2_suite, replies, write_images

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.suites.declare import read_suite, suites
from armor_eval.tasks.suites.geneval2 import forms
from armor_eval.tasks.suites.judges import Reading, UnreadReply, reading_of
from armor_eval.tasks.suites.reductions import dependent, soft_tifa

FIXTURES = SHARED / "suites" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="needs ../shared/suites/fixtures")

IDS = {
    "Yes": 9454,
    "yes": 9693,
    " yes": 9834,
    " Yes": 7414,
    "0": 15,
    "1": 16,
    "2": 17,
    "3": 18,
    "4": 19,
    "5": 20,
    "6": 21,
    "7": 22,
    "one": 603,
    "One": 3966,
    " one": 825,
    " One": 3776,
    "two": 19789,
    "Two": 11613,
    " two": 1378,
    " Two": 9043,
    "three": 27856,
    "Three": 19641,
    " three": 2326,
    " Three": 14513,
    "four": 34024,
    "Four": 26972,
    " four": 3040,
    " Four": 13322,
    "five": 52670,
    "Five": 37020,
    " five": 4236,
    " Five": 20924,
    "six": 50364,
    "Six": 41460,
    " six": 4743,
    " Six": 18680,
    "seven": 80185,
    "Seven": 59528,
    " seven": 8094,
    " Seven": 29948,
    " ": 220,
}
"""First tokens in Qwen's public vocabulary; a space before a digit is a token of its own."""


def values(folder: Path) -> dict[str, float]:
    return {metric.name: metric.value for metric in read_bundle(folder)[2].metrics}


@needs_fixtures
def test_geneval2_from_logits_is_the_official_scripts(tmp_path):
    source = FIXTURES / "geneval2_stub"
    expected = json.loads((source / "expected_official.json").read_text())
    suite = read_suite(
        geneval2_suite(
            tmp_path,
            skills='["object", "attribute", "count", "position", "verb"]',
            groups=str(list(suites()["geneval2"].groups)).replace("'", '"'),
        )
    )
    data = suite.read([source / "data.jsonl"], "x")
    judged = {}
    for line in map(json.loads, (source / "judge_logits.jsonl").read_text().splitlines()):
        logits = torch.full((line["vocab"],), line["rest"], dtype=torch.float32)
        logits[[int(k) for k in line["logits"]]] = torch.tensor(list(line["logits"].values()))
        judged[line["image"], line["text"]] = logits
    text_of = {v: k for k, v in IDS.items()}
    said = []
    for i, item in enumerate(data.items):
        for k, probe in enumerate(item.probes):
            ids = [IDS[" " if form[0] == " " and form[1:].isdigit() else form] for form in probe.accept]
            logits = judged[f"img{i}.png", f"{probe.text} Answer in one word."]
            reading = reading_of(logits, ids, lambda token: text_of.get(token, "?"))
            p = math.exp(reading.log_p)
            assert p == pytest.approx(expected["soft_tifa_gm"]["lists"][i][k], abs=2e-6)
            said.append({"item": item.id, "probe": probe.id, "p": p, "reply": reading.text, "judge": "org/Judge-8B"})
    judge = replies(tmp_path / "replies.jsonl", said)
    command = ["draw", "--suite", str(tmp_path / "mine.toml"), "--data", str(source / "data.jsonl"), "--model", "mock"]
    assert main([*command, "--judge", judge, "--out", str(tmp_path / "run")]) == 0
    got = values(tmp_path / "run" / "mine")
    official = {f"soft-TIFA {name}": expected[f"soft_tifa_{name.lower()}"]["score"] for name in ("GM", "AM")}
    official |= {"TIFA": expected["tifa"]["score"], **expected["skills"]}
    official |= {f"atomicity {count}": value for count, value in expected["atomicity"].items()}
    assert got == pytest.approx(official, abs=2e-5) and len(got) == 16


@needs_fixtures
@pytest.mark.parametrize("protocol", ["official", "corrected"])
def test_dpg_is_the_official_scripts_defects_included_or_mended(tmp_path, protocol):
    source = FIXTURES / "dpg_stub"
    expected = json.loads((source / f"expected_{protocol}.json").read_text())
    answers = [json.loads(line) for line in (source / "answers.jsonl").read_text().splitlines()]
    own = suites()[f"dpg-{protocol}"].own_judge
    judge = replies(
        tmp_path / "r.jsonl",
        [
            {"item": a["item_id"], "sample": a["image"], "question": a["question"], "reply": a["answer"], "judge": own}
            for a in answers
        ],
    )
    suite = dpg_declaration(tmp_path, protocol, "questions.csv")
    grids = write_images(tmp_path / "grids", sorted({a["item_id"] for a in answers}), (64, 64))
    command = ["draw", "--suite", str(suite), "--data", str(source / "questions.csv"), "--images", str(grids)]
    assert main([*command, "--resolution", "32", "--judge", judge, "--out", str(tmp_path / "run")]) == 0
    run, items, _ = read_bundle(tmp_path / "run" / f"stub-{protocol}")
    got = values(tmp_path / "run" / f"stub-{protocol}")
    assert got.pop("score") == expected["score"]
    assert {name: value for name, value in got.items() if value is not None} == pytest.approx(
        {**expected["l1"], **expected["l2"]}, abs=1e-12
    )
    for item_id, crops in expected["items"].items():
        assert [item.score for item in items if item.cluster == item_id] == pytest.approx(crops[:4], abs=1e-15)
    left_out = {a["item_id"] for a in answers} - set(expected["items"])
    assert all(any(item in note for note in run.extras["notes"]) for item in left_out)
    assert bool(left_out) == (protocol == "official") and not run.reservations


def test_accept_sets_are_the_official_forms_in_order():
    assert forms("Yes") == ("Yes", "yes", " yes", " Yes")
    assert forms("four") == ("four", "Four", " four", " Four", "4", " 4")


def test_soft_tifa_by_number(tmp_path):
    suite = read_suite(geneval2_suite(tmp_path))
    item = suite.read([tmp_path / "data.jsonl"], "x").items[0]
    logs = [math.log(p) for p in (0.5, 0.02)]
    scored = soft_tifa(suite, item, [Reading("Two", logs[0]), Reading("No", logs[1])])
    assert scored.score == pytest.approx(0.1) and scored.numbers == pytest.approx({"am": 0.26, "tifa": 0.5})
    tiny = soft_tifa(suite, item, [Reading("2", -800.0), Reading("yes", 0.0)])
    assert tiny.score == pytest.approx(1.915169596714e-174, rel=1e-6), "logarithms do not underflow"
    assert soft_tifa(suite, item, [Reading("2", float("-inf")), Reading("yes", 0.0)]).score == 0


def test_a_wrong_parent_takes_its_children_along_in_row_order(tmp_path):
    from suite_world import dpg_suite

    rows = [
        ("a", "1", "0", "entity - whole", "q1"),
        ("a", "2", "1", "entity - part", "q2"),
        ("a", "3", "2", "entity - part", "q3"),
        ("a", "4", "5", "entity - part", "q4"),
        ("a", "5", "1", "entity - part", "q5"),
    ]
    suite = read_suite(dpg_suite(tmp_path, rows=rows))
    data = suite.read([tmp_path / "questions.csv"], "x")
    assert data.notes == ["1 questions stand before a parent and are judged by its raw answer"]
    said = [Reading(text) for text in ("no", "yes", "yes", "yes", "yes")]
    # 1 is wrong, 2 by it, 3 by 2; 4 stands before its parent 5, whose raw answer is right; 5 by 1
    scored = dependent(suite, data.items[0], said)
    assert scored.score == 1 / 5 and scored.values == (0, 1, 1, 1, 1)
    off = suite.model_copy(update={"options": {"cascade": "off"}})
    assert dependent(off, data.items[0], said).score == 2 / 5, "3's own parent answered yes"
    assert dependent(suite, data.items[0], [Reading("Yes")] * 5).score == 0, "`Yes` is not mPLUG's `yes`"
    loose = suite.model_copy(update={"options": {"loose": True}})
    assert dependent(loose, data.items[0], [Reading("Yes, there is.")] * 5).score == 1
    with pytest.raises(UnreadReply, match="question 1: 'I cannot tell' is neither yes nor no"):
        dependent(loose, data.items[0], [Reading("I cannot tell")] * 5)
