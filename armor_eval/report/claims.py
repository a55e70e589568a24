"""The paper's tables as typed records: what is printed, in which unit, and what makes a measurement comparable.

Read from `benchmarks/paper/claims.json`; the statements in the paper's text are in `armor_eval.report.prose`.
"""

from __future__ import annotations

import functools
import re
from typing import Literal

from pydantic import Field, model_validator

from armor_eval.base.data import benchmarks_dir
from armor_eval.runs.schema import Record
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
