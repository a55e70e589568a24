"""The table model: a table as data, which `formats` and `terminal` write, and a number in words, alike everywhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from armor_eval.report.claims import Cell
    from armor_eval.runs.schema import Metric


@dataclass(frozen=True)
class Shown:
    """One cell as it is displayed."""

    text: str
    rank: Literal["best", "second"] | None = None
    verdict: str | None = None
    """A verdict word, for colour and for the reader; already in the text where it matters."""
    why: str | None = None


@dataclass(frozen=True)
class Line:
    cells: list[Shown]
    kind: Literal["printed", "measured", "group"] = "printed"


@dataclass
class Doc:
    """A table ready to be written in any format."""

    key: str
    title: str
    caption: str
    head: list[str]
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    """The long form: a record a cell, for the CSV."""
    text_columns: int = 1
    """Leading columns that hold words and align left."""
    wide: bool = False
    """Holds sentences: wraps instead of shrinking."""

    def holds_numbers(self, column: int) -> bool:
        """Whether a column aligns right: beyond the leading words, and no verdicts."""
        verdicts = any(len(line.cells) > column and line.cells[column].verdict for line in self.lines)
        return column >= self.text_columns and not verdicts

    def add(self, cells: Iterable[str | Shown], kind: Literal["printed", "measured", "group"] = "measured") -> None:
        """A row of cells; a text is a plain one."""
        self.lines.append(Line([c if isinstance(c, Shown) else Shown(c) for c in cells], kind))


def number(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def decimals_of(metric: Metric) -> int:
    return {"score": 3, "share": 3, "points": 1, "%": 1, "grade": 2}.get(metric.unit, 3)


def value_text(metric: Metric) -> str:
    """`61.2 %`, `.612`, or that it is withheld; a dash where it is undefined."""
    if metric.value is None:
        return "-" if (metric.note or "").startswith("undefined") else "withheld"
    unit = {"score": "", "%": " %", "points": " pt", "grade": ""}.get(metric.unit, f" {metric.unit}")
    return f"{number(metric.value, decimals_of(metric))}{unit}"


def interval_text(metric: Metric) -> str:
    """`58.1 to 64.2`, or a dash."""
    if metric.ci95 is None:
        return "-"
    places = decimals_of(metric)
    return f"{number(metric.ci95[0], places)} to {number(metric.ci95[1], places)}"
