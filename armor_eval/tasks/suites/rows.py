"""Published files as records: decoded, checked line by line, a mistake being one line that names the place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from armor_model.base import parsing
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

R = TypeVar("R", bound=BaseModel)


class Row(BaseModel):
    """A record of a published file: the fields that are used, typed; others are ignored."""

    model_config = ConfigDict(frozen=True)


def text_of(name: str, data: bytes) -> str:
    """UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: {error}") from None


def row_of(kind: type[R], value: object, where: str, hint: str | None = None) -> R:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{where}: {parsing.fault_of(error)}", hint) from None


def json_of(text: str, where: str) -> Any:
    try:
        return parsing.json_of(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def json_values(name: str, data: bytes) -> Iterator[tuple[str, object]]:
    """(place, value) of a JSON list's entries, else of JSON lines that are not empty. Only a newline ends a line."""
    if data.lstrip()[:1] == b"[":
        yield from ((f"{name} entry {n}", value) for n, value in enumerate(json_of(text_of(name, data), name), 1))
        return
    for number, line in enumerate(text_of(name, data).split("\n"), 1):
        if line.strip():
            yield f"{name} line {number}", json_of(line, f"{name} line {number}")


def json_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """A JSON list of objects, or JSON lines."""
    return [row_of(kind, value, where) for where, value in json_values(name, data)]


def file_rows(kind: type[R], path: Path, what: str, hint: str | None = None) -> Iterator[tuple[str, R]]:
    """(place, record) of a file of JSON lines, or of a JSON list; `what` it was to hold."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {error.strerror or error}", hint) from None
    for where, value in json_values(str(path), data):
        yield where, row_of(kind, value, where, hint)


def csv_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """A CSV with a header."""
    return [row_of(kind, value, f"{name} row {number}") for number, value in enumerate(csv_records(name, data), 1)]


def csv_records(name: str, data: bytes, columns: Sequence[str] = ()) -> list[JsonObject]:
    """The rows of a CSV by its header, which must name `columns`; a short row's last cells are None."""
    reader = csv.DictReader(io.StringIO(text_of(name, data), newline=""))
    try:
        if missing := [column for column in columns if column not in (reader.fieldnames or ())]:
            raise UserError(f"{name} lacks the columns {', '.join(missing)}", f"expected {', '.join(columns)}")
        return list(reader)
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num}: {error}") from None
