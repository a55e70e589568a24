"""OneIG-Bench, two of its parts: alignment (questions with parents) and text (what an OCR judge reads)."""

from __future__ import annotations

from pydantic import Field, Json

from armor_eval.tasks.suites.rows import Row, csv_rows, json_of, row_of, text_of, unique
from armor_model.base.errors import UserError

CLASSES = {
    "Anime_Stylization": "anime", "Portrait": "human", "General_Object": "object", "Text_Rendering": "text"
}  # fmt: skip
"""Category in the prompt file -> class: the folder of its images, and the name of its question file."""


class PromptRow(Row):
    category: str
    id: str = Field(min_length=1)
    prompt_en: str = ""
    prompt_cn: str = ""

    @property
    def prompt(self) -> str:
        return self.prompt_en or self.prompt_cn


class TextRow(Row):
    id: str = Field(min_length=1)
    text_content: str


class Questions(Row):
    """Both fields are JSON in strings: number -> question, number -> numbers of its parents (0: none)."""

    question: Json[dict[int, str]]
    dependency: Json[dict[int, list[int]]]


def prompts(name: str, data: bytes) -> dict[tuple[str, str], str]:
    """(class, id) -> prompt, of the classes that are measured here."""
    rows = unique(csv_rows(PromptRow, name, data), lambda row: (row.category, row.id), name)
    return {(CLASSES[row.category], row.id): row.prompt for row in rows if row.category in CLASSES}


def texts(name: str, data: bytes) -> dict[str, str]:
    """id -> the text asked for, taken as a string though it looks like a list."""
    return {row.id: row.text_content for row in unique(csv_rows(TextRow, name, data), lambda row: row.id, name)}


def questions(name: str, data: bytes) -> dict[str, Questions]:
    """id -> questions. UserError for parents that are none of them."""
    found = json_of(text_of(name, data), name)
    if not isinstance(found, dict):
        raise UserError(f"{name}: expected a JSON object of ids, got {type(found).__name__}")
    made = {key: row_of(Questions, value, f"{name} {key}") for key, value in found.items()}
    for key, one in made.items():
        unknown = {p for parents in one.dependency.values() for p in parents} - {0, *one.question}
        if unknown or set(one.dependency) - set(one.question):
            raise UserError(
                f"{name} {key}: a dependency on questions that are not there", f"it has {len(one.question)}"
            )
    return made
