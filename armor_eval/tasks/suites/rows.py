"""Published files as records: decoded, checked line by line, a mistake being one line that names the place."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from armor_model.base.errors import UserError

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
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON: {error}") from None


def json_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """A JSON list of objects."""
    found = json_of(text_of(name, data), name)
    if not isinstance(found, list):
        raise UserError(f"{name}: expected a JSON list, got {type(found).__name__}")
    return [row_of(kind, value, f"{name} entry {number}") for number, value in enumerate(found, 1)]


def jsonl_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """JSON lines; empty ones are passed over. Only a newline ends a line."""
    lines = [(n, line) for n, line in enumerate(text_of(name, data).split("\n"), 1) if line.strip()]
    return [row_of(kind, json_of(line, f"{name} line {n}"), f"{name} line {n}") for n, line in lines]


def csv_rows(kind: type[R], name: str, data: bytes) -> list[R]:
    """A CSV with a header."""
    reader = csv.DictReader(io.StringIO(text_of(name, data), newline=""))
    try:
        return [row_of(kind, value, f"{name} row {number}") for number, value in enumerate(reader, 1)]
    except csv.Error as error:
        raise UserError(f"{name} line {reader.line_num}: {error}") from None
