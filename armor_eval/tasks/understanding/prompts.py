"""The exact words a model is asked in, filled from a benchmark's declared prompt. Snapshots of them are under test.

Source: VLMEvalKit's vlm/internvl (build_prompt, build_multi_choice_prompt, reorganize_prompt); one image stands in
front of the text, several are named `Image-1: <image>` and so on.
"""

from __future__ import annotations

import re
from typing import Any

from armor_eval.tasks.understanding.declare import Benchmark, Prompt
from armor_eval.tasks.understanding.table import Row
from armor_model.base.hashing import sha256_json

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


def parts(marked: str, images: list[Any]) -> list[Any]:
    """Text and images in reading order: the marked prompt cut at the marks we wrote ourselves (the first ones)."""
    pieces = marked.split("<image>", len(images))
    out: list[object] = []
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
