"""Published numbers of other models beside ours, within one protocol only (benchmarks/published.toml).

Nothing printed here was measured by us: every value stands as its source has it, with the source.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence

from pydantic import Field, model_validator

from armor_eval.base.data import benchmarks_dir
from armor_eval.report.doc import Doc, decimals_of
from armor_eval.report.loading import RunView
from armor_eval.report.tables import Footnotes, measured_text
from armor_eval.runs.comparable import OUTCOMES, reservations_of
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Record

UNSTATED = "unstated"
"""The protocol of a print whose source does not say enough."""


class Recipe(Record):
    """How a published number's images were drawn."""

    suite: str
    samples: int = Field(ge=1)
    """Images a prompt."""
    guidance: float
    steps: int | None = None
    pixels: str
    seeds: str
    after: str | None = None
    """What was done to the images before they were judged."""
    note: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.samples} images a prompt", f"guidance {self.guidance:g}"]
        parts += [f"{self.steps} steps"] if self.steps else []
        parts += [f"{self.pixels} px" if self.pixels.isdigit() else f"{self.pixels} pixels", f"seeds: {self.seeds}"]
        return "; ".join([*parts, *filter(None, (self.after, self.note))])


class Prints(Record):
    """Numbers of one source under one protocol."""

    suite: str
    protocol: str
    """The `protocol` of a run's label, or `unstated`."""
    metric: str = "headline"
    recipe: str | None = None
    source: str
    values: dict[str, str]
    """Model -> value as printed."""


class Published(Record):
    recipes: dict[str, Recipe]
    prints: list[Prints]

    @model_validator(mode="after")
    def _hangs_together(self) -> Published:
        for one in self.prints:
            if one.recipe is not None and self.recipes[one.recipe].suite != one.suite:
                raise ValueError(f"recipe {one.recipe} is not of the suite {one.suite}")
            for value in one.values.values():
                float(value)
        return self


@functools.cache
def published() -> Published:
    return Published.model_validate(tomllib.loads((benchmarks_dir() / "published.toml").read_text(encoding="utf-8")))


def published_tables(views: Sequence[RunView]) -> list[Doc]:
    """A table for each protocol that was measured here and has prints: our runs, then the prints, best first.

    A run of the embedded profile, or with a reservation about how it was measured, stands beside no print.
    """
    beside: dict[str, list[RunView]] = {}
    for view in views:
        protocol = protocol_of(view.run).get("protocol")
        conditions = [r for r in reservations_of(view.run) if r.kind not in OUTCOMES]
        if protocol is not None and view.primary is not None and view.run.profile == "official" and not conditions:
            beside.setdefault(protocol, []).append(view)
    docs = []
    for protocol, measured in beside.items():
        names = {"headline", *(view.primary.name for view in measured if view.primary)}
        prints = [p for p in published().prints if p.protocol == protocol and p.metric in names]
        if prints:
            docs.append(_table(protocol, measured, prints))
    return docs


def _table(protocol: str, measured: Sequence[RunView], prints: Sequence[Prints]) -> Doc:
    doc = Doc(
        f"published-{protocol}",
        f"{protocol}: published numbers beside ours",
        "Printed values stand as their source has them and were not measured here; nothing is ranked across the two.",
        ["Model", "Score", "Measured, or how it was drawn", "Source"],
        text_columns=1,
        wide=True,
    )
    notes = Footnotes()
    for view in measured:
        metric, label = view.primary, protocol_of(view.run)
        assert metric is not None  # chosen so
        text = f"{measured_text(metric, decimals_of(metric))}{notes.reservations(view.run)}"
        how = ", ".join(f"{part} {value}" for part, value in label.items() if part != "protocol")
        doc.add([view.who, text, how, f"measured here {notes.mark(view.run)}"])
    rows = [(model, value, p) for p in prints for model, value in p.values.items()]
    for model, value, one in sorted(rows, key=lambda row: -float(row[1])):
        recipe = "not stated" if one.recipe is None else str(published().recipes[one.recipe])
        doc.add([model, value, recipe, f"printed: {one.source}"], "printed")
    doc.notes = notes.lines()
    return doc
