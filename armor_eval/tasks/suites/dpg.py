"""DPG-Bench's question file (TencentQQGYLab/ELLA, Apache-2.0) and the official script's defect in reading it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.reductions import broad_category
from armor_eval.tasks.suites.rows import csv_records
from armor_model.base.errors import UserError

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """All items, a row a question, in the file's order."""
    return _read(files[0], suite, skip=0)


def read_official(files: Sequence[Path], suite: Suite) -> SuiteData:
    """As the official script reads it: the first data row is skipped, and the item that lost a parent by it is left
    out (ELLA issue 61)."""
    return _read(files[0], suite, skip=1)


def _read(path: Path, suite: Suite, skip: int) -> SuiteData:
    rows: dict[str, list[dict[str, str]]] = {}
    skipped: str | None = None
    unlisted: set[str] = set()
    for number, row in enumerate(csv_records(str(path), path.read_bytes(), COLUMNS)):
        if any(row[name] is None for name in COLUMNS):
            raise UserError(f"{path}: data row {number + 1} is short")
        if number < skip:
            skipped = row["item_id"]
            continue
        rows.setdefault(row["item_id"], []).append(row)
    items, notes = [], []
    for item_id, own in rows.items():
        probes = tuple(_probe(row, suite, unlisted) for row in own)
        known = {probe.id for probe in probes}
        if item_id == skipped and any(parent not in known for probe in probes for parent in probe.parents):
            notes.append(
                f"item {item_id} is left out, as by the official script, which skips the first row of the file"
            )
            continue
        items.append(SuiteItem(item_id, own[0]["text"], probes))
    if unlisted:
        notes.append(f"counted in their broad category alone: {', '.join(sorted(unlisted))}")
    return SuiteData(suite.name, "", items, notes)


def _probe(row: dict[str, str], suite: Suite, unlisted: set[str]) -> Probe:
    """A row's question; its category is what stands in `tuple` before the bracket, as the official script takes it."""
    skill = row["tuple"].partition("(")[0].strip()
    if skill not in suite.skills and broad_category(skill) in suite.skills:
        unlisted.add(skill)
        skill = broad_category(skill)
    parents = tuple(p for p in (part.strip() for part in row["dependency"].split(",")) if p not in ("", "0"))
    return Probe(row["proposition_id"].strip(), row["question_natural_language"], ("yes",), parents, skill)
