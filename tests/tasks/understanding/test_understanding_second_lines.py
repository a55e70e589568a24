"""Beside the headline: other readings of the same answers, and what happens where the official one contradicts ours."""

import gzip
import json

import pandas as pd
import pytest
from harness_data import hallusion, measure, mme, mmmu, pope, write
from paths import SHARED

from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Item
from armor_eval.tasks.formulas import composites_for
from armor_eval.tasks.understanding import parse
from armor_eval.tasks.understanding import parse as mmmu_rules
from armor_eval.tasks.understanding.declare import choose
from armor_eval.vlmevalkit import rules

RECORDS = SHARED / "records" / "understanding"
OPTIONS = {"A": "Lima", "B": "Oslo", "C": "Rome"}


class Says(MockModel):
    """Says what a table of index -> text holds."""

    def __init__(self, texts):
        super().__init__("table")
        self._texts = texts

    def answer(self, questions, decoding):
        return [Answer(text=self._texts[q.id]) for q in questions]


def measured(bench, frame, texts, tmp_path, name="r"):
    benchmark = choose([bench])[0]
    write(frame, tmp_path / name / "data" / benchmark.official.file)
    done = measure(bench, Says(texts), tmp_path / name / "run", tmp_path / name / "data")
    return done, {m.name: m for m in done.scores.metrics}


def open_letter():
    """MMMU with one closed question and two open ones, whose answers are a capital letter and a number."""
    frame = mmmu(4).assign(split="validation")
    frame = frame.loc[[1, 2, 3]].assign(index=["v_1", "v_2", "v_3"])
    frame.loc[[2, 3], ["A", "B", "C", "D"]] = None
    frame["answer"] = ["B", "C", "0.9965"]
    return frame


def test_an_open_question_whose_answer_is_a_letter_keeps_it_as_gold_as_vlmevalkit_does(tmp_path):
    done, metrics = measured("MMMU", open_letter(), {"v_1": "B", "v_2": "C", "v_3": "0.9965"}, tmp_path)
    # VLMEvalKit asks A (the answer) or B (any other) and holds the gold letter C: the row is lost, the run is not.
    assert metrics["validation accuracy"].value == pytest.approx(200 / 3) and done.run.status == "complete"
    own = metrics["validation accuracy, MMMU's own parser"]
    assert own.value == 100.0 and own.note.startswith("1 of 3")


def test_a_disagreement_names_the_rows_keeps_the_answers_and_withholds_the_headline(tmp_path, monkeypatch):
    read = rules.matched_option
    monkeypatch.setattr(rules, "matched_option", lambda text, options: "A" if text == "D" else read(text, options))
    frame = open_letter().iloc[:1].assign(index=[1])
    done, metrics = measured("MMMU", frame.assign(answer="D"), {"1": "D"}, tmp_path)
    assert done.run.status == "partial" and metrics["validation accuracy"].value is None
    assert "our formula gives 0.0, VLMEvalKit 100.0: rows 1 (1) differ" in done.scores.withheld
    run, items, scores = read_bundle(done.path)
    assert (run.status_reason, scores.withheld) == (done.scores.withheld, done.scores.withheld)
    assert [(it.output, it.status) for it in items] == [("D", "ok")]
    assert metrics["validation accuracy, our reading"].value == 100.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("(B)", "B"),
        ("It is B .", "B"),
        ("(A) or rather (C).", "C"),
        ("A or C or A", "A"),
        ("Oslo", None),
        ("All of this points to the city of Oslo", "B"),
        ("I would say Lima and after that Rome", "C"),
        ("", None),
        ("b", None),
        ("B. Oslo", None),
        ("The answer is B", "B"),
    ],
)
def test_mmmus_parser_reads_closed_answers(text, letter):
    assert mmmu_rules.read_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("1.0", "0.9965", True),
        ("so x = 1,234", "1234", True),
        ("1.2e3", "1200", True),
        ("it is 3.5 m", "3.456", False),
        ("it is 3.46 m", "3.456", True),
        ("The result is the Tampa strait", "['Tampa', 'Florida']", True),
        ("embryonic tissue", "embryonic", True),
        ("C", "C", True),
        ("it is C", "C", True),
        ("it is cats", "C", False),
        ("the type c here", "C", True),
        ("so it is 7.", "8", False),
        ("", "8", False),
    ],
)
def test_mmmus_parser_reads_open_answers(text, gold, right):
    assert mmmu_rules.is_right(mmmu_rules.read_open(text), gold) is right


