"""The exact words a model is asked in, filled from a benchmark's declared prompt. Snapshots of them are under test.

Source: VLMEvalKit's vlm/internvl (build_prompt, build_multi_choice_prompt, reorganize_prompt); one image stands in
front of the text, several are named `Image-1: <image>` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from armor_eval.models.base import Answer, Part, Question
from armor_eval.runs.schema import Item
from armor_eval.tasks.understanding import images
from armor_eval.tasks.understanding.declare import Benchmark, Prompt
from armor_eval.tasks.understanding.table import Row, Table
from armor_model.base.hashing import sha256_json, sha256_text

if TYPE_CHECKING:
    from PIL import Image


PROTOCOL = "internvl-1"
"""Version of this module's wording; part of the prompt hash, so a change is a new protocol."""
TOTAL_TILES = 64
"""Tiles that all images of one question share."""
_CHINESE = re.compile("[\u4e00-\u9fff]")


def question_text(prompt: Prompt, row: Row) -> str:
    """The text of a question, without image marks."""
    text = str(row.fields.get("question", ""))  # a row without one is recorded, never asked
    if prompt.form == "question":
        return text + prompt.suffix
    if "hint" in row.fields:
        text = f"{row.fields['hint']}\n{text}"
    options = row.options
    for letter, option in options.items():
        text += f"\n{letter}. {option}"
    chinese = _CHINESE.search(text) is not None
    if options:
        return text + (prompt.suffix_chinese if chinese and prompt.suffix_chinese else prompt.suffix)
    return text + (prompt.open_suffix_chinese if chinese and prompt.open_suffix_chinese else prompt.open_suffix)


def image_marks(text: str, images: int) -> str:
    """The prompt with `<image>` where each image goes."""
    if images == 0:
        return text
    if images == 1:
        return f"<image>\n{text}"
    return "".join(f"Image-{n}: <image>\n" for n in range(1, images + 1)) + text


def parts(marked: str, images: Sequence[Part]) -> list[Part]:
    """Text and images in reading order: the marked prompt cut at the marks we wrote ourselves (the first ones)."""
    pieces = marked.split("<image>", len(images))
    out: list[Part] = []
    for piece, image in zip(pieces, [*images, None], strict=False):
        if piece:
            out.append(piece)
        if image is not None:
            out.append(image)
    return out


def tiles_each(prompt: Prompt, images: int) -> int:
    return max(1, min(prompt.max_tiles, TOTAL_TILES // max(1, images)))


def prompt_hash(benchmark: Benchmark) -> str:
    """Equal hashes mean: asked in the same words, with the same tiling."""
    return sha256_json({"protocol": PROTOCOL, "dataset": benchmark.dataset, **benchmark.prompt.model_dump()})


# --- a row as the question that a model is asked, and as the item that records its answer ----------------------------


class UnusableRowError(Exception):
    """Why a row is not asked, as its item gives the reason."""


def marked_prompt(benchmark: Benchmark, row: Row, images: int) -> str:
    """What the model reads, with `<image>` where images go: what a bundle records and a snapshot test holds."""
    return image_marks(question_text(benchmark.prompt, row), images)


def decoded(row: Row) -> list[Image.Image] | images.BadImageError:
    """The row's images; the error itself where one cannot be read."""
    try:
        return row.images()
    except images.BadImageError as error:
        return error


def build_question(benchmark: Benchmark, row: Row, images: Sequence[Part]) -> Question:
    """The row's prompt, filled, with its decoded images where they belong."""
    marked = marked_prompt(benchmark, row, len(images))
    return Question(
        id=row.id,
        parts=parts(marked, images),
        dataset=benchmark.dataset,
        max_tiles=tiles_each(benchmark.prompt, len(images)),
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
