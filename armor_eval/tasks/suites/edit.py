"""Edits: a source image and an instruction go to the model; the judge sees source and result, and says whether the
change was made and whether the rest stayed.

A line of the file is `{"id", "source", "instruction"}` with an optional `kind`; `source` is an image beside the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ConfigDict, Field

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import Row, json_rows
from armor_model.base.errors import UserError


class EditRow(Row):
    """Further texts of a line are the item's fields: for the template, or a judge that knows what must come out."""

    model_config = ConfigDict(extra="allow", frozen=True)

    id: str = Field(min_length=1)
    source: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    kind: str | None = None


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    path = files[0]
    rows = json_rows(EditRow, str(path), path.read_bytes())
    return SuiteData(suite.name, "", [_item(row, path, suite) for row in rows])


def _item(row: EditRow, path: Path, suite: Suite) -> SuiteItem:
    """A kind is a group where the suite declares groups."""
    source = path.parent / row.source
    try:
        there = source.resolve().is_relative_to(path.parent.resolve()) and source.is_file()
    except (OSError, ValueError):  # no name that a file can have
        there = False
    if not there:
        raise UserError(f"{path}: {row.id}: no image {row.source[:80]} beside the file")
    fields = {name: value for name, value in (row.model_extra or {}).items() if isinstance(value, str)}
    group = row.kind if suite.groups else None
    return SuiteItem(row.id, row.instruction, (Probe("1", "edit"),), group, sources=(source,), fields=fields)
