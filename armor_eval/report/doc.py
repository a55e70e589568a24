"""The table model: a table as data, which `formats` writes and a terminal shows; a number in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

from armor_model.base.text import visible

if TYPE_CHECKING:
    from rich.table import Table

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


STYLES = {
    "match": "green",
    "supported": "green",
    "differs": "bold red",
    "contradicted": "bold red",
    "undecided": "yellow",
    "not comparable": "bold magenta",
    "ok": "green",
    "missing": "yellow",
    "broken": "bold red",
    "note": "cyan",
}
"""Colour by verdict word."""


def print_doc(out: Console, doc: Doc) -> None:
    """The table at its own width with its title and notes; best values in bold, second best underlined."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text(visible(doc.title)) if doc.title else None
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD if title else None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for place, name in enumerate(doc.head):
        table.add_column(Text(visible(name)), no_wrap=True, justify="right" if doc.holds_numbers(place) else "left")
    for line in doc.lines:
        if line.kind == "group":
            table.add_section()
        ranks = {"best": "bold", "second": "underline", None: ""}
        cells = [Text(visible(c.text), style=STYLES.get(c.verdict or "", ranks[c.rank])) for c in line.cells]
        table.add_row(*cells)
    print_table(out, table)
    for note in doc.notes:
        out.print(Text(visible(note)), soft_wrap=True)


def print_table(out: Console, table: Table) -> None:
    """At its own width, however wide the terminal is (a pipe has 80 columns): a number that is cut is another one."""
    from rich.measure import Measurement

    table.width = Measurement.get(out, out.options.update(width=10_000), table).maximum
    out.print(table, crop=False)


# --- a console whose plain texts cannot steer the terminal -----------------------------------------------------------


class VisibleConsole(Console):
    """Names the marks of every text that is printed as a str; a `Text` is its maker's, who has done so."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)
