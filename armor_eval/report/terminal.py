"""Writes a table (`Doc`) to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from armor_eval.report.doc import Doc
from armor_model.base.text import visible

if TYPE_CHECKING:
    from rich.table import Table


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
