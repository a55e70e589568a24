"""Images of one single colour: counted in every result, for a number over what was not drawn is no model's number."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.runs.schema import Item, Reservation


def blank_of(items: Sequence[Item]) -> tuple[int, int]:
    """(images of one single colour, images in all) of scored items; `extras.blank` counts those of one item."""
    scored = [item for item in items if item.status != "error"]
    return sum(int(item.extras.get("blank", 0)) for item in scored), sum(len(item.output_images) for item in scored)


def reserve_blank(known: Sequence[Reservation], blank: int, drawn: int) -> list[Reservation]:
    """A run's reservations, with the one that some of its images are blank where some are."""
    kept = [r for r in known if r.kind != "blank"]
    text = f"{blank} of {drawn} images are of one single colour"
    return [*kept, Reservation(kind="blank", text=text)] if blank else kept
