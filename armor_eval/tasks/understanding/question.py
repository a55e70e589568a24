"""A row as the question that a model is asked, and as the item that records its answer."""

from __future__ import annotations

from typing import Any

from armor_eval.models.base import Answer, Question
from armor_eval.runs.schema import Item
from armor_eval.tasks.understanding import images, prompts
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.table import Row, Table
from armor_model.base.hashing import sha256_text


class UnusableRowError(Exception):
    """Why a row is not asked, as its item gives the reason."""


def marked_prompt(benchmark: Benchmark, row: Row, images: int) -> str:
    """What the model reads, with `<image>` where images go: what a bundle records and a snapshot test holds."""
    return prompts.image_marks(prompts.question_text(benchmark.prompt, row), images)


def decoded(row: Row) -> list[Any] | images.BadImageError:
    """The row's images; the error itself where one cannot be read."""
    try:
        return row.images()
    except images.BadImageError as error:
        return error


def build_question(benchmark: Benchmark, row: Row, shown: list[object]) -> Question:
    """The row's prompt, filled, with its decoded images where they belong."""
    marked = marked_prompt(benchmark, row, len(shown))
    return Question(
        id=row.id,
        parts=prompts.parts(marked, shown),
        dataset=benchmark.dataset,
        max_tiles=prompts.tiles_each(benchmark.prompt, len(shown)),
        upscale_first=benchmark.prompt.upscale_first,
        fields={**row.fields, "index": row.index},
    )


def count_images(question: Question) -> int:
    return sum(not isinstance(part, str) for part in question.parts)


def item_of(table: Table, row: Row, answer: Answer, images: int, prompt: str | None = None) -> Item:
    """The journal's record of an answer, not scored yet. `prompt`: where other words than ours were asked."""
    benchmark = table.benchmark
    prompt = marked_prompt(benchmark, row, images) if prompt is None else clean(prompt)
    group = row.fields.get(benchmark.group)
    return Item(
        id=row.id,
        cluster=row.cluster,
        group=None if group is None else str(group),
        prompt=prompt,
        prompt_sha256=sha256_text(prompt),
        images=[f"{table.path.name}#{row.id}"] if images else [],
        gold=plain(row.fields.get("answer")),
        output=None if answer.error is not None else clean(answer.text),
        reason=answer.error,
        extras=dict(answer.extras),
        status="ok" if answer.error is None else "error",
    )


def clean(text: str) -> str:
    """Text that a UTF-8 file and a TSV can hold: lone surrogates and NUL become the replacement character."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\ufffd")


def plain(value: object) -> object:
    """A numpy scalar as the Python value JSON can hold."""
    return value.item() if hasattr(value, "item") else value
