"""Tables beside the paper's: of guest profiles, which share no column with an official benchmark, of suites, and of
published numbers."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence

from pydantic import Field, model_validator

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import GUESTS, OFFICIAL, ProfileSpec, profile_of
from armor_eval.report.doc import Doc, Shown, decimals_of, number
from armor_eval.report.loading import RunView
from armor_eval.report.tables import Footnotes, by_model, measured_text, training_of
from armor_eval.runs.comparable import OUTCOMES, rankable, reservations_of
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Metric, Record
from armor_model.base.optional import not_none

KINDS = {
    "understanding": "understanding",
    "geneval": "drawing",
    "suite": "suites of prompts and questions",
    "modality": "choice of modality",
    "conversation": "conversations of several turns",
    "interleaved": "interleaved answers",
    "ablate-heads": "forward switching against one head",
    "ablate-stages": "training stages",
}
"""Kind of run -> the table's title."""


def _doc(profile: ProfileSpec, kind: str, columns: list[str], caption: str = "") -> Doc:
    """An empty table, marked as no official benchmark."""
    notice = f"{profile.notice} {caption}".rstrip()
    title = f"{profile.title}{KINDS[kind]}"
    return Doc(f"{profile.name}-{kind}", title[:1].upper() + title[1:], notice, columns)


def embedded_tables(views: Sequence[RunView]) -> list[Doc]:
    """Understanding, drawing, suites, modality choice, interleaved answers and the ablations, for whichever of them
    there are runs; of published data suites and graded answers alone, for the paper has tables of the rest."""
    official = [view for view in views if (view.run.profile, view.run.kind) == (OFFICIAL, "suite")]
    graded = [view for view in views if (view.run.profile, view.run.kind) == (OFFICIAL, "interleaved")]
    docs: list[Doc | None] = [
        _by_benchmark(profile_of(OFFICIAL), "suite", official),
        _by_benchmark(profile_of(OFFICIAL), "interleaved", graded),
    ]
    for profile in map(profile_of, GUESTS):
        own = {kind: [v for v in views if (v.run.profile, v.run.kind) == (profile.name, kind)] for kind in KINDS}
        docs += [
            _by_benchmark(profile, "understanding", own["understanding"]),
            _by_benchmark(profile, "suite", own["suite"]),
            _by_metric(profile, "geneval", own["geneval"], views, with_cost=True),
            _by_metric(profile, "modality", [v for v in own["modality"] if v.run.benchmark == "modality"], views),
            _by_metric(profile, "conversation", [v for v in own["modality"] if v.run.benchmark != "modality"], views),
            _by_metric(profile, "interleaved", own["interleaved"], views),
        ]
        for kind in ("ablate-heads", "ablate-stages"):
            docs += [_ablation(profile, view) for view in own[kind] if view.scores is not None]
    seen: dict[str, int] = {}
    for doc in filter(None, docs):
        seen[doc.key] = seen.get(doc.key, 0) + 1
        if seen[doc.key] > 1:
            doc.key += f"-{seen[doc.key]}"
    return [d for d in docs if d is not None]


def _by_benchmark(profile: ProfileSpec, kind: str, views: Sequence[RunView]) -> Doc | None:
    """A row a model, a column a benchmark; every run of a benchmark is shown."""
    views = [v for v in views if v.primary is not None]
    if not views:
        return None
    names = list(dict.fromkeys(v.run.benchmark for v in views))
    heads = {n: not_none(next(v.primary for v in views if v.run.benchmark == n)) for n in names}
    columns = ["Model", *(f"{n} ({m.name}, {m.unit})" for n, m in heads.items())]
    doc = _doc(profile, kind, columns, "Headline number of each benchmark with its 95 % interval.")
    notes = Footnotes()
    for (model, _), group in by_model(views).items():
        runs = {n: [v for v in group if v.run.benchmark == n] for n in names}
        for turn in range(max(len(r) for r in runs.values())):
            own = (_measured(r[turn], notes, views) if turn < len(r) else "not run" for r in runs.values())
            doc.add([model, *own])
    doc.notes = notes.lines()
    return doc


