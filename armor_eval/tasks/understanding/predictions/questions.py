"""A benchmark's own published question files as a VLMEvalKit TSV, for scoring answers where the TSV cannot be had.

Images are not part of it: their cells hold the image's name, which tells the rows about one image from others.
"""

from __future__ import annotations

import base64
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.images import REFERENCE_LENGTH
from armor_eval.tasks.understanding.predictions.layouts import Record, hallusion_index, mme_lines, read_records, text_of
from armor_eval.tasks.understanding.table import OPTIONS
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

IMAGE_NAME = "picture"
"""Key of a built row that names its image; becomes the `image` column."""
NOT_PUBLISHED = "(not in the question file)"
"""Stands where a column's text is in none of the given files: no judge may read it."""


@dataclass
class Questions:
    """Rows in VLMEvalKit's columns, and the ids by which other files call them."""

    rows: list[JsonObject]
    aliases: dict[str, str] = field(default_factory=dict)
    """Id in a file of prompts -> row index."""

    @property
    def whole(self) -> bool:
        """Every text is there: a judge may be asked."""
        return not any(NOT_PUBLISHED in row.values() for row in self.rows)


def read_questions(benchmark: Benchmark, paths: Sequence[Path]) -> Questions:
    """The benchmark's rows from its published question file(s). UserError names what is wrong or lacking."""
    build = BUILDERS.get(benchmark.dataset.split("_")[0])
    records = [one for path in paths for one in _records(path)]
    if records and "index" in records[0][1]:
        build = _vlmevalkit
    if build is None:
        raise UserError(f"--questions knows no question file of {benchmark.name}", "give its TSV with --data")
    named = ", ".join(map(str, paths))
    try:
        questions = build(records)
    except KeyError as error:
        raise UserError(f"{named}: a record has no {error}, which a question file of {benchmark.name} has") from error
    except (TypeError, AttributeError) as error:
        wrong = f"a record is not as a question file of {benchmark.name} has it: {error}"
        raise UserError(f"{named}: {wrong}") from error
    if not questions.rows:
        raise UserError(f"{named} holds no question of {benchmark.name}")
    return questions


def write_table(benchmark: Benchmark, questions: Questions, path: Path) -> Path:
    """Write the rows as a TSV that `understanding.table.read_table` reads; columns of the benchmark that no file holds
    are there and say so."""
    import pandas as pd

    frame = pd.DataFrame([{k: v for k, v in row.items() if k != IMAGE_NAME} for row in questions.rows])
    for column in benchmark.columns:
        if column not in frame and column != "image":
            frame[column] = NOT_PUBLISHED
    frame["image"] = [_image_cell(str(row[IMAGE_NAME])) for row in questions.rows]
    frame.to_csv(path, sep="\t", index=False, quoting=csv.QUOTE_ALL)
    return path


def _image_cell(name: str) -> str:
    """An image's name in the form of an image: longer than a reference to another row's."""
    return base64.b64encode(f"picture {name}".ljust(REFERENCE_LENGTH).encode()).decode()


def _records(path: Path) -> Iterator[Record]:
    """The records of a file, or of a folder's files; MME's text files become records too. Each knows its file."""
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("output.json")) or sorted(
            file for file in path.iterdir() if file.suffix in (".txt", ".json", ".jsonl") and file.is_file()
        )
        if not files:
            raise UserError(f"{path} holds no question files (.txt, .json, .jsonl)")
    for file in files:
        if file.suffix == ".txt":
            for where, (image_name, question, answer, *_) in mme_lines(file, 3):
                record = {"category": file.stem, "picture": image_name, "question": question, "answer": answer}
                yield where, {**record, "_file": file.stem}
        else:
            for where, record in read_records(file):
                yield where, {**record, "_file": file.stem}


def _row(index: object, question: str, image: str, columns: JsonObject) -> JsonObject:
    return {"index": text_of(index), "question": question, **columns, IMAGE_NAME: image}


def _vlmevalkit(records: list[Record]) -> Questions:
    """VLMEvalKit's columns without images: a prediction file, or MMBench's own spreadsheet."""
    left_out = {"image", "prediction", "judge", "thinking", "_file"}
    rows = []
    for _, record in records:
        row = {k: v for k, v in record.items() if k not in left_out and v not in ("", None)}
        row["index"] = text_of(record["index"])
        rows.append({**row, IMAGE_NAME: row.get("image_path", row["index"])})
    return Questions(rows)


def _mmvet(records: list[Record]) -> Questions:
    """mm-vet.json: {v1_0: {imagename, question, answer, capability: [...]}}."""
    rows = []
    for _, r in records:
        about = {"answer": r["answer"], "category": ",".join(r["capability"])}
        rows.append(_row(r["id"], r["question"], r["imagename"], about))
    return Questions(rows)


