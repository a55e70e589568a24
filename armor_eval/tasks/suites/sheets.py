"""Contact sheets of a suite's images: a row a prompt, framed by score."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.base.images import write_image
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import Item
from armor_model.base.sheets import GREY, Tile, contact_sheet, spread

SHEETS = "sheets"
ROWS = 10
"""Prompts on a sheet."""


def frame_of(score: float | None) -> tuple[int, int, int]:
    """Grey without a score, else from red (0) to green (1)."""
    if score is None:
        return GREY
    share = min(1.0, max(0.0, score))
    return (round(200 - 170 * share), round(40 + 100 * share), round(40 + 20 * share))


def write_sheets(bundle: Bundle, items: Sequence[Item]) -> None:
    """sheets/GROUP.png for each group of the suite, or sheets/all.png."""
    for group in dict.fromkeys(item.group for item in items):
        rows: dict[str, tuple[str, list[Tile]]] = {}
        own = [item for item in items if item.group == group]
        for item in own:
            image = next((bundle.path / name for name in item.output_images), None)
            rows.setdefault(item.id.rpartition("/")[0], (item.prompt, []))[1].append(Tile(image, frame_of(item.score)))
        scores = [item.score for item in own if item.score is not None]
        mean = f"{sum(scores) / len(scores):.2f}" if scores else "-"
        title = f"{bundle.run.benchmark}{f', {group}' if group else ''}: mean {mean} of {len(own)} images"
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in group or "all")
        write_image(bundle.path / SHEETS / f"{name}.png", contact_sheet(spread([*rows.values()], ROWS), title=title))