def _measured(view: RunView, notes: Footnotes, views: Sequence[RunView]) -> Shown:
    metric = not_none(view.primary)
    text = f"{measured_text(metric, decimals_of(metric))} {notes.mark(view.run)}{notes.reservations(view.run)}"
    peers = [
        (v.run.model.fingerprint, v.primary.value)
        for v in views
        if v.primary and v.primary.value is not None and rankable(v.run, view.run)
    ]
    if metric.value is None or len({model for model, _ in peers}) < 2:
        return Shown(text)
    sign = 1 if metric.direction == "higher" else -1
    values = sorted({sign * value for _, value in peers}, reverse=True)
    place = values.index(sign * metric.value) if sign * metric.value in values else None
    return Shown(text, "best" if place == 0 else "second" if place == 1 and len(values) > 2 else None)


def _by_metric(
    profile: ProfileSpec, kind: str, views: Sequence[RunView], everything: Sequence[RunView], with_cost: bool = False
) -> Doc | None:
    """A row a run, a column a metric, the headline first."""
    views = [v for v in views if v.scores is not None and v.scores.metrics]
    if not views:
        return None
    metrics: dict[str, Metric] = {}
    for view in views:
        for metric in sorted(not_none(view.scores).metrics, key=lambda m: not m.primary):
            metrics.setdefault(metric.name, metric)
    cost_heads = ["Images seen", "Training cost (device days)"] if with_cost else []
    doc = _doc(profile, kind, ["Model", *cost_heads, *(f"{m.name} ({m.unit})" for m in metrics.values())])
    doc.text_columns = 1 + len(cost_heads)
    notes = Footnotes()
    for view in views:
        cells = [f"{view.who} {notes.mark(view.run)}{notes.reservations(view.run)}"]
        if with_cost:
            cost = training_of([view], everything)
            cells.append(f"{cost[1].images_seen:,}" if cost else "-")
            cells.append(f"{cost[1].device_days:.3g}/{cost[0].device.kind}" if cost else "-")
        for name in metrics:
            own = view.metric(name)
            cells.append(measured_text(own, decimals_of(own)) if own else "-")
        doc.add(cells)
    doc.notes = notes.lines()
    return doc


def _ablation(profile: ProfileSpec, view: RunView) -> Doc:
    """Metrics named `what/arm` as a grid: a row an arm, a column a quantity."""
    grid: dict[str, dict[str, Metric]] = {}
    columns: dict[str, Metric] = {}
    for metric in not_none(view.scores).metrics:
        what, _, arm = metric.name.partition("/")
        grid.setdefault(arm or "all", {})[what] = metric
        columns.setdefault(what, metric)
    doc = _doc(profile, view.run.kind, ["Arm", *(f"{w} ({m.unit})" for w, m in columns.items())])
    for arm, metrics in grid.items():
        doc.add([arm, *(_short(metrics[what]) if what in metrics else "-" for what in columns)])
    for what in columns:
        measured = [m[what] for m in grid.values() if what in m and m[what].value is not None]
        if measured:  # a value that is missing says why in its own cell
            methods = " or ".join(dict.fromkeys(m.method for m in measured if m.method))
            doc.notes.append(f"{what}: {'; '.join(filter(None, [f'n {measured[0].n}', methods, measured[0].note]))}")
    if view.run.extras.get("verdict"):
        doc.notes[:0] = str(view.run.extras["verdict"]).splitlines()
    notes = Footnotes()
    notes.mark(view.run)
    doc.notes += notes.lines()
    return doc


def _short(metric: Metric) -> str:
    if metric.value is None:
        return metric.note or "n/a"
    places = decimals_of(metric)
    text = number(metric.value, places)
    if metric.ci95 is not None:
        text += f" [{number(metric.ci95[0], places)}, {number(metric.ci95[1], places)}]"
    return text


