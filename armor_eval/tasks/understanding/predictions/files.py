"""Records of a file, whatever holds them: spreadsheet, TSV, CSV, JSON, JSON lines; nothing in a cell is interpreted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from armor_eval.tasks.understanding.cells import records
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of

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
