"""LongText-Bench: the text that an image was to hold, as an OCR judge reads it. Ids 80-99 and 140-159 are absent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import Row, json_rows


class LongTextRow(Row):
    prompt_id: int = Field(ge=0)
    prompt: str = Field(min_length=1)
    text: list[str] = Field(min_length=1)
    category: str


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    rows = json_rows(LongTextRow, str(files[0]), files[0].read_bytes())
    return SuiteData(suite.name, "", [_item(row) for row in rows])


def _item(row: LongTextRow) -> SuiteItem:
    fields = {"target": json.dumps(row.text, ensure_ascii=False)}
    return SuiteItem(f"{row.prompt_id:04d}", row.prompt, (Probe("1", "text"),), group=row.category, fields=fields)
