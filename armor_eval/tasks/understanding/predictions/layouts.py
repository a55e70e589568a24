"""Readers of prediction files in the layouts of others, told apart by the fields they have.

| layout | whose | joins by |
|---|---|---|
| `index`, `prediction` (.xlsx, .tsv, .json, .jsonl) | VLMEvalKit, and ours (`judge`: recorded replies) | index |
| `question_id`, `text` or `prediction` | LLaVA, SEED-Bench's submissions | question_id, image and question |
| `id`, `response`, also SUBJECT/output.json under a folder | MMMU | id |
| `{id: answer}` | MM-Vet's results | id |
| CATEGORY.txt under a folder | MME's tool | category, image, question |
| `set_id`, `figure_id`, `model_prediction` | HallusionBench | category, set, figure, question |
| `doc_id`, `resps` or `filtered_resps` | lm-eval, lmms-eval | the doc's id, image and question, doc_id |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from armor_eval.tasks.understanding.cells import records
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of


@dataclass(frozen=True)
class Prediction:
    """One answer of a file, and what names its question."""

    where: str
    """Its place in the file, for messages."""
    ids: tuple[str, ...]
    """What may be its row's index, most telling first."""
    text: str | None
    """None: the file names the question and holds no answer."""
    prompt: str | None = None
    """The question, or the whole text that the model was asked."""
    image_name: str | None = None
    """The image's name."""
    replies: tuple[str, ...] = ()
    """Recorded judge replies, one a judging."""
    reasoning: str | None = None
    """Thoughts that were stored apart from the answer."""


@dataclass(frozen=True)
class PredictionFile:
    path: Path
    layout: str
    sha256: str
    predictions: list[Prediction]


@dataclass(frozen=True)
class Layout:
    """How one tool writes its answers."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    """Fields that a record must have; of each tuple one."""
    read: Callable[[str, JsonObject], Prediction]

    def fits(self, record: JsonObject) -> bool:
        return all(any(name in record for name in names) for names in self.needs)


def read_predictions(path: Path) -> PredictionFile:
    """The answers of a file or folder in any known layout. UserError where it is none, or a record is another one."""
    if path.is_dir():
        return _read_folder(path)
    records = read_records(path)
    layout = next((one for one in LAYOUTS if one.fits(records[0][1])), None)
    if layout is None:
        fields = ", ".join(map(str, list(records[0][1])[:12]))
        known = "; ".join(f"{one.name}: {', '.join(' or '.join(names) for names in one.needs)}" for one in LAYOUTS)
        raise UserError(f"{path} is a prediction file of no known layout (it has {fields})", f"known - {known}")
    predictions = []
    for where, record in records:
        if not layout.fits(record):
            lacks = next(" or ".join(names) for names in layout.needs if not any(name in record for name in names))
            raise UserError(f"{where}: no {lacks}", f"the file begins in the layout {layout.name}")
        predictions.append(layout.read(where, record))
    return PredictionFile(path, layout.name, sha256_file(path), predictions)


def _read_folder(path: Path) -> PredictionFile:
    outputs = sorted(path.rglob("output.json"))
    files = outputs or sorted(path.glob("*.txt"))
    if not files:
        raise UserError(f"{path} holds neither CATEGORY.txt (MME) nor SUBJECT/output.json (MMMU)")
    entries = [one for file in files for one in (read_predictions(file).predictions if outputs else _mme(file))]
    digest = sha256_json({str(file.relative_to(path)): sha256_file(file) for file in files})
    return PredictionFile(path, "MMMU" if outputs else "MME", digest, entries)


def mme_lines(path: Path, columns: int) -> list[tuple[str, list[str]]]:
    """The lines of MME's CATEGORY.txt: image, question, right answer[, prediction], between tabs."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        cells = line.split("\t", 3)
        if not line.strip():
            continue
        if len(cells) < columns:
            wanted = ("picture", "question", "answer", "prediction")[:columns]
            raise UserError(f"{path}, line {number}: {len(cells)} columns, expected {', '.join(wanted)} between tabs")
        lines.append((f"{path.name}, line {number}", cells))
    return lines


