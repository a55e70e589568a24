"""Builds the tables: the paper's rows with what was measured beside them, the embedded profile's apart.

    armor-eval tables runs/ --out tables/

A table is data (`armor_eval.report.doc`); `formats` and `terminal` write it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

from armor_eval.report.claims import (
    Cell,
    Claims,
    Column,
    Row,
    Table,
    find,
    judge_cell,
    load_claims,
    normal_name,
    row_of_model,
)
from armor_eval.report.doc import Doc, Line, Shown, number
from armor_eval.report.loading import RunView
from armor_eval.report.prose import Judged, judge_statements
from armor_eval.runs.comparable import rankable, reservations_of
from armor_eval.runs.protocols import declared
from armor_eval.runs.schema import Metric, Run, TrainingInfo


class Footnotes:
    """Numbers the runs that a table quotes and letters the reasons it gives, in order of first use."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, Run]] = {}
        self._reasons: list[str] = []

    def reason(self, why: str) -> str:
        """`(a)` for the first reason, and so on; equal reasons share a letter."""
        if why not in self._reasons:
            self._reasons.append(why)
        place = self._reasons.index(why)
        return f"({'' if place < 26 else place // 26}{chr(ord('a') + place % 26)})"

    def reservations(self, run: Run, said: str = "") -> str:
        """` (a)(b)`: a letter for each reservation of the run that the cell does not say already."""
        texts = [r.text for r in reservations_of(run) if r.text not in said]
        return f" {''.join(self.reason(text) for text in texts)}" if texts else ""

    def mark(self, run: Run) -> str:
        number, _ = self._of.setdefault(run.run_id, (len(self._of) + 1, run))
        return f"[{number}]"

    def lines(self) -> list[str]:
        return [f"{self.reason(why)} {why}" for why in self._reasons] + [
            f"[{n}] run {run.run_id}: {run.benchmark}, {run.model.name}"
            f"{', pictures left out (blind)' if run.extras.get('blind') else ''}, {run.profile} profile, "
            f"{run.data.name}, {run.status}; {shlex.join(run.command)}"
            for n, run in self._of.values()
        ]


def measured_text(metric: Metric, decimals: int) -> str:
    """`87.1 [86.4, 87.8], n 8910`; a withheld value says so."""
    if metric.value is None:
        return f"withheld, n {metric.n}"
    interval = "[n/a]"
    if metric.ci95 is not None:
        interval = f"[{number(metric.ci95[0], decimals)}, {number(metric.ci95[1], decimals)}]"
    return f"{number(metric.value, decimals)} {interval}, n {metric.n}"


def rank_printed(table: Table) -> dict[tuple[str, str], Literal["best", "second"]]:
    """(row, column) -> mark, among the printed values of each rank group; ties share a mark."""
    marks: dict[tuple[str, str], Literal["best", "second"]] = {}
    for column in table.columns:
        for group in {r.rank_group for r in table.rows}:
            rows = [r for r in table.rows if r.rank_group == group and r.printed[column.key] is not None]
            values = {r.key: table.value(r.key, column.key) for r in rows}
            _mark(marks, {(key, column.key): v for key, v in values.items()}, column.direction)
    return marks


def _mark(marks: dict, values: dict, direction: str) -> None:
    if len(values) < 2:
        return
    ordered = sorted(set(values.values()), reverse=direction == "higher")
    for key, value in values.items():
        if value == ordered[0]:
            marks[key] = "best"
        elif len(ordered) > 2 and value == ordered[1]:
            marks[key] = "second"


def by_model(views: Sequence[RunView]) -> dict[tuple[str, str], list[RunView]]:
    """Runs of one model together, blind ones apart: (name, fingerprint) -> runs, in the order given."""
    models: dict[tuple[str, str], list[RunView]] = {}
    for view in views:
        models.setdefault((view.who, view.run.model.fingerprint), []).append(view)
    return models


