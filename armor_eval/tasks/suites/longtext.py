"""LongText-Bench: the text that an image was to hold, as an OCR judge reads it. Ids 80-99 and 140-159 are absent."""

from __future__ import annotations

from pydantic import Field

from armor_eval.tasks.suites.rows import Row, jsonl_rows, unique


class LongTextRow(Row):
    prompt_id: int = Field(ge=0)
    prompt: str = Field(min_length=1)
    text: list[str] = Field(min_length=1)
    category: str
    length: str


def rows(name: str, data: bytes) -> list[LongTextRow]:
    return unique(jsonl_rows(LongTextRow, name, data), lambda row: row.prompt_id, name)
