"""The contact sheet of interleaved answers: a row a request with the images that were given, then those drawn."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.base.images import write_image
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import Item
from armor_eval.tasks.suites.sheets import SHEETS, frame_of
from armor_model.base.sheets import Tile, contact_sheet, spread

ROWS = 3
"""Requests of a kind."""
SIDE = 96
"""Pixels of an image."""


def write_sheet(bundle: Bundle, items: Sequence[Item]) -> dict[str, str]:
    """sheets/answers.png; its entry for the run's `extras.figures`."""
    rows: list[tuple[str, Sequence[Tile]]] = []
    for group in dict.fromkeys(item.group for item in items):
        own = []
        for item in items:
            if item.group == group:
                given = [Tile(bundle.path / name, caption="given") for name in item.images]
                frame = frame_of(item.score)
                drawn = [Tile(bundle.path / name, frame, "drawn") for name in item.output_images]
                asked = item.prompt.rpartition("user: ")[2].rpartition("<image>")[2].strip()
                own.append((f"{asked} - {item.output or ''}"[:160], [*given, *drawn]))
        rows += spread(own, ROWS)
    path, title = f"{SHEETS}/answers.png", "answers of text and images, green where all is right"
    write_image(bundle.path / path, contact_sheet(rows, title=title, side=SIDE))
    return {"path": path, "title": title, "name": bundle.path.name}