def paper_table(table: Table, views: Sequence[RunView], chosen: dict[str, str] | None = None) -> Doc:
    """One of the paper's tables with measured rows under the rows that they repeat."""
    official = [v for v in views if v.run.profile == "official"]
    notes, marks = Footnotes(), rank_printed(table)
    titles = [c.title if c.unit == "score" else f"{c.title} ({c.unit})" for c in table.columns]
    doc = Doc(
        table.key,
        table.title,
        table.caption,
        ["Method", "Params", *(f.title for f in table.facts), *titles, "Measured here"],
        text_columns=2 + len(table.facts),
    )
    rows_of: dict[str | None, list[list[RunView]]] = {}
    for group in by_model([v for v in official if any(find([v], c) for c in table.columns)]).values():
        row = row_of_model(table, [group[0].run.model.name, group[0].run.model.spec], chosen)
        rows_of.setdefault(row.key if row else None, []).append(group)
    measured_marks = _rank_measured(table, official)
    seen_group = None
    for row in table.rows:
        if row.group != seen_group:
            doc.lines.append(Line([Shown(row.group)], "group"))
            seen_group = row.group
        groups = rows_of.get(row.key, [])
        doc.lines.append(_printed_line(table, row, marks, bool(groups)))
        if not groups:
            doc.cells += [judge_cell(row, c, None) for c in table.columns]
        for group in groups:
            _measured_lines(doc, table, row, group, notes, measured_marks, official)
    if None in rows_of:
        doc.lines.append(Line([Shown("measured, no row of the paper")], "group"))
        for group in rows_of[None]:
            run = group[0].run
            row = Row(
                key=run.model.name,
                method=run.model.name,
                group="measured",
                rank_group="measured",
                params="",
                aliases=[],
                needs=[],
                printed={c.key: None for c in table.columns},
            )
            _measured_lines(doc, table, row, group, notes, measured_marks, official)
    doc.notes += [f"{c.title}: {c.note}" for c in table.columns if c.note]
    if any(c.protocol for c in table.columns):
        doc.notes += [f"GenEval's known limits: {limit}" for limit in declared().limits]
    doc.notes += [f"{r.method}: {r.note}" for r in table.rows if r.note]
    doc.notes.append(
        "Bold: best, underlined: second best, among rows that may be compared: printed rows of one kind of model, or "
        "runs of the same questions in the same words under the same protocol, scorer, judge and reservations."
    )
    doc.notes += notes.lines()
    return doc


def _printed_line(table: Table, row: Row, marks: dict, measured: bool) -> Line:
    needs = [*row.needs, *sorted({n for c in table.columns for n in c.needs} - set(row.needs))]
    cells = [Shown(row.method), Shown(row.params), *(Shown(row.facts.get(f.key) or "-") for f in table.facts)]
    cells += [Shown(row.printed[c.key] or "-", marks.get((row.key, c.key))) for c in table.columns]
    last = Shown("below") if measured else Shown(f"not run: needs {', '.join(needs)}", verdict="not run")
    return Line([*cells, last], "printed")


def _measured_lines(
    doc: Doc, table: Table, row: Row, group: list[RunView], notes: Footnotes, marks: dict, all_views: Sequence[RunView]
) -> None:
    """A line for the first run of every column, another for the second ...: repeats are shown, never averaged."""
    hits_by_column = {c.key: find(group, c) for c in table.columns}
    model = group[0].run.model
    for turn in range(max(len(f) for f in hits_by_column.values())):
        cells = [Shown(f"measured: {group[0].who}"), Shown(_size(model.parameters))]
        cells += _facts(table, group, all_views)
        for column in table.columns:
            hits = hits_by_column[column.key]
            cell = judge_cell(row, column, hits[turn] if turn < len(hits) else None)
            if turn == 0 or cell.metric is not None:
                doc.cells.append(cell)
            cells.append(_shown(cell, column, notes, marks))
        doc.lines.append(Line([*cells, Shown("")], "measured"))


def _shown(cell: Cell, column: Column, notes: Footnotes, marks: dict) -> Shown:
    if cell.metric is None or cell.run is None:
        return Shown("-" if cell.printed is None else "not run", verdict="not run", why=cell.why)
    text = f"{measured_text(cell.metric, column.decimals)} {notes.mark(cell.run)}"
    if cell.verdict != "no print":
        suffixes = {"differs": f", {cell.why}", "not comparable": f" {notes.reason(cell.why)}"}
        text += f": {cell.verdict}" + suffixes.get(cell.verdict, "")
    text += notes.reservations(cell.run, said=cell.why)
    return Shown(text, marks.get((cell.run.run_id, column.key)), cell.verdict, cell.why)