def _llavabench(records: list[Record]) -> Questions:
    """questions.jsonl, and for a judge that is to be asked also context.jsonl (captions) and answers_gpt4.jsonl."""
    captions = {r["image"]: r["caption"] for _, r in records if "caption" in r}
    references = {text_of(r["question_id"]): r["text"] for _, r in records if "text" in r and "category" not in r}
    rows = []
    for _, r in records:
        if "category" in r and "text" in r:
            reference = references.get(text_of(r["question_id"]), NOT_PUBLISHED)
            about = {"category": r["category"], "answer": reference, "gpt4_ans": reference}
            about["caption"] = captions.get(r["image"], NOT_PUBLISHED)
            rows.append(_row(r["question_id"], r["text"], r["image"], about))
    return Questions(rows)


def _pope(records: list[Record]) -> Questions:
    """coco_pope_CATEGORY.json (JSON lines with label), one a category, folded to a row an image and question as in
    VLMEvalKit; a file of prompts without labels (LLaVA's llava_pope_test.jsonl) gives its ids as aliases."""
    rows: dict[tuple[str, str], JsonObject] = {}
    prompts: list[tuple[str, tuple[str, str]]] = []
    for where, r in records:
        question = r["text"].split("\n")[0].strip()
        key = r["image"], question
        if "label" not in r:
            prompts.append((text_of(r["question_id"]), key))
            continue
        category = r.get("category") or r["_file"].rsplit("_", 1)[-1]
        answer = str(r["label"]).capitalize()
        about = {"answer": answer, "category": category, "image_path": r["image"]}
        row = rows.setdefault(key, _row(len(rows), question, r["image"], about))
        if row["answer"] != answer:
            raise UserError(f"{where}: {question!r} about {r['image']} is {answer} here and {row['answer']} before")
        if category not in row["category"].split(","):
            row["category"] += f",{category}"
    return Questions(list(rows.values()), {index: rows[key]["index"] for index, key in prompts if key in rows})


def _mmmu(records: list[Record]) -> Questions:
    """SUBJECT/output.json (options and answers of each question), answer_dict_val.json (answers); merged by id."""
    merged: dict[str, JsonObject] = {}
    for _, r in records:
        merged.setdefault(r["id"], {}).update(r)
    rows = []
    for index, r in merged.items():
        split, _, rest = index.partition("_")
        options = r.get("index2ans") or {}
        if r.get("question_type") == "multiple-choice" and not options:
            raise UserError(
                f"{index} is a choice without options (index2ans)", "add the output.json files of the benchmark"
            )
        answer = r["answer"] if "answer" in r else r["ground_truth"]
        choices = {**{k: v for k, v in options.items() if k in OPTIONS}, "A": options.get("A"), "B": options.get("B")}
        about = {"split": split, "category": rest.rsplit("_", 1)[0], **choices, "answer": str(answer)}
        rows.append(_row(index, r.get("question", NOT_PUBLISHED), index, about))
    return Questions(rows)


def _mme(records: list[Record]) -> Questions:
    """The tool's folder: CATEGORY.txt with image, question, answer (and what a model said)."""
    rows = []
    for number, (_, r) in enumerate(records):
        image = f"{r['category']}/{r['picture']}"
        about = {"answer": r["answer"].strip().capitalize(), "category": r["category"], "image_path": image}
        rows.append(_row(number, r["question"], image, about))
    return Questions(rows)


def _seed(records: list[Record]) -> Questions:
    """SEED-Bench.json: {questions: [...], question_type: {name: number}}; its image questions."""
    rows = []
    for _, whole in records:
        names = {number: name for name, number in whole["question_type"].items()}
        for r in whole["questions"]:
            if r.get("data_type", "image") == "image":
                options = {
                    letter: r[f"choice_{letter.lower()}"] for letter in "ABCD" if f"choice_{letter.lower()}" in r
                }
                about = {**options, "answer": r["answer"], "category": names[r["question_type_id"]]}
                rows.append(_row(r["question_id"], r["question"], r["data_id"], about))
    return Questions(rows)


def _hallusion(records: list[Record]) -> Questions:
    """HallusionBench.json; its questions without an image (visual input 0) are not in VLMEvalKit's TSV."""
    answers = {"0": "No", "1": "Yes"}
    rows = []
    for where, r in records:
        if text_of(r["visual_input"]) == "0":
            continue
        answer = answers.get(text_of(r["gt_answer"]))
        if answer is None:
            raise UserError(f"{where}: gt_answer is {r['gt_answer']!r}, expected 0 (No) or 1 (Yes)")
        about = {"answer": answer, "category": r["category"], "l2-category": r["subcategory"]}
        rows.append(_row(hallusion_index(r), r["question"], r["filename"], {**about, "image_path": r["filename"]}))
    return Questions(rows)


BUILDERS: dict[str, Callable[[list[Record]], Questions]] = {
    "MMVet": _mmvet,
    "LLaVABench": _llavabench,
    "POPE": _pope,
    "MMMU": _mmmu,
    "MME": _mme,
    "SEEDBench": _seed,
    "HallusionBench": _hallusion,
}
"""First word of the dataset's name -> builder."""
