"""The comparison as one self-contained HTML page: the report's own page with a viewer of the items that changed."""

from __future__ import annotations

from html import escape
from pathlib import Path

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison

TONES = {"PASS": "good", "REGRESSION": "bad"}
VERDICT_TONES = {
    "PASS": "v-match", "REGRESSION": "v-differs", "INCONCLUSIVE": "v-undecided", "INCOMPLETE": "v-undecided",
    "NOT COMPARABLE": "v-undecided",
}  # fmt: skip
"""Classes of the report's style sheet."""


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
    sections = [("Numbers that decide", _numbers(comparison))]
    others = "".join(_others(b) for b in comparison.benchmarks if b.metrics)
    sections += [("Other numbers, groups and checks", others)] if others else []
    return render_page(
        list(views.values()), flips=flips, docs=[], with_plots=False, sections=sections,
        headline=Headline(comparison.verdict, TONES.get(comparison.verdict, "warn"), _lines(comparison)),
        title="armor-eval compare", data=data,
    )  # fmt: skip


def _lines(comparison: Comparison) -> list[str]:
    """What needs an eye; the table below has the rest."""
    lines = [text.headline(comparison)]
    for b in comparison.benchmarks:
        if b.primary is not None and b.primary.verdict != "PASS":
            lines.append(f"{b.benchmark}, {b.primary.name}: {b.primary.reason}")
    return lines + text.notices(comparison)


def _table(head: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Every cell escaped here: nothing of a run reaches the page as markup. The first `words` columns are text."""

    def cell(k: int, value: str) -> str:
        if k == 0:
            return f'<th scope="row">{escape(value)}</th>'
        tone = f' class="{VERDICT_TONES[value]}"' if value in VERDICT_TONES else "" if k < words else ' class="num"'
        return f"<td{tone}>{escape(value)}</td>"

    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(cell(k, c) for k, c in enumerate(row)) + "</tr>" for row in rows)
    made = f'<table class="grid"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(head[0])}">{made}</div>'


def _numbers(comparison: Comparison) -> str:
    head = ["benchmark", "verdict", "number", "base", "candidate", "difference", "95 % interval", "p (Holm)",
            "tolerance", "would see (80 %)", "items", "clusters", "bootstrap", "p"]  # fmt: skip
    rows = []
    for b in comparison.benchmarks:
        m = b.primary
        if m is None:
            rows.append([b.benchmark, b.verdict, *["-"] * 12])
            continue
        rows.append([
            b.benchmark, m.verdict or "", m.name, text.plain(m.base, m.unit, False),
            text.plain(m.candidate, m.unit, False), text.plain(m.delta, m.unit), text.bounds(m.ci95, m.unit),
            text.p_value(m.p_holm), text.plain(m.tolerance, m.unit, False), text.mde(m), f"{m.n:,}", f"{m.clusters:,}",
            text.bounds(m.bootstrap_ci95, m.unit), text.p_value(m.p),
        ])  # fmt: skip
    return _table(head, rows, words=3)


def _others(b: BenchmarkResult) -> str:
    """Folded: numbers that do not gate, groups, and the policy's checks."""
    numbers = [
        [m.name, text.plain(m.base, m.unit, False), text.plain(m.candidate, m.unit, False),
         text.plain(m.delta, m.unit), text.bounds(m.ci95, m.unit), text.p_value(m.p)]
        for m in b.metrics if not m.primary
    ]  # fmt: skip
    groups = [[s.group or "-", str(s.n), f"{s.base:.3f}", f"{s.candidate:.3f}"] for s in b.slices]
    checks = [[c.name, c.verdict, c.reason] for c in b.checks]
    made = [
        _table(["number", "base", "candidate", "difference", "95 % interval", "p"], numbers) if numbers else "",
        _table(["group", "items", "base", "candidate"], groups) if groups else "",
        _table(["check", "verdict", "why"], checks, words=3) if checks else "",
    ]
    shown = "<p></p>".join(part for part in made if part)
    return f"<details><summary>{escape(b.benchmark)}</summary>{shown}</details>" if shown else ""
