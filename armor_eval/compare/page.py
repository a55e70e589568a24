"""The comparison as one self-contained HTML page: the report's own page with a viewer of the items that changed."""

from __future__ import annotations

from html import escape
from pathlib import Path

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison

TONES = {"PASS": "good", "REGRESSION": "bad"}


def render(comparison: Comparison) -> str:
    """The page as text; reads both runs' items and pictures again through the report's viewer."""
    from armor_eval.report.loading import RunView
    from armor_eval.report.page import Headline, render_page
    from armor_eval.report.viewer import Flip
    from armor_eval.runs.bundle import read_head

    views: dict[str, RunView] = {}
    flips = []
    for b in comparison.benchmarks:
        if b.base is None or b.candidate is None:
            continue
        for side in (b.base, b.candidate):
            views.setdefault(side.run_id, RunView(Path(side.path), *read_head(Path(side.path))))
        if b.base.run_id != b.candidate.run_id:
            flips += [Flip(f.id, b.base.run_id, b.candidate.run_id, f.kind) for f in b.flips]
    lines = [text.headline(comparison), *_lines(comparison)]
    sections = [("Numbers that decide", _numbers(comparison))]
    sections += [(f"{b.benchmark}: other numbers and groups", _others(b)) for b in comparison.benchmarks if b.metrics]
    return render_page(
        list(views.values()), flips=flips, docs=[], with_plots=False, sections=sections,
        headline=Headline(comparison.verdict, TONES.get(comparison.verdict, "warn"), lines),
        title="armor-eval compare",
    )  # fmt: skip


def _lines(comparison: Comparison) -> list[str]:
    from armor_eval.compare.terminal import remarks

    return remarks(comparison)


def _table(head: list[str], rows: list[list[str]]) -> str:
    """Every cell escaped here: nothing of a run reaches the page as markup."""
    cells = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _numbers(comparison: Comparison) -> str:
    head = ["benchmark", "number", "base", "candidate", "difference", "95 % interval", "bootstrap", "p", "p (Holm)",
            "tolerance", "would see (80 %)", "clusters", "verdict"]  # fmt: skip
    rows = []
    for b in comparison.benchmarks:
        m = b.primary
        if m is None:
            rows.append([b.benchmark, *["-"] * 11, b.verdict])
            continue
        rows.append([
            b.benchmark, m.name, text.plain(m.base, m.unit, False), text.plain(m.candidate, m.unit, False),
            text.plain(m.delta, m.unit), text.bounds(m.ci95, m.unit), text.bounds(m.bootstrap_ci95, m.unit),
            text.p_value(m.p), text.p_value(m.p_holm), text.plain(m.tolerance, m.unit, False), text.mde(m),
            str(m.clusters), m.verdict or "",
        ])  # fmt: skip
    return _table(head, rows)


def _others(b: BenchmarkResult) -> str:
    numbers = [
        [m.name, text.plain(m.base, m.unit, False), text.plain(m.candidate, m.unit, False),
         text.plain(m.delta, m.unit), text.bounds(m.ci95, m.unit), text.p_value(m.p)]
        for m in b.metrics if not m.primary
    ]  # fmt: skip
    made = _table(["number", "base", "candidate", "difference", "95 % interval", "p"], numbers) if numbers else ""
    groups = [[s.group or "-", str(s.n), f"{s.base:.3f}", f"{s.candidate:.3f}"] for s in b.slices]
    if groups:
        made += _table(["group", "items", "base", "candidate"], groups)
    checks = [[c.name, c.verdict, c.reason] for c in b.checks]
    return made + (_table(["check", "verdict", "why"], checks) if checks else "")
