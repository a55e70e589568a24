"""Pictures for people: a contact sheet a task, and what the detector saw drawn on a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.tasks.geneval.found import Found

RIGHT, WRONG, NONE = (30, 140, 60), (200, 40, 40), (150, 150, 150)
TILE = 128
EDGE = 4
LABEL = 150
"""Pixels for the prompt's words, left of its row."""
ROWS = 10


@dataclass(frozen=True)
class Shown:
    """One row: a prompt and its pictures."""

    prompt: str
    pictures: list[tuple[Image.Image | None, bool | None]]
    """(picture, right?); None, None for one that is missing."""


def contact_sheet(title: str, rows: Sequence[Shown]) -> Image.Image:
    """Up to ROWS prompts, spread evenly over those given: green frames are right, red ones wrong, grey ones missing."""
    from PIL import Image, ImageDraw, ImageFont

    if len(rows) > ROWS:
        rows = [rows[round(i * (len(rows) - 1) / (ROWS - 1))] for i in range(ROWS)]
    columns = max(len(row.pictures) for row in rows)
    step = TILE + 2 * EDGE
    sheet = Image.new("RGB", (LABEL + columns * step + EDGE, 24 + len(rows) * step + EDGE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((EDGE, 5), title, fill="black", font=font)
    for r, row in enumerate(rows):
        top = 24 + r * step
        draw.multiline_text((EDGE, top + EDGE), textwrap.fill(row.prompt, 22), fill="black", font=font)
        for c, (picture, right) in enumerate(row.pictures):
            left = LABEL + c * step
            frame = NONE if right is None else RIGHT if right else WRONG
            draw.rectangle((left, top, left + step - 3, top + step - 3), fill=frame)
            if picture is None:
                tile = Image.new("RGB", (TILE - 2, TILE - 2), (235, 235, 235))
            else:
                small = picture.width < TILE
                way = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
                tile = picture.convert("RGB").resize((TILE - 2, TILE - 2), way)
            sheet.paste(tile, (left + EDGE - 1, top + EDGE - 1))
    return sheet


def overlay(picture: np.ndarray, found: Found, classes: Sequence[str], threshold: float) -> Image.Image:
    """Boxes, masks, class names and scores above the threshold on the picture, enlarged to at least 256 px."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = picture.shape[:2]
    zoom = max(1, -(-256 // max(height, width)))
    shade = picture.astype(np.float32)
    kept = [i for i in range(len(found.labels)) if found.scores[i] > threshold]
    for i in kept:
        shade[found.masks[i]] = 0.55 * shade[found.masks[i]] + 0.45 * np.array(_tint(int(found.labels[i])), np.float32)
    canvas = Image.fromarray(shade.astype(np.uint8)).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for i in kept:
        x1, y1, x2, y2 = (float(v) * zoom for v in found.boxes[i])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_tint(int(found.labels[i])), width=2)
        draw.text((x1 + 3, y1 + 2), f"{classes[found.labels[i]]} {found.scores[i]:.2f}", fill="black", font=font)
    return canvas


def _tint(label: int) -> tuple[int, int, int]:
    """A steady colour for a class index: steps of the golden angle around the hue circle."""
    import colorsys

    return tuple(int(255 * part) for part in colorsys.hsv_to_rgb((label * 0.618) % 1, 0.75, 0.95))