def _facts(table: Table, group: list[RunView], views: Sequence[RunView]) -> list[Shown]:
    """Table 3's cost columns from the training record of the measured model; a dash where there is none."""
    cost = training_of(group, views)
    cells = []
    for fact in table.facts:
        text = "-"
        if cost is not None and fact.key == "train_images":
            text = f"{cost[1].images_seen:,}"
        elif cost is not None and fact.key == "train_cost_gpu_days":
            text = f"{cost[1].device_days:.3g}/{cost[0].device.kind}"
        cells.append(Shown(text))
    return cells


def training_of(group: Sequence[RunView], views: Sequence[RunView]) -> tuple[Run, TrainingInfo] | None:
    """The run that trained a model (its own, or a training bundle of its fingerprint), and what that run records."""
    fingerprints = {v.run.model.fingerprint for v in group}
    for view in [*group, *(v for v in views if v.run.kind == "training" and v.run.model.fingerprint in fingerprints)]:
        if view.run.training is not None:
            return view.run, view.run.training
    return None


def _rank_measured(table: Table, views: Sequence[RunView]) -> dict[tuple[str, str], Literal["best", "second"]]:
    """(run id, column) -> mark among different models' complete runs of the same questions."""
    marks: dict[tuple[str, str], Literal["best", "second"]] = {}
    for column in table.columns:
        unranked = [(v, m) for v, m in find(views, column) if m.value is not None]
        while unranked:
            first = unranked[0][0].run
            peers = [(v, m) for v, m in unranked if rankable(first, v.run)]
            unranked = [pair for pair in unranked[1:] if pair not in peers]
            if len({v.run.model.fingerprint for v, _ in peers}) > 1:
                _mark(marks, {(v.run.run_id, column.key): m.value for v, m in peers}, column.direction)
    return marks


def _size(parameters: int | None) -> str:
    if parameters is None:
        return "-"
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e8 else f"{parameters / 1e6:.2f}M"


def prose_doc(judged: Sequence[Judged]) -> Doc:
    """The paper's statements with evidence and verdict."""
    doc = Doc(
        "claims",
        "What the paper states, and what speaks for it",
        "Statements in our words; arithmetic is on the paper's own tables.",
        ["Statement", "Where", "Verdict", "Evidence", "Scope"],
        text_columns=5,
        wide=True,
    )
    for j in judged:
        words = [j.statement, j.where, j.verdict, j.evidence, j.scope + (f", run {j.run_id}" if j.run_id else "")]
        doc.lines.append(Line([Shown(w, verdict=j.verdict if i == 2 else None) for i, w in enumerate(words)]))
    return doc


def build(
    views: Sequence[RunView],
    *,
    only: Sequence[str] = (),
    chosen: dict[str, str] | None = None,
    claims: Claims | None = None,
) -> list[Doc]:
    """All tables, or those named in `only`; the paper's first. Raises UserError for an unknown name."""
    from armor_eval.report.embedded import embedded_tables, published_tables
    from armor_eval.report.results import found, repeats_doc
    from armor_eval.report.side import side_doc
    from armor_model.base.errors import unknown_name

    claims = claims or load_claims()
    models = [n for v in views for n in (v.run.model.name, v.run.model.spec)]
    for name in chosen or ():
        if normal_name(name) not in map(normal_name, models):
            raise unknown_name("model in --row", name, dict.fromkeys(models))
    docs = [paper_table(t, views, chosen) for t in claims.tables]
    docs.append(prose_doc(judge_statements([v.run for v in views])))
    docs += [*published_tables(views), *embedded_tables(views), *filter(None, [side_doc(views)])]
    if repeats := found(views):
        docs.append(repeats_doc(repeats))
    for name in only:
        if name not in {d.key for d in docs}:
            raise unknown_name("table", name, [d.key for d in docs])
    return [d for d in docs if not only or d.key in only]
