"""The comparison as one self-contained HTML page: the report's own page with a viewer of the items that changed."""

from __future__ import annotations

from html import escape
from pathlib import Path

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison
from armor_eval.report.formats import html_grid

TONES = {"PASS": "good", "REGRESSION": "bad"}
COLUMNS = (
    "verdict",
    "number",
    "base",
    "candidate",
    "difference",
    "95 % interval",
    "p (Holm)",
    "tolerance",
    "would see (80 %)",
    "items",
    "clusters",
    "bootstrap",
    "p",
)


def render(comparison: Comparison, data: Path | None = None) -> str:
    """The page as text; reads both runs' items and images again through the report's viewer.

    `data`: where the TSV files of the questions lie.
    """
    from armor_eval.report.loading import RunView, load_run
    from armor_eval.report.page import Headline, render_page
    from armor_eval.report.viewer import Flip

    views: dict[str, RunView] = {}
    flips = []
    for b in comparison.benchmarks:
        if b.base is None or b.candidate is None:
            continue
        for side in (b.base, b.candidate):
            if side.run_id not in views:
                views[side.run_id] = load_run(Path(side.path))
        if b.base.run_id != b.candidate.run_id:
            flips += [Flip(f.id, b.base.run_id, b.candidate.run_id, f.kind) for f in b.flips]
    sections = [("Numbers that decide", html_grid(text.numbers_doc(comparison, COLUMNS, text_columns=3)))]
    others = "".join(_others(b) for b in comparison.benchmarks if b.metrics)
    sections += [("Other numbers, groups and checks", others)] if others else []
    return render_page(
        list(views.values()),
        flips=flips,
        docs=[],
        with_plots=False,
        sections=sections,
        headline=Headline(comparison.verdict, TONES.get(comparison.verdict, "warn"), _lines(comparison)),
        title="armor-eval compare",
        data=data,
    )


def _lines(comparison: Comparison) -> list[str]:
    """What needs an eye; the table below has the rest."""
    lines = [text.headline(comparison)]
    for b in comparison.benchmarks:
        if b.primary is not None and b.primary.verdict != "PASS":
            lines.append(f"{b.benchmark}, {b.primary.name}: {b.primary.reason}")
    return lines + text.notices(comparison)


def _others(b: BenchmarkResult) -> str:
    """Folded: numbers that do not gate, groups, and the policy's checks."""
    tables = "<p></p>".join(map(html_grid, text.other_docs(b)))
    return f"<details><summary>{escape(b.benchmark)}</summary>{tables}</details>" if tables else ""
