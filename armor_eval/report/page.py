"""One self-contained HTML page: the verdict first, then tables, plots, and every item with its picture and answer.

    armor-eval report RUN... --out report.html

`render_page` is also what `armor-eval compare` shows its flips with. The page's policy forbids every request and every
script but its own (by hash); all text is escaped, since model output is untrusted.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from armor_eval.report import formats, viewer
from armor_eval.report.loading import RunView, notices
from armor_eval.report.tables import Doc, build, decimals_of, number
from armor_eval.report.viewer import Flip
from armor_eval.runs.comparable import reservations_of

MAX_FIGURE = 1_500_000
"""Bytes of a figure that is put into the page."""
TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass
class Headline:
    """What stands at the top of the page."""

    word: str
    """PASS, REGRESSION, `3 runs` ..."""
    tone: str = "neutral"
    """good, bad, warn or neutral: colour only, the word says it too."""
    lines: list[str] = field(default_factory=list)
    """One sentence each."""
    numbers: list[str] = field(default_factory=list)
    """A line a run; folded where they are many."""


def summarise(views: Sequence[RunView], docs: Sequence[Doc]) -> Headline:
    """The verdict of a plain report: which runs hold, what they measured, how they stand to the paper."""
    whole = [v for v in views if v.run.status == "complete"]
    lines, numbers = [], []
    for view in views:
        metric = view.primary
        if view.run.extras.get("verdict"):
            first, *rest = str(view.run.extras["verdict"]).splitlines()
            lines += [f"{view.label}: {first}", *rest]
            continue
        if metric is None or metric.value is None:
            why = (
                (metric.note if metric else None)
                or (view.scores.withheld if view.scores else None)
                or view.run.status_reason
            )
            numbers.append(f"{view.label}: no headline ({why or view.run.status})")
            continue
        places = decimals_of(metric)
        interval = (
            f", 95 % interval {number(metric.ci95[0], places)} to {number(metric.ci95[1], places)}"
            if metric.ci95
            else ""
        )
        reserved = "; ".join(r.text for r in reservations_of(view.run))
        state = f" ({reserved})" if reserved else ""
        unit = "" if metric.unit == "score" else f" {metric.unit}"
        value = number(metric.value, places)
        numbers.append(f"{view.label}: {metric.name} {value}{unit}{interval}, n {metric.n}{state}")
    counts: dict[str, int] = {}
    for doc in docs:
        for cell in doc.cells:
            counts[cell.verdict] = counts.get(cell.verdict, 0) + 1
    words = ", ".join(f"{counts[k]} {k}" for k in ("match", "differs", "not comparable", "not run") if counts.get(k))
    if words:
        lines.append(f"The paper's printed cells: {words}.")
    told = [c.verdict for d in docs if d.key == "claims" for line in d.lines for c in line.cells if c.verdict]
    if told:
        order = ("supported", "contradicted", "undecided", "not run")
        lines.append(f"The paper's statements: {', '.join(f'{told.count(w)} {w}' for w in order if w in told)}.")
    broken = len(views) - len(whole)
    word = f"{len(views)} run{'s' if len(views) != 1 else ''}, " + (
        f"{broken} not complete" if broken else "all complete"
    )
    return Headline(word, "warn" if broken else "good", lines, numbers)


def render_page(
    views: Sequence[RunView],
    *,
    flips: Sequence[Flip] | None = None,
    headline: Headline | None = None,
    title: str = "ARMOR report",
    docs: Sequence[Doc] | None = None,
    with_plots: bool = True,
    sections: Sequence[tuple[str, str]] = (),
    row_choices: dict[str, str] | None = None,
) -> str:
    """The page as text.

    `flips`: the viewer holds only these items, each with both runs' answers. `docs`: tables to show, by default the
    paper's and the embedded ones. `sections`: (heading, HTML) put before the tables; the caller escapes that HTML.
    Raises UserError for a flip that the bundles do not hold.
    """
    from markupsafe import Markup

    docs = list(build(views, chosen=row_choices) if docs is None else docs)
    headline = headline or summarise(views, docs)
    if with_plots:
        from armor_eval.report.plots import plots

        drawn = plots(views)
    else:
        drawn = []
    payload = viewer.pack(views, flips)
    script, style = _asset("viewer.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _environment().get_template("page.html.j2").render(
        title=title,
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"script-src 'sha256-{digest}'",
        style=Markup(style),
        script=Markup(script),
        headline=headline,
        notices=notices(views),
        runs=[_run_row(v) for v in views],
        sections=[(heading, Markup(body)) for heading, body in sections],
        tables=[(d.title, Markup(formats.html(d)), bool(d.cells) and not any(c.run for c in d.cells)) for d in docs],
        figures=[f for v in views for f in _figures(v)],
        plots=[(p.title, Markup(p.svg), p.text) for p in drawn],
        payload=payload,
        table=Markup(payload.table),
        pictures=Markup(payload.pictures),
        flips_only=flips is not None,
    )  # fmt: skip


def _figures(view: RunView) -> list[tuple[str, str]]:
    """(title, data address) of the pictures that a run made of its results: contact sheets of an ablation."""
    made = []
    for figure in view.run.extras.get("figures", []):
        path = viewer.inside(view.path, str(figure.get("path")))
        if path is not None and path.suffix == ".png" and path.stat().st_size <= MAX_FIGURE:
            data = base64.b64encode(path.read_bytes()).decode()
            made.append((f"{view.label}: {figure.get('title', '')}", f"data:image/png;base64,{data}"))
    return made


def _run_row(view: RunView) -> dict[str, object]:
    """A run for the list at the end of the page."""
    run, counts = view.run, view.scores.counts if view.scores else {}
    subset = f"subset {run.subset.items}/{run.subset.of_items}" if run.subset else ""
    return {
        "id": run.run_id,
        "label": view.label,
        "status": " ".join(filter(None, [run.status, subset, f"({run.status_reason})" if run.status_reason else ""])),
        "counts": ", ".join(f"{n} {name}" for name, n in counts.items()) or "-",
        "cost": f"{run.wall_seconds:,.0f} s wall, {run.cpu_seconds:,.0f} s CPU, "
        f"{run.peak_memory_bytes / 2**30:.2f} GiB",
        "facts": [
            ("command", " ".join(run.command)),
            (
                "model",
                f"{run.model.spec}, {run.model.parameters or 'unknown number of'} parameters, {run.model.fingerprint}",
            ),
            ("data", f"{run.data.name}, {run.data.items} items, sha256 {run.data.sha256}"),
            ("prompts", f"sha256 {run.prompt_sha256}"),
            ("scorer", f"{run.scorer.name} {run.scorer.version} {run.scorer.settings or ''}"),
            ("judge", f"{run.judge.name} {run.judge.version or ''} ({run.judge.endpoint})"),
            ("decoding", str(run.decoding or "-")),
            ("seeds", str(run.seeds or "-")),
            ("device", f"{run.device.count} x {run.device.kind}, {run.device.processes} process(es)"),
            ("commit", run.git_commit or "-"),
            ("packages", ", ".join(f"{k} {v}" for k, v in run.packages.items()) or "-"),
            ("started", f"{run.started} to {run.finished or '-'}"),
        ],
    }


@functools.cache
def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def _environment():
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
