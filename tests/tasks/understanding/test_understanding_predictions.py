"""`armor-eval understanding score`: prediction files in the layouts of others, with invented content; and what must not
be scored."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import harness_data as made
import pandas as pd
import pytest
from harness_data import the_run
from hypothesis import given, settings
from hypothesis import strategies as st

from armor_eval.cli import main
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.declare import benchmarks
from armor_eval.tasks.understanding.judge import Request
from armor_eval.tasks.understanding.predictions.layouts import Prediction, PredictionFile, read_predictions
from armor_eval.tasks.understanding.predictions.questions import read_questions, write_table
from armor_eval.tasks.understanding.predictions.score import RecordedJudge, join
from armor_eval.tasks.understanding.table import read_table
from armor_model.base.errors import UserError

BY_DATASET = {b.dataset: b for b in benchmarks().values() if b.shares is None}


@pytest.fixture(scope="module")
def tables(tsv_folder):
    return {
        name: read_table(BY_DATASET[name], tsv_folder / f"{name}.tsv", need_published=False) for name in made.MAKERS
    }


def write_json(path: Path, data: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def answers_to(frame: pd.DataFrame) -> dict[str, str]:
    """Row index -> an invented answer, each another text."""
    said = ["A", "Yes, it is.", "the answer is B", "No", "<think>hm</think> C", "=A", "None", " spaced ", "答案是B"]
    return {str(index): f"{said[n % len(said)]} {n}" for n, index in enumerate(frame["index"])}


# --- layouts ---------------------------------------------------------------------------------------------------------
def vlmevalkit(frame, said, path, kind):
    frame = frame.drop(columns="image").assign(prediction=[said[str(i)] for i in frame["index"]])
    file = path / f"model_DATA.{kind}"
    if kind == "xlsx":
        frame.to_excel(file, index=False, engine="xlsxwriter")
    elif kind == "json":
        write_json(file, json.loads(frame.to_json(orient="records")))
    else:
        frame.to_csv(file, index=False, sep="\t" if kind == "tsv" else ",", quoting=csv.QUOTE_ALL)
    return file


def plain(frame, said, path, _):
    return write_lines(path / "p.jsonl", [{"index": i, "prediction": said[str(i)]} for i in frame["index"]])


def by_id(frame, said, path, _):
    return write_json(path / "p.json", {str(i): said[str(i)] for i in frame["index"]})


def llava(frame, said, path, key):
    """MME's answers are called by their picture, all others by number."""
    return write_lines(
        path / "p.jsonl",
        [
            {
                "question_id": r[key],
                "prompt": f"{r['question']}\nAnswer the question using a single word or phrase.",
                "text": said[str(r["index"])],
                "answer_id": "x",
                "model_id": "m",
                "metadata": {},
            }
            for r in frame.to_dict("records")
        ],
    )


def mmmu_output(frame, said, path, folders):
    records = [
        {"id": str(r["index"]), "question_type": "open", "answer": r["answer"], "response": said[str(r["index"])]}
        for r in frame.to_dict("records")
    ]
    if not folders:
        return write_json(path / "output.json", records)
    for n, record in enumerate(records):
        write_json(path / "model" / f"Subject_{n}" / "output.json", [record])
    return path / "model"


def mme_folder(frame, said, path, _):
    (path / "results").mkdir()
    for category, rows in frame.groupby("category"):
        lines = [
            f"{r.image_path.split('/')[-1]}\t{r.question}\t{r.answer}\t{said[str(r.index_)]}\n"
            for r in rows.rename(columns={"index": "index_"}).itertuples()
        ]
        (path / "results" / f"{category}.txt").write_text("".join(lines) + "\n", encoding="utf-8")
    return path / "results"


def hallusion_result(frame, said, path, _):
    records = []
    for r in frame.to_dict("records"):
        names = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")
        parts = dict(zip(names, r["index"].split("_"), strict=True))
        records.append({**parts, "question": r["question"], "gt_answer": "1", "model_prediction": said[r["index"]]})
    return write_json(path / "HallusionBench_result.json", records)


