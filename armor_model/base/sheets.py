"""Contact sheets: images for people, in labelled rows under named columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Color = tuple[int, int, int]
GREY, EMPTY = (150, 150, 150), (235, 235, 235)
EDGE, LINE, CHARACTER = 4, 16, 6
"""Pixels around an image, of a line of text and of a character."""
LABEL = 25
"""Characters of a line beside a row."""


@dataclass(frozen=True)
class Tile:
    """One place of a sheet."""

    image: Image.Image | Path | None
    """Or its file. None, or a file that is not there: the place stays empty."""
    frame: Color = GREY
    caption: str = ""
    """Above the image, cut to its width."""


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Tile]]], *, title: str = "", columns: Sequence[str] = (), side: int = 128
) -> Image.Image:
    """Rows of (label, tiles), each image `side` pixels wide and high; small ones are enlarged pixel by pixel."""
    from PIL import Image, ImageDraw, ImageFont

    label = (LABEL * CHARACTER + EDGE) * any(text for text, _ in rows)
    caption = LINE * any(tile.caption for _, tiles in rows for tile in tiles)
    head = LINE * bool(title) + LINE * bool(columns)
    width, height, fits = side + 2 * EDGE, side + 2 * EDGE + caption, (side + EDGE) // CHARACTER
    across = max((len(tiles) for _, tiles in rows), default=0)
    sheet = Image.new("RGB", (label + max(across, len(columns)) * width, head + len(rows) * height), "white")
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(11)
    pen.text((EDGE, 2), title, fill="black")
    for column, name in enumerate(columns):
        pen.text((label + column * width + EDGE, head - LINE + 2), name[:fits], fill="black")
    for row, (text, tiles) in enumerate(rows):
        top = head + row * height
        pen.multiline_text((EDGE, top + EDGE), textwrap.fill(text, LABEL), fill="black")
        for column, tile in enumerate(tiles):
            left, upper = label + column * width + EDGE, top + caption + EDGE
            pen.text((left, top + 2), tile.caption[:fits], fill="black")
            pen.rectangle((left - 3, upper - 3, left + side + 2, upper + side + 2), fill=tile.frame)
            image = tile.image
            if isinstance(image, Path):
                image = Image.open(image) if image.is_file() else None
            if image is None:
                image = Image.new("RGB", (side, side), EMPTY)
            way = Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS
            sheet.paste(image.convert("RGB").resize((side, side), way), (left, upper))
    return sheet


def spread(rows: Sequence[tuple[str, Sequence[Tile]]], most: int) -> list[tuple[str, Sequence[Tile]]]:
    """At most `most` rows, evenly over those given."""
    if len(rows) <= most:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (most - 1))] for i in range(most)]