# --- published numbers of other models beside ours, within one protocol only (benchmarks/published.toml) -------------
# Nothing printed here was measured by us: every value stands as its source has it, with the source.


UNSTATED = "unstated"
"""The protocol of a print whose source does not say enough."""


class Recipe(Record):
    """How a published number's images were drawn."""

    suite: str
    samples: int = Field(ge=1)
    """Images a prompt."""
    guidance: float
    steps: int | None = None
    pixels: str
    seeds: str
    after: str | None = None
    """What was done to the images before they were judged."""
    note: str | None = None

    def __str__(self) -> str:
        parts = [f"{self.samples} images a prompt", f"guidance {self.guidance:g}"]
        parts += [f"{self.steps} steps"] if self.steps else []
        parts += [f"{self.pixels} px" if self.pixels.isdigit() else f"{self.pixels} pixels", f"seeds: {self.seeds}"]
        return "; ".join([*parts, *filter(None, (self.after, self.note))])


class Prints(Record):
    """Numbers of one source under one protocol."""

    suite: str
    protocol: str
    """The `protocol` of a run's label, or `unstated`."""
    metric: str = "headline"
    recipe: str | None = None
    source: str
    values: dict[str, str]
    """Model -> value as printed."""


class Published(Record):
    recipes: dict[str, Recipe]
    prints: list[Prints]

    @model_validator(mode="after")
    def _hangs_together(self) -> Published:
        for one in self.prints:
            if one.recipe is not None and self.recipes[one.recipe].suite != one.suite:
                raise ValueError(f"recipe {one.recipe} is not of the suite {one.suite}")
            for value in one.values.values():
                float(value)
        return self


@functools.cache
def published() -> Published:
    return Published.model_validate(tomllib.loads((benchmarks_dir() / "published.toml").read_text(encoding="utf-8")))


def published_tables(views: Sequence[RunView]) -> list[Doc]:
    """A table for each protocol that was measured here and has prints: our runs, then the prints, best first.

    A run of the embedded profile, or with a reservation about how it was measured, stands beside no print.
    """
    beside: dict[str, list[RunView]] = {}
    for view in views:
        protocol = protocol_of(view.run).get("protocol")
        conditions = [r for r in reservations_of(view.run) if r.kind not in OUTCOMES]
        if protocol is not None and view.primary is not None and view.run.profile == "official" and not conditions:
            beside.setdefault(protocol, []).append(view)
    docs = []
    for protocol, measured in beside.items():
        names = {"headline", *(view.primary.name for view in measured if view.primary)}
        prints = [p for p in published().prints if p.protocol == protocol and p.metric in names]
        if prints:
            docs.append(_table(protocol, measured, prints))
    return docs


def _table(protocol: str, measured: Sequence[RunView], prints: Sequence[Prints]) -> Doc:
    doc = Doc(
        f"published-{protocol}",
        f"{protocol}: published numbers beside ours",
        "Printed values stand as their source has them and were not measured here; nothing is ranked across the two.",
        ["Model", "Score", "Measured, or how it was drawn", "Source"],
        text_columns=1,
        wide=True,
    )
    notes = Footnotes()
    for view in measured:
        metric, label = view.primary, protocol_of(view.run)
        assert metric is not None  # chosen so
        text = f"{measured_text(metric, decimals_of(metric))}{notes.reservations(view.run)}"
        how = ", ".join(f"{part} {value}" for part, value in label.items() if part != "protocol")
        doc.add([view.who, text, how, f"measured here {notes.mark(view.run)}"])
    rows = [(model, value, p) for p in prints for model, value in p.values.items()]
    for model, value, one in sorted(rows, key=lambda row: -float(row[1])):
        recipe = "not stated" if one.recipe is None else str(published().recipes[one.recipe])
        doc.add([model, value, recipe, f"printed: {one.source}"], "printed")
    doc.notes = notes.lines()
    return doc