def samples(frame, said, path, kind):
    """--log_samples of several versions: the doc whole, by number only, named in a metric, or a file of logs."""
    records = []
    for n, r in enumerate(frame.to_dict("records")):
        reply = said[str(r["index"])]
        record = {"doc_id": n, "target": "x", "resps": [[reply]], "filtered_resps": [reply.strip().lower()], "m": 1.0}
        if kind == "doc":
            record["doc"] = {"index": r["index"], "question": r["question"], "answer": r["answer"]}
        elif kind == "metric":
            record |= {"doc": {}, "acc": {"question_id": r["index"], "score": 0.0}}
        elif kind == "picture":
            record["doc"] = {"question_id": "7", "question": r["question"], "image_path": r["image_path"]}
        elif kind == "filtered":
            record |= {"resps": [], "filtered_resps": [reply]}
        records.append(record)
    return (
        write_json(path / "r.json", {"args": {}, "logs": records})
        if kind == "logs"
        else write_lines(path / "samples_x.jsonl", records)
    )


@pytest.mark.parametrize(
    ("dataset", "write", "variant"),
    [
        ("SEEDBench_IMG", vlmevalkit, "xlsx"),
        ("MMBench_DEV_EN", vlmevalkit, "tsv"),
        ("MMMU_DEV_VAL", vlmevalkit, "json"),
        ("HallusionBench", vlmevalkit, "csv"),
        ("POPE", plain, None),
        ("MMVet", by_id, None),
        ("MME", llava, "image_path"),
        ("LLaVABench", llava, "index"),
        ("MMBench_DEV_EN", llava, "index"),
        ("MMMU_DEV_VAL", mmmu_output, False),
        ("MMMU_DEV_VAL", mmmu_output, True),
        ("MME", mme_folder, None),
        ("HallusionBench", hallusion_result, None),
        ("SEEDBench_IMG", samples, "doc"),
        ("SEEDBench_IMG", samples, "number"),
        ("MMBench_DEV_EN", samples, "metric"),
        ("MME", samples, "picture"),
        ("SEEDBench_IMG", samples, "filtered"),
        ("SEEDBench_IMG", samples, "logs"),
    ],
)
def test_every_layout_finds_its_rows(tables, tmp_path, dataset, write, variant):
    table = tables[dataset]
    frame = made.MAKERS[dataset]()
    frame = frame[[str(i) in {row.id for row in table.rows} for i in frame["index"]]]
    said = answers_to(frame)
    joined = join(table, read_predictions(write(frame, said, tmp_path, variant)))
    assert {index: one.text for index, one in joined.by_row.items()} == said
    assert joined.notes() == []


def test_mmvets_ids_in_llavas_answers(tables, tmp_path):
    records = [{"question_id": n, "prompt": f"How many are there, {n}?", "text": str(n)} for n in range(6)]
    joined = join(tables["MMVet"], read_predictions(write_lines(tmp_path / "a.jsonl", records)))
    assert {index: one.text for index, one in joined.by_row.items()} == {f"v1_{n}": str(n) for n in range(6)}


