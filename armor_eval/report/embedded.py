"""Tables of the embedded profile. They never share a column with an official benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.report.doc import Doc, Line, Shown, decimals_of, number
from armor_eval.report.loading import RunView
from armor_eval.report.tables import Footnotes, by_model, measured_text, training_of
from armor_eval.runs.comparable import rankable
from armor_eval.runs.schema import Metric

WORLD = "Measured on our synthetic shapes world (profile shapes): no official benchmark, never to be set beside one."


def embedded_tables(views: Sequence[RunView]) -> list[Doc]:
    """Understanding, drawing, modality choice and the ablations, for whichever of them there are runs."""
    shapes = [v for v in views if v.run.profile == "shapes"]
    docs = [
        _by_benchmark([v for v in shapes if v.run.kind == "understanding"]),
        _by_metric(
            "shapes-geneval", "Shapes: drawing", [v for v in shapes if v.run.kind == "geneval"], views, with_cost=True
        ),
        _by_metric(
            "shapes-modality", "Shapes: choice of modality", [v for v in shapes if v.run.kind == "modality"], views
        ),
    ]
    for kind, title in (
        ("ablate-heads", "Shapes: forward switching against one head"),
        ("ablate-stages", "Shapes: training stages"),
    ):
        docs += [_ablation(v, title) for v in shapes if v.run.kind == kind and v.scores is not None]
    seen: dict[str, int] = {}
    for doc in filter(None, docs):
        seen[doc.key] = seen.get(doc.key, 0) + 1
        if seen[doc.key] > 1:
            doc.key += f"-{seen[doc.key]}"
    return [d for d in docs if d is not None]


def _by_benchmark(views: Sequence[RunView]) -> Doc | None:
    """A row a model, a column a benchmark; every run of a benchmark is shown."""
    views = [v for v in views if v.primary is not None]
    if not views:
        return None
    names = list(dict.fromkeys(v.run.benchmark for v in views))
    heads = {n: next(v.primary for v in views if v.run.benchmark == n) for n in names}
    doc = Doc(
        "shapes-understanding", "Shapes: understanding",
        f"{WORLD} Headline number of each benchmark with its 95 % interval.",
        ["Model", *(f"{n} ({m.name}, {m.unit})" for n, m in heads.items())],
    )  # fmt: skip
    notes = Footnotes()
    for (model, _), group in by_model(views).items():
        runs = {n: [v for v in group if v.run.benchmark == n] for n in names}
        for turn in range(max(len(r) for r in runs.values())):
            cells = [Shown(model)]
            for name in names:
                cells.append(_measured(runs[name][turn], notes, views) if turn < len(runs[name]) else Shown("not run"))
            doc.lines.append(Line(cells, "measured"))
    doc.notes = notes.lines()
    return doc


def _measured(view: RunView, notes: Footnotes, views: Sequence[RunView]) -> Shown:
    metric = view.primary
    text = f"{measured_text(metric, decimals_of(metric))} {notes.mark(view.run)}{notes.reservations(view.run)}"
    peers = [v for v in views if v.primary and v.primary.value is not None and rankable(v.run, view.run)]
    if metric.value is None or len({v.run.model.fingerprint for v in peers}) < 2:
        return Shown(text)
    sign = 1 if metric.direction == "higher" else -1
    values = sorted({sign * v.primary.value for v in peers}, reverse=True)
    place = values.index(sign * metric.value) if sign * metric.value in values else None
    return Shown(text, "best" if place == 0 else "second" if place == 1 and len(values) > 2 else None)


def _by_metric(
    key: str, title: str, views: Sequence[RunView], everything: Sequence[RunView], with_cost: bool = False
) -> Doc | None:
    """A row a run, a column a metric, the headline first."""
    views = [v for v in views if v.scores is not None and v.scores.metrics]
    if not views:
        return None
    metrics: dict[str, Metric] = {}
    for view in views:
        for metric in sorted(view.scores.metrics, key=lambda m: not m.primary):
            metrics.setdefault(metric.name, metric)
    cost_heads = ["Images seen", "Training cost (device days)"] if with_cost else []
    doc = Doc(key, title, WORLD, ["Model", *cost_heads, *(f"{m.name} ({m.unit})" for m in metrics.values())])
    doc.text_columns = 1 + len(cost_heads)
    notes = Footnotes()
    for view in views:
        cells = [Shown(f"{view.who} {notes.mark(view.run)}{notes.reservations(view.run)}")]
        if with_cost:
            run = training_of([view], everything)
            cells += [
                Shown(f"{run.training.images_seen:,}" if run else "-"),
                Shown(f"{run.training.device_days:.3g}/{run.device.kind}" if run else "-"),
            ]
        for name in metrics:
            metric = view.metric(name)
            cells.append(Shown(measured_text(metric, decimals_of(metric)) if metric else "-"))
        doc.lines.append(Line(cells, "measured"))
    doc.notes = notes.lines()
    return doc


def _ablation(view: RunView, title: str) -> Doc:
    """Metrics named `what/arm` as a grid: a row an arm, a column a quantity."""
    grid: dict[str, dict[str, Metric]] = {}
    columns: dict[str, Metric] = {}
    for metric in view.scores.metrics:
        what, _, arm = metric.name.partition("/")
        grid.setdefault(arm or "all", {})[what] = metric
        columns.setdefault(what, metric)
    doc = Doc(f"shapes-{view.run.kind}", title, WORLD, ["Arm", *(f"{w} ({m.unit})" for w, m in columns.items())])
    for arm, metrics in grid.items():
        cells = [Shown(arm)]
        for what in columns:
            metric = metrics.get(what)
            cells.append(Shown(_short(metric) if metric else "-"))
        doc.lines.append(Line(cells, "measured"))
    for what in columns:
        told = next((m[what] for m in grid.values() if what in m and m[what].value is not None), None)
        if told is not None:  # a value that is missing says why in its own cell
            doc.notes.append(f"{what}: {'; '.join(filter(None, [f'n {told.n}', told.method, told.note]))}")
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
