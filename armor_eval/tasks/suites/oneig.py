"""OneIG-Bench, two of its parts: alignment (questions with parents) and text (what an OCR judge reads)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, Json

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import Row, csv_rows, json_of, row_of, text_of
from armor_model.base.errors import UserError

CLASSES = {"Anime_Stylization": "anime", "Portrait": "human", "General_Object": "object", "Text_Rendering": "text"}
"""Category in the prompt file -> class: the folder of its images, and the name of its question file."""
LONG_TEXT, MORE_TOKENS = 60, 256
"""A target of more words lets the OCR judge write more tokens."""


class PromptRow(Row):
    category: str
    id: str = Field(min_length=1)
    prompt_en: str = ""
    prompt_cn: str = ""


class TextRow(Row):
    id: str = Field(min_length=1)
    text_content: str


class Questions(Row):
    """Both fields are JSON in strings: number -> question, number -> numbers of its parents (0: none)."""

    question: Json[dict[int, str]]
    dependency: Json[dict[int, list[int]]]


def read_alignment(files: Sequence[Path], suite: Suite) -> SuiteData:
    """`files`: the prompts, then a question file for each class, called by it. Items are `CLASS/ID`."""
    prompts = _prompts(files[0])
    items = []
    for path in files[1:]:
        found = json_of(text_of(str(path), path.read_bytes()), str(path))
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a JSON object of ids, got {type(found).__name__}")
        for key, value in found.items():
            one = row_of(Questions, value, f"{path} {key}")
            probes = tuple(
                Probe(str(n), text, ("Yes",), tuple(str(p) for p in one.dependency.get(n, ()) if p))
                for n, text in one.question.items()
            )
            prompt = _prompt(prompts, path.stem, key, path)
            items.append(SuiteItem(f"{path.stem}/{key}", prompt, probes, group=path.stem))
    return SuiteData(suite.name, "", items)


def read_text(files: Sequence[Path], suite: Suite) -> SuiteData:
    """`files`: the prompts, the targets. A target is taken as a string though it looks like a list."""
    prompts, items = _prompts(files[0]), []
    for row in csv_rows(TextRow, str(files[1]), files[1].read_bytes()):
        more = MORE_TOKENS if len(row.text_content.split()) > LONG_TEXT else None
        fields = {"target": row.text_content}
        prompt = _prompt(prompts, "text", row.id, files[1])
        items.append(SuiteItem(f"text/{row.id}", prompt, (Probe("1", "text"),), fields=fields, max_new_tokens=more))
    return SuiteData(suite.name, "", items)


def _prompts(path: Path) -> dict[tuple[str, str], str]:
    """(class, id) -> prompt, of the classes that are measured here."""
    rows = csv_rows(PromptRow, str(path), path.read_bytes())
    return {(CLASSES[r.category], r.id): r.prompt_en or r.prompt_cn for r in rows if r.category in CLASSES}


def _prompt(prompts: dict[tuple[str, str], str], kind: str, key: str, where: Path) -> str:
    if (kind, key) not in prompts:
        raise UserError(f"{where}: {key} is no prompt of the class {kind}")
    return prompts[kind, key]