def test_a_spreadsheets_cells_are_what_was_written(tables, tmp_path):
    """`=A` is stored as a formula, an index may be a float, and an empty cell is an empty answer, not a missing one."""
    frame = pd.DataFrame({"index": [0.0, 1.0, 2.0, 3.0], "prediction": ["=A", "None", "", "007"]})
    frame.to_excel(tmp_path / "m.xlsx", index=False, engine="xlsxwriter")
    file = read_predictions(tmp_path / "m.xlsx")
    assert [(one.ids, one.text) for one in file.predictions] == [
        (("0",), "=A"),
        (("1",), "None"),
        (("2",), ""),
        (("3",), "007"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("gone.jsonl", None, "is not there"),
        ("a.jsonl", "", "holds no records"),
        ("a.json", "[]", "holds no records"),
        ("a.jsonl", '{"index": 1, "prediction": "A"}\n{"index": 2, "pred', "line 2 is no JSON"),
        ("a.jsonl", '{"index": 1, "prediction": "A"}\n{"index": 2}\n', "line 2: no prediction"),
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n', "no known layout (it has a)"),
        ("a.json", "[1]", "is int, expected an object"),
        ("a.json", "3", "neither a list nor an object"),
        ("a.xlsx", "no zip", "not a whole spreadsheet"),
        ("a.jsonl", '{"doc_id": 0, "resps": [[[-1.5, false]]]}', "expected text"),
        ("a.tsv", "", "not a whole table"),
        ("a.json", '{"set_id": 1, "figure_id": 0, "model_prediction": "x", "id": 1}', "does not name its category"),
        ("a.bin", b"\xff\xfe\x00", "is not a text file"),
        ("a.pkl", b"\x80\x04}\x94.", "is a pickle, which would run what is in it"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, told):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read_predictions(tmp_path / name)
    assert told in error.value.message


def test_a_folder_of_nothing_and_lines_without_predictions(tmp_path):
    with pytest.raises(UserError, match=r"neither CATEGORY\.txt"):
        read_predictions(tmp_path)
    (tmp_path / "OCR.txt").write_text("1.jpg\tIs it?\tYes\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: 3 columns, expected picture, question, answer, prediction"):
        read_predictions(tmp_path)


# --- joining ---------------------------------------------------------------------------------------------------------
def given_file(*predictions: Prediction) -> PredictionFile:
    return PredictionFile(Path("p.jsonl"), "VLMEvalKit", "0" * 64, list(predictions))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_answer_is_used_once_or_counted(tables, data):
    table = tables["SEEDBench_IMG"]
    ids = [*(row.id for row in table.rows), *(f"x{n}" for n in range(3))]
    drawn = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from("AB")), min_size=1, max_size=20))
    file = given_file(*(Prediction(f"line {n}", (i,), text) for n, (i, text) in enumerate(drawn)))
    unknown = sum(i.startswith("x") for i, _ in drawn)
    if unknown * 2 > len(drawn):
        with pytest.raises(UserError):
            join(table, file)
        return
    joined = join(table, file)
    texts = {i: {text for j, text in drawn if j == i} for i, _ in drawn if not i.startswith("x")}
    assert {i: one.text for i, one in joined.by_row.items()} == {i: max(t) for i, t in texts.items() if len(t) == 1}
    assert set(joined.contradicted) == {i for i, t in texts.items() if len(t) > 1}
    assert len(joined.unknown) == unknown


def test_another_benchmarks_file_is_refused(tables, tmp_path):
    """Its numbers are rows of this benchmark too: the questions tell."""
    frame = made.pope()
    file = plain(frame, answers_to(frame), tmp_path, None)
    with pytest.raises(UserError, match="are to no question of MMVet"):
        join(tables["MMVet"], read_predictions(file))
    file = vlmevalkit(frame, answers_to(frame), tmp_path, "tsv")
    with pytest.raises(UserError, match="another question than the data") as error:
        join(tables["SEEDBench_IMG"], read_predictions(file))
    assert "another edition of the data" in error.value.hint


def test_one_row_with_another_question_is_not_scored(tables, tmp_path):
    frame = made.seed_bench()
    said = answers_to(frame)
    frame.loc[3, "question"] = "Which word fits something else?"
    joined = join(tables["SEEDBench_IMG"], read_predictions(vlmevalkit(frame, said, tmp_path, "tsv")))
    assert set(joined.by_row) == set(said) - {"3"} and len(joined.other_question) == 1
    assert "row 4" in joined.notes()[0]


# --- questions -------------------------------------------------------------------------------------------------------
def seed_file(path):
    asked = [
        {
            "question_id": str(n),
            "question": f"q{n}",
            "choice_a": "None",
            "choice_b": "b",
            "choice_c": "c",
            "choice_d": "d",
            "answer": "A",
            "data_id": f"{n // 2}",
            "data_type": kind,
            "question_type_id": 1,
        }
        for n, kind in enumerate(["image", "image", "video"])
    ]
    return [write_json(path / "SEED-Bench.json", {"questions": asked, "question_type": {"Scene": 1}})]


def pope_files(path):
    for category, labels in (("random", "yes no"), ("popular", "yes")):
        write_lines(
            path / f"coco_pope_{category}.json",
            [
                {"question_id": n + 1, "image": "p.jpg", "text": f"Is there a w{n}?", "label": label}
                for n, label in enumerate(labels.split())
            ],
        )
    prompt = {"question_id": 70, "image": "p.jpg", "text": "Is there a w1?\nAnswer shortly.", "category": "random"}
    return [path, write_lines(path.parent / "prompts.jsonl", [prompt])]


