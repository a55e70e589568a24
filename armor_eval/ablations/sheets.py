"""Contact sheets of drawings, labelled: Figure 8's pairs at equal steps, Figures 6 and 9 over training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CELL, LABEL, HEAD, GAP = 96, 190, 34, 6


def sheet(rows: Sequence[tuple[str, Sequence[Path | None]]], columns: Sequence[str]):
    """A picture with a labelled row for each (label, pictures); small pictures are enlarged pixel by pixel."""
    from PIL import Image, ImageDraw, ImageFont

    width = LABEL + len(columns) * (CELL + GAP)
    made = Image.new("RGB", (width, HEAD + len(rows) * (CELL + GAP)), "white")
    pen = ImageDraw.Draw(made)
    pen.font = ImageFont.load_default(13)
    for c, name in enumerate(columns):
        pen.text((LABEL + c * (CELL + GAP), 8), _fitted(name, CELL), fill="black")
    for r, (label, pictures) in enumerate(rows):
        top = HEAD + r * (CELL + GAP)
        for k, line in enumerate(_wrapped(label, LABEL - 10)):
            pen.text((4, top + 4 + 16 * k), line, fill="black")
        for c, path in enumerate(pictures):
            if path is None or not path.is_file():
                continue
            with Image.open(path) as picture:
                shown = picture.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)
            left = LABEL + c * (CELL + GAP)
            made.paste(shown, (left, top))
            pen.rectangle([left, top, left + CELL - 1, top + CELL - 1], outline="#888888")
    return made


def _fitted(text: str, width: int) -> str:
    return text[: width // 7]


def _wrapped(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text, width // 7)[:6]
