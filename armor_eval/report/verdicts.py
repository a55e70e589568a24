"""The verdict of one cell: does a measured value agree with the printed one, and may the two be compared at all.

match           the printed value, widened by its rounding, meets our 95 % interval
differs         it does not; the gap is measured minus printed
not comparable  measured under other conditions, or without an interval; no number is implied
not run         nothing was measured; what a run would take
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from armor_eval.report.claims import Column, Row
from armor_eval.report.loading import RunView
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.protocols import protocol_of, remark_of
from armor_eval.runs.schema import Metric, Run

CellVerdict = Literal["match", "differs", "not comparable", "not run", "no print"]


@dataclass(frozen=True)
class Cell:
    """A printed value, what was measured for it, and how they stand."""

    row: str
    column: str
    printed: str | None
    verdict: CellVerdict
    why: str
    metric: Metric | None = None
    run: Run | None = None

    @property
    def gap(self) -> float | None:
        """Measured minus printed, in the column's unit."""
        if self.metric is None or self.metric.value is None or self.printed is None:
            return None
        return self.metric.value - float(self.printed)


def widened(printed: str) -> tuple[float, float]:
    """The values that round to the printed one: `87.7` -> (87.65, 87.75)."""
    decimals = len(printed.partition(".")[2])
    half = 0.5 * 10**-decimals
    return float(printed) - half, float(printed) + half


def incomparable(run: Run, column: Column) -> str | None:
    """Why a run cannot stand beside the printed column; None where it can."""
    if run.profile != "official":
        return "embedded profile: our synthetic world, no official benchmark"
    if reserved := reservations_of(run):
        return "; ".join(r.text for r in reserved)
    if column.protocol is not None and (why := remark_of(protocol_of(run), column.protocol)):
        return why
    if not column.datasets:
        return f"measured on {run.data.name}; {column.note}"
    if run.data.name not in column.datasets:
        return f"measured on {run.data.name}, the print is {' or '.join(column.datasets)}"
    if column.judges is not None and not any(run.judge.name.startswith(j) for j in column.judges):
        return f"judge {run.judge.name}, comparable only with {' or '.join(column.judges)} (our inference)"
    if column.scorers is not None and not any(run.scorer.name.startswith(s) for s in column.scorers):
        return f"scorer {run.scorer.name}, expected {' or '.join(column.scorers)}"
    return None


def find(views: Sequence[RunView], column: Column) -> list[tuple[RunView, Metric]]:
    """Runs whose bundle holds the column's metric, first source first."""
    hits: list[tuple[RunView, Metric]] = []
    for source in column.sources:
        for view in views:
            metric = view.metric(source.metric) if view.run.benchmark.lower() == source.bench.lower() else None
            if metric is not None and all(view is not v for v, _ in hits):
                hits.append((view, metric))
    return hits


def judge_cell(row: Row, column: Column, hit: tuple[RunView, Metric] | None) -> Cell:
    """One printed cell against at most one measurement of it."""
    printed = row.printed[column.key]
    if hit is None:
        needs = [*row.needs, *(n for n in column.needs if n not in row.needs)]
        if printed is None:
            return Cell(row.key, column.key, None, "no print", "a dash in the paper")
        return Cell(row.key, column.key, printed, "not run", f"needs {', '.join(needs)}")
    view, metric = hit

    def cell(verdict: CellVerdict, why: str) -> Cell:
        return Cell(row.key, column.key, printed, verdict, why, metric, view.run)

    if printed is None:
        return cell("no print", "a dash in the paper")
    if (reason := incomparable(view.run, column)) is not None:
        return cell("not comparable", reason)
    if metric.value is None:
        return cell("not comparable", metric.note or "the value was withheld")
    if metric.ci95 is None:
        return cell("not comparable", "no interval was made, so agreement cannot be judged")
    low, high = widened(printed)
    # The last digits of a float must not decide: 0.05 beyond 87.75 is a difference, 1e-12 is arithmetic.
    slack = 1e-9 * max(1.0, abs(high))
    if low - slack <= metric.ci95[1] and metric.ci95[0] <= high + slack:
        return cell("match", f"{low:g} to {high:g} meets our interval")
    gap = metric.value - float(printed)
    unit = "" if column.unit == "score" else " points"
    return cell("differs", f"gap {gap:+.{column.decimals + 1}f}{unit}")