def llavabench_files(path):
    return [
        write_lines(path / "q.jsonl", [{"question_id": 0, "image": "1.jpg", "text": "What?", "category": "conv"}]),
        write_lines(path / "context.jsonl", [{"id": "1", "image": "1.jpg", "caption": "a dog"}]),
        write_lines(path / "gpt4.jsonl", [{"question_id": 0, "text": "A dog.", "answer_id": "x"}]),
    ]


def mmmu_files(path):
    options = {"A": "x", "B": "None"}
    choice = {
        "id": "validation_Art_Theory_1",
        "question_type": "multiple-choice",
        "index2ans": options,
        "response": "B",
    }
    opened = {"id": "validation_Math_2", "question_type": "open", "response": "8", "answer": ["8", "8.0"]}
    gold = {"validation_Art_Theory_1": {"question_type": "multiple-choice", "ground_truth": "B"}}
    return [write_json(path / "output.json", [choice, opened]), write_json(path / "answer_dict_val.json", gold)]


def mme_files(path):
    (path / "OCR.txt").write_text("1.jpg\tIs it x?\tYes\n1.jpg\tIs it y?\tNo\tno\n", encoding="utf-8")
    return [path]


def hallusion_file(path):
    names = {"category": "VD", "subcategory": "ocr", "set_id": "0", "figure_id": "1", "question_id": "2"}
    record = {**names, "visual_input": "1", "question": "Is it?", "gt_answer": "0", "filename": "./VD/ocr/0_1.png"}
    without = {**record, "visual_input": "0", "filename": None, "figure_id": "0"}
    return [write_json(path / "HallusionBench.json", [record, without])]


def mmvet_file(path):
    record = {"imagename": "v1_0.png", "question": "What is x?", "answer": "1<OR>one", "capability": ["ocr", "math"]}
    return [write_json(path / "mm-vet.json", {"v1_0": record})]


QUESTIONS = {
    "SEED": (seed_file, {"0": {"A": "None", "answer": "A", "category": "Scene"}, "1": {"question": "q1"}}),
    "POPE": (
        pope_files,
        {
            "0": {"answer": "Yes", "category": "popular,random", "image_path": "p.jpg"},
            "1": {"answer": "No", "category": "random", "question": "Is there a w1?"},
        },
    ),
    "LLaVABench": (llavabench_files, {"0": {"gpt4_ans": "A dog.", "caption": "a dog", "category": "conv"}}),
    "MMMU": (
        mmmu_files,
        {
            "validation_Art_Theory_1": {"B": "None", "answer": "B", "category": "Art_Theory"},
            "validation_Math_2": {"answer": "['8', '8.0']", "split": "validation"},
        },
    ),
    "MME": (mme_files, {"0": {"image_path": "OCR/1.jpg", "answer": "Yes", "category": "OCR"}, "1": {"answer": "No"}}),
    "HallusionBench": (hallusion_file, {"VD_ocr_1_0_1_2": {"answer": "No", "l2-category": "ocr"}}),
    "MMVet": (mmvet_file, {"v1_0": {"answer": "1<OR>one", "category": "ocr,math", "question": "What is x?"}}),
}


@pytest.mark.parametrize("bench", QUESTIONS)
def test_question_files_become_the_table(tmp_path, bench):
    (tmp_path / "q").mkdir()
    write, wanted = QUESTIONS[bench]
    benchmark = benchmarks()[bench]
    questions = read_questions(benchmark, write(tmp_path / "q"))
    table = read_table(benchmark, write_table(benchmark, questions, tmp_path / "t.tsv"), need_published=False)
    rows = {row.id: row for row in table.rows}
    assert set(rows) == set(wanted)
    for index, fields in wanted.items():
        assert {k: rows[index].fields[k] for k in fields} == fields and rows[index].problem is None
    assert questions.aliases == ({"70": "1"} if bench == "POPE" else {})
    assert questions.whole == (bench != "MMMU")  # its outputs hold no question: nothing that a judge could read
    if bench == "SEED":
        assert rows["0"].cluster == rows["1"].cluster  # one picture


