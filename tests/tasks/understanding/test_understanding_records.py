"""Real public records, scored through the command to the last digit of what their authors print.

The records (predictions, judge replies, official scores) lie in ../shared/records and are not part of the repository;
without them these tests are skipped. Each is written in the layout that its own tools use, with stand-in text where the
record holds none, and scored by `armor-eval understanding score`. Expected figures are the manifest's.
"""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from harness_data import png, the_run
from paths import SHARED

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.formulas import composites_for
from armor_eval.tasks.understanding import parse as mmmu

RECORDS = SHARED / "records"
MANIFEST = json.loads((RECORDS / "manifest.json").read_bytes())["records"] if RECORDS.is_dir() else []

pytestmark = pytest.mark.skipif(not MANIFEST, reason="../shared/records is not there: real predictions of others")


def expected(name: str) -> dict:
    return next(entry["expected"] for entry in MANIFEST if name in entry["file"])


def rows_of(name: str) -> list[dict]:
    file = next(entry["file"] for entry in MANIFEST if name in entry["file"])
    with gzip.open(RECORDS / file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_lines(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def score(bench: str, predictions: Path, out: Path, *options: object, code: int = 0):
    """Through the command a user types; the bundle's metrics by name, and its run."""
    words = ["understanding", "score", "--bench", bench, "--predictions", predictions, "--out", out, *options]
    assert main([str(word) for word in words]) == code
    run, items, scores = read_bundle(the_run(out))
    assert run.status == ("complete" if code == 0 else "partial")
    return {metric.name: metric.value for metric in scores.metrics}, run, items, scores


def headline(scores) -> float | None:
    return next(metric.value for metric in scores.metrics if metric.primary)


@pytest.mark.parametrize(("name", "judgings"), [("grade-1runs", 1), ("grade-3runs", 3)])
def test_mmvet_of_llava(tmp_path, name, judgings):
    rows = rows_of(name)
    keys = {"index": "id", "image": "imagename", "question": "question", "answer": "answer"}
    own = {
        r["index"]: {keys[k]: r[k] for k in keys if k != "index"} | {"capability": r["category"].split(",")}
        for r in rows
    }
    questions = tmp_path / "mm-vet.json"
    questions.write_text(json.dumps(own), encoding="utf-8")
    answers = write_lines(
        tmp_path / "answers.jsonl", [{k: r[k] for k in ("index", "prediction", "judge")} for r in rows]
    )
    found = []
    for judging in range(1, judgings + 1):
        options = ["--questions", questions, "--judging", judging, "--judge-model", "gpt-4-0613"]
        _, run, items, scores = score("MMVet", answers, tmp_path / f"run{judging}", *options)
        assert len(items) == 218 and run.judge.name == "gpt-4-0613"
        found.append(round(headline(scores), 1))
    [wanted] = expected(name).values()
    assert found == (wanted if isinstance(wanted, list) else [wanted])


def test_llavabench_of_llava(tmp_path):
    rows = rows_of("llavabench")
    questions = write_lines(
        tmp_path / "questions.jsonl",
        [
            {
                "question_id": r["index"],
                "image": f"{r['index']:03}.jpg",
                "text": r["question"],
                "category": r["category"],
            }
            for r in rows
        ],
    )
    answers = write_lines(
        tmp_path / "answers.jsonl", [{k: r[k] for k in ("index", "prediction", "judge")} for r in rows]
    )
    found = []
    for judging in (1, 2, 3):
        options = ["--questions", questions, "--judging", judging]
        _, _, _, scores = score("LLaVABench", answers, tmp_path / f"run{judging}", *options)
        found.append(round(headline(scores), 1))
    assert found == expected("llavabench")["relative score of each review, rounded to 0.1"]


def test_mme_of_lavin(tmp_path):
    folder = tmp_path / "LaVIN"
    folder.mkdir()
    lines: dict[str, list[str]] = {}
    for number, r in enumerate(rows_of("mme_LaVIN")):
        category, _, image = r["image_path"].partition("/")
        said = r["prediction"].replace("\n", " ")
        lines.setdefault(category, []).append(
            f"{image}\tIs it {number}? Please answer yes or no.\t{r['answer']}\t{said}\n"
        )
    for category, written in lines.items():
        (folder / f"{category}.txt").write_text("".join(written), encoding="utf-8")
    metrics, _, _, _ = score("MME", folder, tmp_path / "mme", "--questions", folder)
    wanted = expected("mme_LaVIN")
    assert metrics["perception"] == pytest.approx(wanted["perception (1e-9)"], abs=1e-9)
    assert metrics["reasoning"] == pytest.approx(wanted["reasoning by VLMEvalKit 0.0.20 (1e-9)"], abs=1e-9)
    own = metrics["reasoning, MME's own rule"]
    assert own == pytest.approx(wanted["cognition by MME's own first-4-characters rule (1e-9)"], abs=1e-9)
    _, _, _, scores = score("MME-P", folder, tmp_path / "mme-p", "--questions", folder)
    assert headline(scores) == pytest.approx(wanted["perception (1e-9)"], abs=1e-9)


def test_pope_of_llava(tmp_path):
    """POPE's own label files, LLaVA's prompt file and LLaVA's answers: 8,910 questions that fold to 5,043 rows."""
    labels: dict[str, list[dict]] = {"adversarial": [], "popular": [], "random": []}
    prompts, answers = [], []
    for r in rows_of("pope_llava"):
        for category in r["category"].split(","):
            number = len(prompts)
            text = f"{r['question']}\nAnswer the question using a single word or phrase."
            named = {"image": r["image_path"], "text": r["question"], "label": r["answer"].lower()}
            labels[category].append({"question_id": len(labels[category]) + 1, **named})
            prompts.append({"question_id": number, "image": r["image_path"], "text": text, "category": category})
            answers.append(
                {"question_id": number, "prompt": text, "text": r["prediction"], "model_id": "llava-v1.5-13b"}
            )
    for category, records in labels.items():
        write_lines(tmp_path / "coco" / f"coco_pope_{category}.json", records)
    asked = write_lines(tmp_path / "llava_pope_test.jsonl", prompts)
    said = write_lines(tmp_path / "llava-v1.5-13b.jsonl", answers)
    options = ["--questions", tmp_path / "coco", "--questions", asked]
    metrics, run, items, scores = score("POPE", said, tmp_path / "run", *options)
    wanted = expected("pope_llava")
    assert (len(answers), len(items)) == (8910, 5043) and wanted["edition"] == "8,910 questions, 5,043 rows"
    assert any("3867 answers are given again" in note for note in run.extras["notes"])
    assert headline(scores) == pytest.approx(wanted["F1 over all (1e-9)"], abs=1e-9)
    f1 = [metrics[f"F1, {name}"] for name in labels]
    assert f1 == pytest.approx(wanted["adversarial / popular / random F1 (1e-9)"], abs=1e-9)
    assert round(metrics["F1, mean of the categories"], 1) == wanted["mean of the three, rounded"]


def test_mmbench_of_llava(tmp_path):
    """As a spreadsheet, in the layout in which LLaVA's answers were uploaded; text and pictures are stand-ins."""
    frame = pd.DataFrame(rows_of("mmb_llava"))
    frame["question"] = [f"Which one, {index % 1_000_000}?" for index in frame["index"]]
    data = frame.drop(columns="prediction")
    data["category"], data["image"] = "all", png(0)
    data.to_csv(tmp_path / "mmbench.tsv", sep="\t", index=False, quoting=csv.QUOTE_ALL)
    frame.to_excel(tmp_path / "llava-v1.5-13b.xlsx", index=False, engine="xlsxwriter")
    _, _, items, scores = score(
        "MMB", tmp_path / "llava-v1.5-13b.xlsx", tmp_path / "run", "--data", tmp_path / "mmbench.tsv"
    )
    assert len(items) == 4377 and len({item.cluster for item in items}) == 1176
    assert headline(scores) == pytest.approx(expected("mmb_llava")["circular accuracy (1e-9)"], abs=1e-9)
    assert round(headline(scores), 1) == 67.7  # as the authors print it


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llava-v1.5-13b", "gpt-4v"])
def test_seed_bench(tmp_path, model):
    """SEED-Bench.json's layout with stand-in text; answers as they are submitted to its leaderboard."""
    rows = rows_of("seed_img")
    choices = {f"choice_{letter}": f"option {letter}" for letter in "abcd"}
    asked = [
        {
            "question_id": str(r["index"]),
            "question": f"Which one, {r['index']}?",
            **choices,
            "answer": r["answer"],
            "data_id": f"{r['index'] // 4}",
            "data_type": "image",
            "question_type_id": 1,
        }
        for r in rows
    ]
    video = {**asked[0], "question_id": "v1", "data_type": "video"}
    whole = {"questions": [*asked, video], "question_type": {"Scene Understanding": 1}}
    (tmp_path / "SEED-Bench.json").write_text(json.dumps(whole), encoding="utf-8")
    answers = write_lines(
        tmp_path / f"{model}.jsonl", [{"question_id": r["index"], "prediction": r[model]} for r in rows]
    )
    _, run, items, scores = score("SEED", answers, tmp_path / "run", "--questions", tmp_path / "SEED-Bench.json")
    assert len(items) == 14232 and run.model.name == model
    assert headline(scores) == pytest.approx(expected("seed_img")[f"{model} accuracy (1e-9)"], abs=1e-9)


def test_mmmu_of_qwen_vl(tmp_path):
    """MMMU's example_outputs: SUBJECT/output.json is the prediction file and the question file."""
    rows = rows_of("mmmu_val")
    subjects: dict[str, list[dict]] = {}
    for r in rows:
        options = {letter: r[letter] for letter in "ABCDEFGHI" if letter in r}
        kind = {"question_type": "multiple-choice", "all_choices": list(options), "index2ans": options}
        record = {"id": r["index"], **(kind if options else {"question_type": "open"}), "answer": r["answer"]}
        subjects.setdefault(r["category"], []).append({**record, "response": r["prediction"]})
    folder = tmp_path / "qwen_vl"
    for subject, records in subjects.items():
        (folder / subject).mkdir(parents=True)
        (folder / subject / "output.json").write_text(json.dumps(records), encoding="utf-8")
    metrics, run, items, scores = score("MMMU", folder, tmp_path / "run", "--questions", folder)
    wanted = expected("mmmu_val")
    assert len(items) == 900 and run.model.name == "qwen_vl"
    exact = wanted["exact matching by VLMEvalKit 0.0.20, gold letter kept, its NA reading avoided (0.12: one row)"]
    assert headline(scores) == pytest.approx(exact, abs=1e-9)

    def by_their_evaluation(r: dict) -> bool:
        said = r["authors_parse"]
        return said == r["answer"] if "A" in r else mmmu.is_right(mmmu.read_open(said), str(r["answer"]))

    final = [by_their_evaluation(r) for r in rows]
    assert 100 * sum(final) / len(rows) == pytest.approx(
        wanted["authors' final answers (authors_parse) by MMMU's evaluation"], abs=1e-9
    )
    [own] = [value for name, value in metrics.items() if name.endswith("MMMU's own parser")]
    assert own == pytest.approx(wanted["the same with the draws counted wrong (15 of the 48 were right)"], abs=1e-9)


def test_hallusionbench_grouping(tmp_path):
    """109 of 951 answers are recorded: the file is read and grouped, the run is partial, no headline is given."""
    records = []
    for r in rows_of("hallusionbench"):
        category, subcategory, visual, group, figure, question = r["index"].split("_")
        records.append(
            {
                "category": category,
                "subcategory": subcategory,
                "visual_input": visual,
                "set_id": group,
                "figure_id": figure,
                "question_id": question,
                "question": r["question"],
                "filename": r["filename"],
                "gt_answer": "1" if r["answer"] == "Yes" else "0",
                "model_prediction": r.get("prediction"),
            }
        )
    file = tmp_path / "HallusionBench_result_sample.json"
    file.write_text(json.dumps(records), encoding="utf-8")
    metrics, _, items, scores = score("HallusionBench", file, tmp_path / "run", "--questions", file, code=1)
    wanted = expected("hallusionbench")
    assert len(items) == 951 and scores.counts["error"] == 842 and headline(scores) is None
    assert metrics["aAcc"] == pytest.approx(wanted["aAcc over the 109 recorded answers (1e-6)"], abs=1e-6)
    own = next(c for c in composites_for("HallusionBench") if c.name == "mean of aAcc, fAcc, qAcc, own grouping")
    theirs = next(c for c in composites_for("HallusionBench") if c.primary)
    answered = [item.model_copy(update={"score": 1.0}) for item in items]
    for composite, key in (
        (own, "figures and questions by the benchmark's own grouping"),
        (theirs, "by VLMEvalKit's key"),
    ):
        assert composite.cluster_sums(answered).sums_CS.sum(axis=0)[[3, 5]].tolist() == wanted[key]
