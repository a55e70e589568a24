"""The paper's tables as typed records: what is printed, in which unit, and what makes a measurement comparable.

Read from `benchmarks/paper/claims.json`; the statements in the paper's text are in `armor_eval.report.prose`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from armor_eval.base.data import benchmarks_dir
from armor_eval.report.loading import RunView
from armor_eval.runs.comparable import reservations_of
from armor_eval.runs.protocols import protocol_of, remark_of
from armor_eval.runs.schema import Metric, Record, Run
from armor_model.base.errors import UserError, unknown_name


class Source(Record):
    """Where a column's measured value is found: a metric of a benchmark's bundle."""

    bench: str
    metric: str


class Column(Record):
    key: str
    title: str
    unit: str
    direction: Literal["higher", "lower"]
    decimals: int = Field(ge=0)
    """Digits after the point in every printed value."""
    bounds: tuple[float, float | None]
    sources: list[Source]
    """Empty where no bundle can fill the column (Tables 4 and 5: the paper does not say what is averaged)."""
    datasets: list[str]
    """Dataset names that are comparable with the print; empty where the paper's own is not known."""
    judges: list[str] | None = None
    """Prefixes of comparable judges; None where no judge is needed."""
    scorers: list[str] | None = None
    """Prefixes of comparable scorers; None = any."""
    protocol: str | None = None
    """GenEval's protocol (benchmarks/geneval/protocols.toml) that the print is of; None = any."""
    needs: list[str]
    """What a run takes beyond the row's own needs: `judge`, `GPU`."""
    note: str
    """Comparability in a sentence."""


class Fact(Record):
    """A printed column that is no score: epochs, training cost, resolution."""

    key: str
    title: str


class Row(Record):
    key: str
    method: str
    group: str
    rank_group: str
    """Best and second best are marked among rows of one rank group."""
    params: str
    aliases: list[str]
    """Model names (registry or repository) that are this row."""
    needs: list[str]
    facts: dict[str, str | None] = Field(default_factory=dict)
    printed: dict[str, str | None]
    """Value as printed, with its decimals; None = a dash in the paper."""
    note: str | None = None


class Table(Record):
    key: str
    title: str
    caption: str
    facts: list[Fact] = Field(default_factory=list)
    columns: list[Column]
    rows: list[Row]

    @model_validator(mode="after")
    def _rows_fill_the_columns(self) -> Table:
        keys = {c.key for c in self.columns}
        facts = {f.key for f in self.facts}
        for row in self.rows:
            if set(row.printed) != keys or not set(row.facts) <= facts:
                raise ValueError(f"{self.key}, row {row.key}: columns do not fit the table's")
        if len({r.key for r in self.rows}) != len(self.rows):
            raise ValueError(f"{self.key}: a row key occurs twice")
        return self

    def row(self, key: str) -> Row:
        for row in self.rows:
            if row.key == key:
                return row
        raise unknown_name(f"row of {self.key}", key, (r.key for r in self.rows))

    def column(self, key: str) -> Column:
        return next(c for c in self.columns if c.key == key)

    def value(self, row: str, column: str) -> float | None:
        """A printed value as a number; None for a dash."""
        printed = self.row(row).printed[column]
        return None if printed is None else float(printed)


class Claims(Record):
    source: str
    tables: list[Table]

    def table(self, key: str) -> Table:
        for table in self.tables:
            if table.key == key:
                return table
        raise unknown_name("table", key, (t.key for t in self.tables))


@functools.cache
def load_claims() -> Claims:
    """Tables 2-5 as printed: 23 + 19 + 4 + 1 rows."""
    return Claims.model_validate_json((benchmarks_dir() / "paper" / "claims.json").read_text(encoding="utf-8"))


def normal_name(name: str) -> str:
    """`OpenGVLab/InternVL2_5-8B@rev` and `internvl2.5-8b` alike: last part, lower case, letters and digits."""
    last = name.split("@")[0].rstrip("/").rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return re.sub(r"[^a-z0-9]+", "", last.lower())


def row_of_model(table: Table, names: list[str], chosen: dict[str, str] | None = None) -> Row | None:
    """The paper's row that a model is: by choice (`model name -> row key`), else by alias; None if it is none."""
    wanted = {normal_name(n) for n in names}
    for name, key in (chosen or {}).items():
        match = next((r for r in table.rows if r.key == key), None)
        if match is not None and normal_name(name) in wanted:
            return match
    for row in table.rows:
        if wanted & {normal_name(a) for a in row.aliases}:
            return row
    return None


def parse_row_choices(choices: list[str], claims: Claims) -> dict[str, str]:
    """`MODEL=ROW` options to a mapping. Raises UserError for a form or a row name that is not known."""
    known = [r.key for t in claims.tables for r in t.rows]
    rows_by_name: dict[str, str] = {}
    for choice in choices:
        name, equals, key = choice.rpartition("=")
        if not equals or not name:
            raise UserError(f"--row {choice!r} is not of the form MODEL=ROW", "for example --row my-model=internvl-2-5")
        if key not in known:
            raise unknown_name("row name", key, known)
        rows_by_name[name] = key
    return rows_by_name


# --- the verdict of one cell: does a measured value agree with the printed one, and may the two be compared ----------
# match: the printed value, widened by its rounding, meets our 95 % interval. differs: it does not; the gap is measured
# minus printed. not comparable: measured under other conditions, or without an interval; no number is implied. not run:
# nothing was measured; what a run would take.


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