@pytest.mark.parametrize(
    ("bench", "records", "told"),
    [
        ("MMVet", {"v1_0": {"question": "x"}}, "a record has no 'answer'"),
        ("MMMU", [{"id": "validation_Art_1", "question_type": "multiple-choice", "answer": "A"}], "without options"),
        ("HallusionBench", [{"visual_input": "1", "gt_answer": "2"}], "expected 0 (No) or 1 (Yes)"),
        ("POPE", [{"image": "a", "text": "q", "label": label} for label in ("yes", "no")], "is No here and Yes before"),
        ("MMB", [{"question": "x"}], "knows no question file of MMB"),
        ("SEED", [], "holds no records"),
    ],
)
def test_a_question_file_that_cannot_be_used_is_one_line(tmp_path, bench, records, told):
    with pytest.raises(UserError) as error:
        read_questions(benchmarks()[bench], [write_json(tmp_path / "q.json", records)])
    assert told in error.value.message


# --- the command -----------------------------------------------------------------------------------------------------
def score(bench, predictions, out, *options, code=0):
    words = ["understanding", "score", "--bench", bench, "--predictions", predictions, "--out", out, *options]
    assert main([str(word) for word in words]) == code
    return read_bundle(the_run(out)) if code < 2 else None


def of(scores):
    return {metric.name: (metric.value, metric.ci95) for metric in scores.metrics}


@pytest.mark.parametrize("bench", ["MMB", "MME", "HallusionBench"])
def test_the_same_answers_get_the_same_scores_as_a_models(tsv_folder, tmp_path, bench):
    """Equivalence: measured, and written down and scored again."""
    measured = made.measure(bench, MockModel(), tmp_path / "measured", tsv_folder)
    _, items, _ = read_bundle(tmp_path / "measured")
    file = write_lines(tmp_path / "said.jsonl", [{"index": it.id, "prediction": it.output} for it in items])
    run, again, scores = score(bench, file, tmp_path / "scored", "--data", tsv_folder)
    assert of(scores) == of(measured.scores) and scores.counts == measured.scores.counts
    assert {it.id: (it.parsed, it.score) for it in again} == {it.id: (it.parsed, it.score) for it in items}
    assert run.decoding == {} and run.protocol["prompts"] == "recorded" and run.model.name == "said"
    before = (the_run(tmp_path / "scored") / "items.jsonl").read_bytes()
    score(bench, file, tmp_path / "scored", "--data", tsv_folder)  # a complete run is only read
    assert (the_run(tmp_path / "scored") / "items.jsonl").read_bytes() == before


def test_answers_are_joined_by_the_benchmarks_own_id_column(tmp_path):
    """MMMU's output.json has MMMU's ids; the TSV has them beside its integer index."""
    frame = made.mmmu(4)
    frame["id"] = [f"validation_Art_{n}" for n in range(len(frame))]
    path = made.write(frame, tmp_path / "MMMU_DEV_VAL.tsv")
    asked = frame[frame["split"] == "validation"]
    file = tmp_path / "output.json"
    file.write_text(json.dumps(dict.fromkeys(asked["id"], "A")))
    argv = ["understanding", "score", "--bench", "MMMU", "--predictions", str(file), "--data", str(path)]
    assert main([*argv, "--out", str(tmp_path / "o")]) == 0
    assert {item.output for item in read_bundle(the_run(tmp_path / "o"))[1]} == {"A"}


