"""One self-contained HTML page: the verdict first, then tables, plots, and every item with its image and answer.

    armor-eval report RUN... --out-file report.html

`render_page` is also what `armor-eval compare` shows its flips with. The page's policy forbids every request and every
script but its own (by hash); all text is escaped, since model output is untrusted.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.report import formats, viewer
from armor_eval.report.doc import Doc
from armor_eval.report.loading import RunView, inside, notices
from armor_eval.report.results import control_of, results_doc, slices_doc
from armor_eval.report.side import side_section
from armor_eval.report.tables import build
from armor_eval.report.viewer import Flip
from armor_model.base.text import visible

if TYPE_CHECKING:
    import jinja2

MAX_FIGURE = 1_500_000
"""Bytes of a figure that is put into the page."""
TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True)
class Served:
    """What a page has from a server (armor_eval.report.serve) instead of carrying it."""

    link: viewer.Link
    live: list[str]
    """The runs that are still going on, as the server names them: the page asks how far they are."""


@dataclass
class Headline:
    """What stands at the top of the page."""

    word: str
    """PASS, REGRESSION, `3 runs` ..."""
    tone: str = "neutral"
    """good, bad, warn or neutral: colour only, the word says it too."""
    lines: list[str] = field(default_factory=list)
    """One sentence each."""


def summarise(views: Sequence[RunView]) -> Headline:
    """The verdict of a plain report: which runs hold, and what has no headline."""
    whole = [v for v in views if v.run.status == "complete"]
    lines = []
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
            lines.append(f"{view.label}: no headline ({why or view.run.status})")
    broken = len(views) - len(whole)
    word = f"{len(views)} run{'s' if len(views) != 1 else ''}, " + (
        f"{broken} not complete" if broken else "all complete"
    )
    return Headline(word, "warn" if broken else "good", lines)


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
    images: Sequence[tuple[str, Path]] = (),
    data: Path | None = None,
    served: Served | None = None,
) -> str:
    """The page as text: results, slices, drawings and items of the runs; below them the paper's tables.

    `flips`: the viewer holds only these items, each with both runs' answers. `docs`: tables to show, by default the
    paper's and the embedded ones. `sections`: (heading, HTML) put first; the caller escapes that HTML.
    `images`: (title, PNG) to show beside the results. `data`: where the TSV files lie that questions were read from.
    `served`: images come from a server, in full.
    Raises UserError for a flip that the bundles do not hold.
    """
    from markupsafe import Markup

    docs = list(build(views, chosen=row_choices) if docs is None else docs)
    headline = headline or summarise(views)
    results = results_doc(views) if flips is None else None
    slices = [doc for v in views if control_of(v) is None and (doc := slices_doc(v))] if flips is None else []
    if flips is None and (side := side_section(views)) is not None:
        sections = [*sections, side]
    if with_plots:
        from armor_eval.report.plots import plots

        drawn = plots(views)
    else:
        drawn = []
    payload = viewer.pack(views, flips, data, served.link if served else None)
    scripts = [asset("viewer.js")] if payload.items else []
    if served is not None:
        scripts.append(asset("live.js"))
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            policy=policy(scripts, served is not None),
            style=Markup(asset("page.css")),
            scripts=[Markup(script) for script in scripts],
            served=served,
            headline=headline,
            notices=notices(views) if flips is None else [],  # a comparison says them itself
            runs=[_run_row(v) for v in views],
            sections=[(heading, Markup(body)) for heading, body in sections],
            results=Markup(formats.html(results)) if results else None,
            slices=[(d.title, Markup(formats.html(d))) for d in slices],
            tables=[(d.title, Markup(formats.html(d))) for d in docs if not _of_paper(d)],
            paper=[(d.title, Markup(formats.html(d)), any(c.run for c in d.cells)) for d in docs if _of_paper(d)],
            paper_summary=_paper_summary(docs),
            figures=[*(f for v in views for f in _figures(v)), *(_figure(title, path) for title, path in images)],
            plots=[(p.title, Markup(p.svg), p.text) for p in drawn],
            payload=payload,
            page_megabytes=viewer.PAGE_BUDGET // 1_000_000,
            table=Markup(payload.table),
            images=Markup(payload.images),
            flips_only=flips is not None,
        )
    )


def _of_paper(doc: Doc) -> bool:
    """The paper's own tables and statements, which stand below what was measured."""
    return bool(doc.cells) or doc.key == "claims"


def _paper_summary(docs: Sequence[Doc]) -> str:
    """How many printed cells and statements met a measurement, in one line."""
    cells = Counter(cell.verdict for doc in docs for cell in doc.cells)
    counts = Counter(c.verdict for d in docs if d.key == "claims" for line in d.lines for c in line.cells if c.verdict)
    words = [f"{cells[k]} {k}" for k in ("match", "differs", "not comparable", "not run") if cells[k]]
    verdicts = [f"{counts[k]} {k}" for k in ("supported", "contradicted", "undecided", "not run") if counts[k]]
    parts = [f"{name}: {', '.join(counts)}" for name, counts in (("cells", words), ("statements", verdicts)) if counts]
    return "; ".join(parts)


def _figure(title: str, path: Path) -> tuple[str, str]:
    """(title, data address) of a PNG."""
    return title, f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _figures(view: RunView) -> list[tuple[str, str]]:
    """(title, data address) of the images that a run made of its results: contact sheets of an ablation."""
    figures = []
    for figure in view.run.extras.get("figures", []):
        path = inside(view.path, str(figure.get("path")))
        if path is not None and path.suffix == ".png" and path.stat().st_size <= MAX_FIGURE:
            figures.append(_figure(f"{view.label}: {figure.get('title', '')}", path))
    return figures


def _run_row(view: RunView) -> dict[str, object]:
    """A run for the list at the end of the page."""
    run, counts = view.run, view.scores.counts if view.scores else {}
    blank = [f"blank: {view.scores.blank}"] if view.scores and view.scores.blank is not None else []
    subset = f"subset {run.subset.items}/{run.subset.of_items}" if run.subset else ""
    return {
        "id": run.run_id,
        "label": view.label,
        "status": " ".join(filter(None, [run.status, subset, f"({run.status_reason})" if run.status_reason else ""])),
        "counts": ", ".join([f"{n} {name}" for name, n in counts.items()] + blank) or "-",
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
            ("drawing", str(run.extras.get("drawing") or "-")),
            ("seeds", str(run.seeds or "-")),
            ("device", f"{run.device.count} x {run.device.kind}, {run.device.processes} process(es)"),
            ("commit", run.git_commit or "-"),
            ("packages", ", ".join(f"{k} {v}" for k, v in run.packages.items()) or "-"),
            ("started", f"{run.started} to {run.finished or '-'}"),
        ],
    }


def policy(scripts: Sequence[str], served: bool) -> str:
    """The page's Content-Security-Policy: its own scripts by their hash, no request but to the server it is from."""
    own = " 'self'" if served else ""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes) or "'none'"
    connect = f"connect-src{own}; form-action{own}; " if served else ""
    return (
        f"default-src 'none'; img-src data:{own}; {connect}style-src 'unsafe-inline'; base-uri 'none'; "
        f"script-src {allowed}"
    )


@functools.cache
def asset(name: str) -> str:
    """A script or style sheet of the pages."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache
def environment() -> jinja2.Environment:
    """Jinja's, which escapes whatever is put into a template."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
