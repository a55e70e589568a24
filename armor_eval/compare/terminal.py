"""The comparison as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison
from armor_eval.report.terminal import STYLES, print_doc
from armor_model.base.optional import not_none
from armor_model.base.text import visible

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = ("base > candidate", "difference, 95 %", "p (Holm)", "verdict")


def show(comparison: Comparison, console: Console) -> None:
    """Verdict, a row a benchmark, and a line for everything that needs an eye."""
    from rich.text import Text

    word = text.verdict(comparison.verdict)
    console.print(
        Text(word.text, STYLES[not_none(word.verdict)]),
        Text(visible(f": {text.headline(comparison)}")),
        sep="",
        soft_wrap=True,
    )
    print_doc(console, text.numbers_doc(comparison, COLUMNS))
    for line in [*filter(None, map(_number, comparison.benchmarks)), *text.notices(comparison)]:
        console.print(Text(visible(line)), soft_wrap=True)


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