def test_missing_doubled_and_failed_rows_are_lost_and_told(tsv_folder, tmp_path, capsys):
    frame = made.seed_bench()
    records = [{"index": r["index"], "prediction": r["answer"]} for r in frame.to_dict("records")]
    records[1]["prediction"] = "Failed to obtain answer via API."
    records[2]["prediction"] = None
    records += [{"index": 4, "prediction": "D"}, {"index": 5, "prediction": records[5]["prediction"]}]
    records += [{"index": 999, "prediction": "A"}]
    del records[3]
    file = write_lines(tmp_path / "p.jsonl", records)
    run, items, scores = score("SEED", file, tmp_path / "run", "--data", tsv_folder, code=1)
    lost = {it.id: it.reason for it in items if it.status == "error"}
    assert set(lost) == {"1", "2", "3", "4"} and scores.withheld and run.status == "partial"
    assert (
        "the file says: Failed to obtain" in lost["1"]
        and "no answer" in lost["2"]
        and lost["3"] == "no answer in the file"
    )
    assert lost["4"].startswith("several different answers (p.jsonl, line")
    shown = capsys.readouterr().out
    for told in (
        "4 of 12 items could not be answered",
        "1 answers name no row",
        "1 answers are given again",
        "1 rows have several different answers",
        "withheld",
    ):
        assert told in shown, shown


def test_recorded_replies_are_the_judge(tsv_folder, tmp_path):
    """Two rows that ask the judge in equal words keep each its own reply; an unreadable one is a failure."""
    frame = made.mmvet()
    frame["question"], frame["answer"] = "What is it?", "a dog"
    made.write(frame, tmp_path / "MMVet.tsv")
    replies = [["0.0", "1"], ["1.0", "1"], ["0.5", "1"], ["0.1", "1"], ["0.2", "1"], ["0.3", "perhaps"]]
    records = [{"index": i, "prediction": "dog", "judge": r} for i, r in zip(frame["index"], replies, strict=True)]
    file = write_lines(tmp_path / "p.jsonl", records)
    options = ["--data", tmp_path, "--judge-model", "gpt-4-0613", "--judging"]
    run, items, scores = score("MMVet", file, tmp_path / "one", *options, 1)
    assert [it.score for it in items] == [0.0, 1.0, 0.5, 0.1, 0.2, 0.3]
    assert scores.metrics[0].value == pytest.approx(35.0)
    assert (run.judge.name, run.judge.endpoint, run.judge.version) == ("gpt-4-0613", "recorded", "judging 1")
    _, items, scores = score("MMVet", file, tmp_path / "two", *options, 2, code=1)
    assert scores.counts["judge_failed"] == 1 and scores.withheld and "perhaps" in items[5].reason


def test_a_choice_judged_twice_differently_is_no_verdict():
    options = {"A": "dog", "B": "cat"}
    requests = [Request(i, "same words", "choice", options=options) for i in "12"] + [
        Request("3", "other words", "choice", options=options),
        Request("4", "more words", "choice", options=options),
    ]
    judged = RecordedJudge({"1": "A", "2": "B", "3": "B"}, "j").judge(requests)
    assert judged.usable == {"3": "B"} and set(judged.failed) == {"1", "2", "4"}


@pytest.mark.parametrize(
    ("bench", "record", "options", "told"),
    [
        ("MMVet", {}, [], "needs a judge, and the file holds no replies"),
        ("MMVet", {"judge": ["1", "0"]}, [], "each answer was judged 2 times"),
        ("MMVet", {"judge": ["1", "0"]}, ["--judging", "3"], "--judging 3: the file holds 2"),
        ("MMVet", {}, ["--judging", "1"], "names a recorded judging, and the file holds none"),
        ("all", {}, [], "the answers to one benchmark"),
        ("MMBB", {}, [], "did you mean MMB?"),
        ("MMVet", {}, ["--thinking", "perhaps"], "unknown --thinking 'perhaps'"),
        ("MMVet", {}, ["--questions", "x.json"], "--data and --questions"),
    ],
)
def test_a_users_mistake_is_one_line(tsv_folder, tmp_path, capsys, bench, record, options, told):
    records = [{"index": f"v1_{n}", "prediction": "x", **record} for n in range(6)]
    file = write_lines(tmp_path / "p.jsonl", records)
    score(bench, file, tmp_path / "run", "--data", tsv_folder, *options, code=2)
    shown = capsys.readouterr().err
    assert told in shown and len(shown.strip().splitlines()) == 1 and not list((tmp_path / "run").rglob("items.jsonl"))


def test_a_judge_is_not_asked_about_texts_that_are_not_there(tmp_path, capsys):
    file = mmmu_files(tmp_path)
    options = [
        "--questions",
        file[0],
        "--questions",
        file[1],
        "--judge-url",
        "http://127.0.0.1:9/v1",
        "--judge-model",
        "j",
    ]
    score("MMMU", file[0], tmp_path / "run", *options, code=2)
    assert "lacks texts that a judge must read" in capsys.readouterr().err


