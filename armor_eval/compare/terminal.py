"""The comparison as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from armor_eval.cli.common import print_table
from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison, Verdict

if TYPE_CHECKING:
    from rich.console import Console

STYLES: dict[Verdict, str] = {
    "PASS": "green", "REGRESSION": "bold red", "INCONCLUSIVE": "yellow", "INCOMPLETE": "bold magenta",
    "NOT COMPARABLE": "bold magenta",
}  # fmt: skip


def show(comparison: Comparison, console: Console) -> None:
    """Verdict, a row a benchmark, and a line for everything that needs an eye."""
    from rich.table import Table
    from rich.text import Text

    style = STYLES[comparison.verdict]
    console.print(Text(comparison.verdict, style=style), Text(f": {text.headline(comparison)}"), sep="", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("benchmark", "base > candidate", "difference, 95 %", "p (Holm)", "verdict"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("benchmark", "verdict") else "right")
    for b in comparison.benchmarks:
        m, verdict = b.primary, Text(b.verdict, style=STYLES[b.verdict])
        cells = ["-"] * 3
        if m is not None:
            low_high = "n/a" if m.ci95 is None else "{:+.{d}f}, {:+.{d}f}".format(*m.ci95, d=text.digits(m.unit))
            change = "n/a" if m.delta is None else f"{m.delta:+.{text.digits(m.unit)}f} [{low_high}]"
            values = (text.bare(value, m.unit) for value in (m.base, m.candidate))
            cells = [" > ".join(values), change, text.p_value(m.p_holm)]
        table.add_row(Text(b.benchmark), *(Text(c) for c in cells), verdict)
    print_table(console, table)
    for line in [*filter(None, map(_number, comparison.benchmarks)), *text.notices(comparison)]:
        console.print(Text(line), soft_wrap=True)


def _number(b: BenchmarkResult) -> str | None:
    """What the deciding number rests on."""
    m, lost = b.primary, sum(f.kind == "lost" for f in b.flips)
    if m is None:
        return None
    changed = f"{lost} items lost, {len(b.flips) - lost} gained of {b.items}"
    if b.base is None:  # retention: made of several runs
        changed = f"{m.losses} groups lost, {m.wins} gained of {m.clusters}"
    seen = f"would see a drop of {text.mde(m)} (80 % power)" if m.mde is not None else ""
    parts = [m.reason, changed, *(part for part in (m.test, seen) if part and part != m.reason)]
    return f"{b.benchmark}: {m.name}: {'; '.join(parts)}"