def test_mmes_own_rule_looks_at_the_first_four_characters(tmp_path):
    read = [parse.read_first_four(t) for t in ("Yes, there is no left turn", "no", " NO.", "It is yes", "maybe no")]
    assert read == ["Yes", "No", "No", None, None]
    frame = mme(1)
    texts = {str(i): f"{answer}, and no more" for i, answer in zip(frame["index"], frame["answer"], strict=True)}
    _, metrics = measured("MME", frame, texts, tmp_path)
    assert metrics["perception, MME's own rule"].value == 600.0  # three categories in the file
    assert metrics["reasoning, MME's own rule"].value == 400.0
    assert metrics["perception"].value < 600.0  # VLMEvalKit reads "Yes, and no more" as nothing


def test_pope_by_category(tmp_path):
    frame = pope(6)
    frame["category"] = ["adversarial,popular,random", "popular", "random", "adversarial"] * 6
    texts = {str(i): ("Yes", "No", "Yes")[n % 3] for n, i in enumerate(frame["index"])}
    _, metrics = measured("POPE", frame, texts, tmp_path)
    expected = []
    for category in ("adversarial", "popular", "random"):
        rows = [r for r in frame.to_dict("records") if category in r["category"].split(",")]
        tp = sum(r["answer"] == texts[str(r["index"])] == "Yes" for r in rows)
        wrong = sum(r["answer"] != texts[str(r["index"])] for r in rows)
        expected.append(100 * 2 * tp / (2 * tp + wrong))
        assert metrics[f"F1, {category}"].value == pytest.approx(expected[-1])
    assert metrics["F1, mean of the categories"].value == pytest.approx(sum(expected) / 3)
    assert len(set(expected)) > 1


def test_hallusionbench_keeps_the_sets_of_its_two_categories_apart(tmp_path):
    frame = hallusion(1)
    both = frame.assign(index=[i.replace("VD", "VS") for i in frame["index"]], category="VS")
    frame = pd.concat([both, frame], ignore_index=True)
    # VD's answers are right, VS's wrong: by VLMEvalKit's key each figure and question holds one of both.
    other = {"Yes": "No", "No": "Yes"}
    texts = {i: a if i.startswith("VD") else other[a] for i, a in zip(frame["index"], frame["answer"], strict=True)}
    _, metrics = measured("HallusionBench", frame, texts, tmp_path)
    assert [metrics[name].value for name in ("aAcc", "fAcc", "qAcc")] == [50.0, 0.0, 0.0]
    assert [metrics[f"{name}, own grouping"].value for name in ("fAcc", "qAcc")] == [50.0, 50.0]


def records(name):
    if not RECORDS.is_dir():
        pytest.skip("the real records (../shared/records) are not beside this checkout")
    return [json.loads(line) for line in gzip.open(RECORDS / name)]


def item(row, cluster, score, **extras):
    group = row.get("category")
    return Item(
        id=str(row["index"]),
        cluster=cluster,
        group=group,
        prompt="",
        prompt_sha256="",
        score=score,
        status="ok",
        extras=extras,
    )


def test_mmmus_parser_on_qwen_vls_real_answers():
    right, unread = 0, 0
    for row in records("mmmu_val_qwen_vl.jsonl.gz"):
        options = {c: row[c] for c in "ABCDEFGHI" if row.get(c) is not None}
        if options:
            read = mmmu_rules.read_choice(row["prediction"], options)
            unread += read is None
            right += read == row["answer"]
        else:
            right += mmmu_rules.is_right(mmmu_rules.read_open(row["prediction"]), str(row["answer"]))
    # 36.0 is the authors' figure with 48 random draws, 15 of them lucky.
    assert (right / 9, unread) == (pytest.approx(34.333333333333336), 48)


def test_popes_categories_on_llavas_real_answers():
    items = [
        item(r, r["image_path"], float(r["prediction"] == r["answer"]), answer=r["answer"], extracted=r["prediction"])
        for r in records("pope_llava-v1.5-13b.jsonl.gz")
    ]
    values = {c.name: c.value(items) for c in composites_for("POPE")}
    official_f1 = {"adversarial": 84.45873526259378, "popular": 86.24589565851879, "random": 87.13601179506081}
    assert {c: values[f"F1, {c}"] for c in official_f1} == pytest.approx(official_f1, abs=1e-9)
    assert (values["F1"], round(values["F1, mean of the categories"], 1)) == (pytest.approx(85.93238822246457), 85.9)


def test_hallusionbenchs_real_grouping():
    items = []
    for row in records("hallusionbench_questions.jsonl.gz"):
        pieces = row["index"].split("_")
        items.append(item(row, f"{row['l2-category']}_{pieces[3]}", 1.0, figure=pieces[4], question=pieces[5]))
    sums = {c.name: c.cluster_sums(items).sums_CS.sum(axis=0) for c in composites_for("HallusionBench")}
    assert sums["fAcc"][[3, 5]].tolist() == [332, 429]
    assert sums["fAcc, own grouping"][[3, 5]].tolist() == [346, 455]