def _mme(path: Path) -> list[Prediction]:
    return [
        Prediction(where, (), text, prompt=question, image_name=f"{path.stem}/{image_name}")
        for where, (image_name, question, _, text) in mme_lines(path, 4)
    ]


def hallusion_index(record: JsonObject) -> str | None:
    """VLMEvalKit's index of a HallusionBench record: category, subcategory, visual input, set, figure, question."""
    parts = [record.get(k) for k in ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id")]
    return None if None in parts else "_".join(text_of(part) for part in parts)


def _answer(value: object) -> str | None:
    """An answer as text; None where there is none (a list of alternatives is shown as JSON)."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _first(record: JsonObject, *names: str) -> object:
    return next((record[name] for name in names if record.get(name) not in (None, "", [])), None)


def _text(record: JsonObject, *names: str) -> str | None:
    value = _first(record, *names)
    return value if isinstance(value, str) else None


def _by(names: tuple[str, ...], *answers: str) -> Callable[[str, JsonObject], Prediction]:
    """Reader of a flat record whose id stands in one of `names` and whose answer in one of `answers`."""

    def read(where: str, record: JsonObject) -> Prediction:
        replies = record.get("judge")
        replies = replies if isinstance(replies, list) else [] if replies in (None, "") else [replies]
        return Prediction(
            where,
            tuple(text_of(record[name]) for name in names if record.get(name) is not None),
            _answer(next((record[name] for name in answers if name in record), None)),
            prompt=_text(record, "prompt", "question"),
            image_name=_text(record, "image_path"),
            replies=tuple(str(reply) for reply in replies),
            reasoning=_text(record, "thinking", "reasoning"),
        )

    return read


def _hallusion(where: str, record: JsonObject) -> Prediction:
    index = hallusion_index(record)
    if index is None:
        raise UserError(f"{where}: the record does not name its category, set, figure and question")
    return Prediction(where, (index,), _answer(record["model_prediction"]), prompt=_text(record, "question"))


def _samples(where: str, record: JsonObject) -> Prediction:
    """A line of --log_samples. The raw reply is scored, not what the tool's filters made of it."""
    reply = _first(record, "resps", "filtered_resps")
    while isinstance(reply, list) and reply:
        reply = reply[0]
    if not isinstance(reply, str) and reply not in (None, []):
        raise UserError(f"{where}: the replies are {type(reply).__name__}, expected text", "likelihoods are no answers")
    doc = record.get("doc")
    if not isinstance(doc, dict):
        doc = {}
    # lmms-eval drops the doc or parts of it in some versions; its metrics then name the question.
    named = [doc, *(value for value in record.values() if isinstance(value, dict) and value is not doc)]
    indices = [hallusion_index(doc), *(one.get(key) for one in named for key in ("index", "id", "question_id"))]
    ids = [text_of(one) for one in indices if isinstance(one, (str, int, float))] or [text_of(record["doc_id"])]
    image_name = _text(doc, "image_path", "image_source", "image", "filename")
    return Prediction(
        where,
        tuple(dict.fromkeys(ids)),
        reply if isinstance(reply, str) else None,
        prompt=_text(doc, "question") or _text(record, "input"),
        image_name=image_name,
    )


LAYOUTS = (
    Layout("lm-eval samples", (("doc_id",), ("resps", "filtered_resps")), _samples),
    Layout("HallusionBench", (("set_id",), ("figure_id",), ("model_prediction",)), _hallusion),
    Layout("VLMEvalKit", (("index",), ("prediction",)), _by(("index",), "prediction")),
    Layout("LLaVA answers", (("question_id",), ("text", "prediction")), _by(("question_id",), "prediction", "text")),
    Layout("MMMU", (("id",), ("response",)), _by(("id",), "response")),
    Layout("answers by id", (("id",), ("prediction",)), _by(("id",), "prediction")),
)
"""In the order they are tried."""


# --- records of a file: spreadsheet, TSV, CSV, JSON, JSON lines; nothing in a cell is interpreted --------------------


Record = tuple[str, JsonObject]
"""Where it stands (for messages), and its fields."""
_OF_AN_ANSWER = {"index", "id", "question_id", "doc_id"}
TABLES = {".tsv": "\t", ".csv": ","}
KNOWN = (".xlsx", *TABLES, ".json", ".jsonl")
PICKLES = {".pkl", ".pickle"}


def read_records(path: Path) -> list[Record]:
    """The records of one file. A JSON object of objects gives each its key as `id`, one of texts (`{id: answer}`)
    becomes records of `id` and `prediction`. Raises UserError for a file that holds none."""
    if not path.is_file():
        raise UserError(f"{path} is not there", "give a file that exists")
    if path.suffix in PICKLES:
        raise UserError(f"{path} is a pickle, which would run what is in it", f"save it as one of {', '.join(KNOWN)}")
    if path.suffix == ".xlsx":
        rows = list(_spreadsheet(path))
    elif path.suffix in TABLES:
        rows = list(_table(path))
    else:
        rows = list(_json(path))
    if not rows:
        raise UserError(f"{path} holds no records")
    return [(f"{path.name}, {where}", record) for where, record in rows]


def _spreadsheet(path: Path) -> Iterator[Record]:
    """Cells as written: an answer that begins with `=` was taken for a formula; its value is lost, its text is not."""
    from openpyxl import load_workbook

    try:
        sheet = load_workbook(path, read_only=True, data_only=False).worksheets[0]
    except Exception as error:  # zipfile, XML and openpyxl each raise their own
        raise UserError(f"{path} is not a whole spreadsheet: {error}") from error
    rows = sheet.iter_rows(values_only=True)
    header = [str(name) for name in next(rows, ())]
    for number, row in enumerate(rows, 2):
        if any(cell is not None for cell in row):
            yield f"row {number}", {k: "" if v is None else v for k, v in zip(header, row, strict=False)}


def _table(path: Path) -> Iterator[Record]:
    import pandas as pd

    try:
        frame = pd.read_csv(path, sep=TABLES[path.suffix], dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole table: {error}") from error
    for number, record in enumerate(records(frame), 1):
        yield f"row {number}", record


def _json(path: Path) -> Iterator[Record]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: {error}", f"known: {', '.join(KNOWN)}") from error
    try:
        data = json_of(text)
    except ValueError:
        yield from _lines(path, text)
        return
    if isinstance(data, dict) and isinstance(data.get("logs"), list):  # lmms-eval of before --log_samples wrote lines
        data = data["logs"]
    if isinstance(data, dict) and not _OF_AN_ANSWER.isdisjoint(data):  # JSON lines, of one line
        yield "line 1", data
    elif isinstance(data, list):
        for number, record in enumerate(data, 1):
            yield _object(path, f"record {number}", record)
    elif isinstance(data, dict) and data and all(isinstance(value, dict) for value in data.values()):
        for key, record in data.items():
            yield f"record {key}", {"id": key, **record}
    elif isinstance(data, dict) and data and all(isinstance(value, str) for value in data.values()):
        for key, value in data.items():
            yield f"record {key}", {"id": key, "prediction": value}
    elif isinstance(data, dict):
        yield "record 1", data
    else:
        raise UserError(f"{path} is neither a list nor an object of records")


def _lines(path: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield _object(path, f"line {number}", json_of(line))
        except ValueError as error:
            raise UserError(f"{path}, line {number} is no JSON: {error}", "is the file whole?") from error


def _object(path: Path, where: str, record: object) -> Record:
    if not isinstance(record, dict):
        raise UserError(f"{path}, {where} is {type(record).__name__}, expected an object")
    return where, record


def text_of(value: object) -> str:
    """A key or number as text: `241.0` and 241 are `241`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    return text[:-2] if text.endswith(".0") and text[:-2].isdigit() else text