def test_understanding_itself_still_wants_a_benchmark(capsys):
    assert main(["understanding", "--limit", "3"]) == 2
    assert "Missing option '--bench'" in capsys.readouterr().err


def test_thoughts_are_cut_and_the_label_says_so(tsv_folder, tmp_path, capsys):
    """strip scores what is left, keep all of it; neither is compared with the other."""
    frame = made.seed_bench()
    thought = "<think>It could be {}, surely.</think>"
    records = [
        {"index": r["index"], "prediction": f"{thought.format('ABCD'[(r['index'] + 1) % 4])}\n{r['answer']}"}
        for r in frame.to_dict("records")
    ]
    records[0] = {"index": 0, "prediction": frame["answer"][0], "thinking": "It could be D."}
    file = write_lines(tmp_path / "p.jsonl", records)
    run, items, scores = score("SEED", file, tmp_path / "strip", "--data", tsv_folder)
    assert scores.metrics[0].value == 100.0 and run.protocol["thinking"] == "strip" and run.reservations == []
    assert items[1].output.startswith("<think>") and items[1].extras["scored_text"] == items[1].gold
    assert "scored_text" not in items[0].extras and items[0].extras["reasoning"] == "It could be D."
    run, items, scores = score("SEED", file, tmp_path / "keep", "--data", tsv_folder, "--thinking", "keep")
    assert scores.metrics[0].value < 100.0 and run.protocol["thinking"] == "keep"
    assert items[0].extras["scored_text"].startswith("<think>\nIt could be D.")
    assert main(["compare", str(tmp_path / "strip"), str(tmp_path / "keep")]) == 4
    assert "thinking: strip in base, keep in candidate" in capsys.readouterr().out


def test_a_model_that_is_mostly_unread_says_so(tsv_folder, tmp_path, capsys):
    frame = made.pope()
    said = {str(i): "<think>Is it? I go on and on" if n else "Yes" for n, i in enumerate(frame["index"])}
    run, _, scores = score("POPE", plain(frame, said, tmp_path, None), tmp_path / "run", "--data", tsv_folder)
    [unread] = [r for r in run.reservations if r.kind == "unread"]
    assert unread.text.startswith(f"{len(frame) - 1} of {len(frame)} answers could not be read")
    assert unread.text in capsys.readouterr().out and scores.counts["unparsed"] == len(frame) - 1


def test_text_that_no_file_can_hold_costs_nothing(tsv_folder, tmp_path):
    """Lone surrogates and NUL, in the answer, the prompt and the thoughts, are replaced; an index that is null names
    no row."""
    records = [
        {"index": i, "prediction": "A \ud800\u0000", "prompt": f"Which word fits {i}? \udfff", "thinking": "\ud800"}
        for i in range(12)
    ] + [{"index": None, "prediction": "B"}]
    file = tmp_path / "org-model_SEEDBench_IMG.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="ascii")
    run, items, _ = score("SEED", file, tmp_path / "run", "--data", tsv_folder)
    assert run.model.name == "org-model" and len(items) == 12 and items[0].output == "A ?\ufffd"
    assert any("1 answers name no row" in note for note in run.extras["notes"])


def test_compare_and_report_read_the_bundle(tsv_folder, tmp_path, capsys):
    frame = made.seed_bench()
    for name, said in (("base", frame["answer"]), ("worse", ["A"] * len(frame))):
        records = [{"index": i, "prediction": s} for i, s in zip(frame["index"], said, strict=True)]
        score("SEED", write_lines(tmp_path / f"{name}.jsonl", records), tmp_path / name, "--data", tsv_folder)
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "base")]) == 0
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "worse")]) == 0
    assert "100.00 > 25.00" in capsys.readouterr().out  # six pictures: too few to be sure of it
    assert main(["report", str(tmp_path / "base"), "--out", str(tmp_path / "page.html")]) == 0
    assert "seed" in (tmp_path / "page.html").read_text(encoding="utf-8").lower()
