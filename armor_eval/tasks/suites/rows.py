"""Published files as records: decoded, checked line by line, a mistake being one line that names the place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from armor_model.base import parsing
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

R = TypeVar("R", bound="Row")


class Row(BaseModel):
    """A record of a published file: the fields that are used, typed; others are ignored."""

    model_config = ConfigDict(frozen=True)


def text_of(name: str, data: bytes) -> str:
    """UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8: {error}") from None


def row_of(kind: type[R], value: object, where: str) -> R:
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise UserError(f"{where}: {place}: {first['msg']}") from None


def json_of(text: str, where: str) -> Any:
    try:
        return parsing.json_of(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def json_values(name: str, data: bytes) -> Iterator[tuple[str, object]]:
    """(place, value) of a JSON list's entries, else of JSON lines; empty lines are passed over. Only a newline ends a
    line."""
    if data.lstrip()[:1] == b"[":
        yield from ((f"{name} entry {n}", value) for n, value in enumerate(json_of(text_of(name, data), name), 1))
        return
    for number, line in enumerate(text_of(name, data).split("\n"), 1):
        if line.strip():
            yield f"{name} line {number}", json_of(line, f"{name} line {number}")


def json_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """A JSON list of objects, or JSON lines."""
    return [row_of(kind, value, where) for where, value in json_values(name, data)]


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
