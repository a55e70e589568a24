"""The comparison as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    console.print(Text(comparison.verdict, style=style), Text(f": {text.headline(comparison)}"), sep="")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, right in (
        ("benchmark", False), ("base", True), ("candidate", True), ("difference", True), ("95 % interval", True),
        ("p (Holm)", True), ("tolerance", True), ("would see", True), ("verdict", False),
    ):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "benchmark")
    for b in comparison.benchmarks:
        name, verdict = Text(b.benchmark), Text(b.verdict, style=STYLES[b.verdict])
        m = b.primary
        if m is None:
            table.add_row(name, *["-"] * 7, verdict)
            continue
        cells = [
            text.plain(m.base, m.unit, False), text.plain(m.candidate, m.unit, False), text.plain(m.delta, m.unit),
            text.bounds(m.ci95, m.unit), text.p_value(m.p_holm), text.plain(m.tolerance, m.unit, False), text.mde(m),
        ]  # fmt: skip
        table.add_row(name, *cells, verdict)
    console.print(table)
    for line in remarks(comparison):
        console.print(Text(line), soft_wrap=True)


def remarks(comparison: Comparison) -> list[str]:
    """Reasons, checks that failed, items left out."""
    lines = []
    for b in comparison.benchmarks:
        lines += [f"{b.benchmark}: {line}" for line in _of(b)]
    return lines + comparison.notes


def _of(b: BenchmarkResult) -> list[str]:
    lines = list(b.reasons)
    if b.primary is not None:
        lost = sum(f.kind == "lost" for f in b.flips)
        changed = f"{lost} items lost, {len(b.flips) - lost} gained of {b.items}"
        lines.append(f"{b.primary.name}: {b.primary.reason}; {changed}; {b.primary.test}")
    lines += [f"{c.name}: {c.verdict} - {c.reason}" for c in b.checks if c.verdict != "PASS"]
    if b.unmeasured:
        lines.append(f"{b.unmeasured} items without a score in one run are left out of both")
    return lines
