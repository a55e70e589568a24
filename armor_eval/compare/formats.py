"""The comparison in its outputs: Markdown, JUnit XML, one HTML page, the terminal."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.compare.record import BenchmarkResult, Comparison, MetricResult, Verdict
from armor_eval.report.doc import STYLES, Doc, Shown, print_doc
from armor_eval.report.formats import html_grid, markdown_grid
from armor_model.base.optional import not_none
from armor_model.base.text import escape, visible

if TYPE_CHECKING:
    from rich.console import Console

NUMBERS = ("number", "base", "candidate", "difference", "95 % interval", "p (Holm)", "tolerance", "would see (80 %)")
MARKDOWN = (*NUMBERS, "verdict and reason")
TERMINAL = ("base > candidate", "difference, 95 %", "p (Holm)", "verdict")
PAGE = ("verdict", *NUMBERS, "items", "clusters", "bootstrap", "p")


# --- Markdown for a CI step summary: verdict first, what changed folded away, under 1 MiB ----------------------------


LIMIT_BYTES = 1_000_000
"""GitHub cuts a step summary at 1 MiB (1,048,576 bytes)."""
FLIPS_SHOWN = 40
"""A benchmark; the HTML page has all of them."""


_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@$-])")


def safe(value: object, limit: int | None = 160) -> str:
    """Untrusted text as one line that neither Markdown nor HTML reads anything into; a reason is never cut (None)."""
    line = visible(" ".join(str(value).split()))
    line = line if limit is None or len(line) <= limit else line[:limit] + "\u2026"
    return _SPECIAL.sub(r"\\\1", escape(line, quote=False))


def markdown(comparison: Comparison) -> str:
    """The whole summary; flips are dropped, most verbose benchmark first, where it would grow too long."""
    shown = {id(b): min(FLIPS_SHOWN, len(b.flips)) for b in comparison.benchmarks}
    while True:
        made = _markdown(comparison, shown)
        if len(made.encode()) <= LIMIT_BYTES or not any(shown.values()):
            return made if len(made.encode()) <= LIMIT_BYTES else made.encode()[:LIMIT_BYTES].decode(errors="ignore")
        shown = {key: n // 2 for key, n in shown.items()}


def _markdown(comparison: Comparison, shown: dict[int, int]) -> str:
    strict = " (--strict)" if comparison.strict else ""
    lines = [
        f"## {comparison.verdict}: {safe(headline(comparison), 400)}",
        "",
        f"Base `{_code(comparison.base)}`, candidate `{_code(comparison.candidate)}`; exit code "
        f"{comparison.exit_code}{strict}.",
        "",
    ]
    if any(b.primary for b in comparison.benchmarks):
        lines += _grid(numbers_doc(comparison, MARKDOWN, text_columns=2))
        lines += ["", "`would see`: the drop that this comparison would have found with 80 % power.", ""]
    lines += [f"- {safe(line, None)}" for line in notices(comparison)]
    for b in comparison.benchmarks:
        lines += _details(b, shown[id(b)])
    policy = f"Policy `{_code(comparison.policy)}` ({comparison.policy_sha256[:12]})"
    lines += ["", f"{policy}, seed {comparison.seed}, {comparison.resamples:,} resamples."]
    return "\n".join(lines) + "\n"


def _details(b: BenchmarkResult, shown: int) -> list[str]:
    lines: list[str] = []
    if others := other_docs(b):
        lines += ["", f"<details><summary>{safe(b.benchmark)}: other numbers, groups, checks</summary>"]
        for doc in others:
            lines += ["", *_grid(doc)]
        lines += ["", "</details>"]
    if b.flips:
        lost = sum(f.kind == "lost" for f in b.flips)
        head = f"{safe(b.benchmark)}: {lost} items lost, {len(b.flips) - lost} gained"
        more = f", the first {shown} shown" if shown < len(b.flips) else ""
        lines += ["", f"<details><summary>{head}{more}</summary>", ""]
        flips = Doc("flips", "", "", ["item", "change", "expected", "base answer", "candidate answer"], text_columns=5)
        for f in b.flips[:shown]:
            change = f"{f.kind} ({f.base_score:g} to {f.candidate_score:g})"
            flips.add([f.id[:60], change, f.gold[:60], f.base_output[:160], f.candidate_output[:160]])
        lines += [*(_grid(flips) if shown else []), "", "</details>"]
    return lines


def _grid(doc: Doc) -> list[str]:
    return markdown_grid(doc, lambda cell: safe(cell, None), align=True)


def _code(value: str) -> str:
    return visible(" ".join(value.replace("`", "'").split()))


# --- JUnit XML: a test case per benchmark and number, as CI systems list them ----------------------------------------
# A regression is a failure, an inconclusive number is skipped (a failure with --strict), incomplete or not comparable
# is an error.


_FORBIDDEN = re.compile("[^\\t\\n\\r\\u0020-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that XML 1.0 cannot hold, even escaped."""


def clean(value: object) -> str:
    return _FORBIDDEN.sub("?", visible(str(value)))


def junit_xml(comparison: Comparison) -> str:
    suite = ElementTree.Element("testsuite", name="armor-eval compare")
    for b in comparison.benchmarks:
        where = f"{b.benchmark} ({b.profile})"
        if not b.metrics:
            _case(suite, where, "comparison", b.verdict, "; ".join(b.reasons), "", comparison.strict)
        for m in b.metrics:
            _case(suite, where, m.name, m.verdict or "PASS", m.reason, _facts(b, m), comparison.strict)
        for c in b.checks:
            _case(suite, where, c.name, c.verdict, c.reason, c.reason, comparison.strict)
    for name, tags in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        suite.set(name, str(len(suite.findall(f"testcase/{tags}"))))
    suite.set("tests", str(len(suite)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(
    suite: ElementTree.Element, where: str, name: str, verdict: Verdict, reason: str, facts: str, strict: bool
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=clean(where), name=clean(name), time="0")
    if verdict != "PASS":
        tag = "failure" if verdict == "REGRESSION" else "error"
        if verdict == "INCONCLUSIVE":
            tag = "failure" if strict else "skipped"
        ElementTree.SubElement(case, tag, message=clean(f"{verdict}: {reason}")).text = clean(facts)
    if facts:
        ElementTree.SubElement(case, "system-out").text = clean(facts)


def _facts(b: BenchmarkResult, m: MetricResult) -> str:
    gate = "primary" if m.primary else "does not gate"
    changed = f"{len(b.flips)} items changed" if b.base else f"{m.losses + m.wins} clusters changed"
    return (
        f"{m.name} ({gate}): base {plain(m.base, m.unit, False)}, candidate "
        f"{plain(m.candidate, m.unit, False)}, difference {plain(m.delta, m.unit)} "
        f"[{bounds(m.ci95, m.unit)}], {m.test}, p {p_value(m.p)}, tolerance "
        f"{plain(m.tolerance, m.unit, False)}, would see {mde(m)}, {m.n} items in {m.clusters} clusters, "
        + "; ".join([changed, *reserved(b)])
    )


# --- one self-contained HTML page: the report's own page with a viewer of the items that changed ---------------------


TONES = {"PASS": "good", "REGRESSION": "bad"}


def page(comparison: Comparison, data: Path | None = None) -> str:
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
    sections = [("Numbers that decide", html_grid(numbers_doc(comparison, PAGE, text_columns=3)))]
    others = "".join(_others(b) for b in comparison.benchmarks if b.metrics)
    sections += [("Other numbers, groups and checks", others)] if others else []
    return render_page(
        list(views.values()),
        flips=flips,
        docs=[],
        with_plots=False,
        sections=sections,
        headline=Headline(comparison.verdict, TONES.get(comparison.verdict, "warn"), _page_lines(comparison)),
        title="armor-eval compare",
        data=data,
    )


def _page_lines(comparison: Comparison) -> list[str]:
    """What needs an eye; the table below has the rest."""
    lines = [headline(comparison)]
    for b in comparison.benchmarks:
        if b.primary is not None and b.primary.verdict != "PASS":
            lines.append(f"{b.benchmark}, {b.primary.name}: {b.primary.reason}")
    return lines + notices(comparison)


def _others(b: BenchmarkResult) -> str:
    """Folded: numbers that do not gate, groups, and the policy's checks."""
    tables = "<p></p>".join(map(html_grid, other_docs(b)))
    return f"<details><summary>{escape(b.benchmark)}</summary>{tables}</details>" if tables else ""


# --- the terminal ----------------------------------------------------------------------------------------------------


def show(comparison: Comparison, console: Console) -> None:
    """Verdict, a row a benchmark, and a line for everything that needs an eye."""
    from rich.text import Text

    word = verdict(comparison.verdict)
    console.print(
        Text(word.text, STYLES[not_none(word.verdict)]),
        Text(visible(f": {headline(comparison)}")),
        sep="",
        soft_wrap=True,
    )
    print_doc(console, numbers_doc(comparison, TERMINAL))
    for line in [*filter(None, map(_deciding, comparison.benchmarks)), *notices(comparison)]:
        console.print(Text(visible(line)), soft_wrap=True)


def _deciding(b: BenchmarkResult) -> str | None:
    """What the deciding number rests on."""
    m, lost = b.primary, sum(f.kind == "lost" for f in b.flips)
    if m is None:
        return None
    changed = f"{lost} items lost, {len(b.flips) - lost} gained of {b.items}"
    if b.base is None:  # retention: made of several runs
        changed = f"{m.losses} groups lost, {m.wins} gained of {m.clusters}"
    seen = f"would see a drop of {mde(m)} (80 % power)" if m.mde is not None else ""
    parts = [m.reason, changed, *(part for part in (m.test, seen) if part and part != m.reason)]
    return f"{b.benchmark}: {m.name}: {'; '.join(parts)}"


def digits(unit: str) -> int:
    return {"score": 4, "points": 1}.get(unit, 2)


def plain(value: float | None, unit: str, sign: bool = True) -> str:
    """A number in its unit, `n/a` where there is none."""
    if value is None:
        return "n/a"
    shown = f"{value:{'+' if sign else ''}.{digits(unit)}f}"
    return shown if unit == "score" else f"{shown} {unit}"


def bare(value: float | None, unit: str) -> str:
    """A number without its unit."""
    return "n/a" if value is None else f"{value:.{digits(unit)}f}"


def bounds(ci: tuple[float, float] | None, unit: str) -> str:
    return "n/a" if ci is None else f"{ci[0]:+.{digits(unit)}f} to {ci[1]:+.{digits(unit)}f}"


def p_value(p: float | None) -> str:
    return "n/a" if p is None else "< 0.0001" if p < 1e-4 else f"{p:.3g}"


def mde(row: MetricResult) -> str:
    """The drop that would have been seen with 80 % power."""
    return plain(row.mde, row.unit, False) if row.mde is not None else "n/a"


def verdict(word: Verdict | str, shown: str = "") -> Shown:
    """A verdict as a table's cell, in the colours of the report's verdicts."""
    tones = {"PASS": "match", "REGRESSION": "differs", "INCONCLUSIVE": "undecided"}
    return Shown(shown or word, verdict=tones.get(word, "not comparable"))


COLUMNS: dict[str, Callable[[MetricResult], str | Shown]] = {
    "verdict": lambda m: verdict(m.verdict or ""),
    "verdict and reason": lambda m: verdict(m.verdict or "", f"{m.verdict}: {m.reason}"),
    "number": lambda m: m.name,
    "base": lambda m: plain(m.base, m.unit, False),
    "candidate": lambda m: plain(m.candidate, m.unit, False),
    "base > candidate": lambda m: f"{bare(m.base, m.unit)} > {bare(m.candidate, m.unit)}",
    "difference": lambda m: plain(m.delta, m.unit),
    "95 % interval": lambda m: bounds(m.ci95, m.unit),
    "difference, 95 %": lambda m: (
        f"{plain(m.delta, m.unit).split()[0]} [{bounds(m.ci95, m.unit).replace(' to ', ', ')}]"
    ),
    "p (Holm)": lambda m: p_value(m.p_holm),
    "p": lambda m: p_value(m.p),
    "tolerance": lambda m: plain(m.tolerance, m.unit, False),
    "would see (80 %)": lambda m: mde(m),
    "items": lambda m: f"{m.n:,}",
    "clusters": lambda m: f"{m.clusters:,}",
    "bootstrap": lambda m: bounds(m.bootstrap_ci95, m.unit),
}
"""What a table of numbers may show, by its column's title."""


def numbers_doc(comparison: Comparison, columns: Sequence[str], text_columns: int = 1) -> Doc:
    """A row a benchmark with the number that decides."""
    doc = Doc("numbers", "", "", ["benchmark", *columns], text_columns=text_columns)
    for b in comparison.benchmarks:
        if b.primary is not None:
            doc.add([b.benchmark, *(COLUMNS[c](b.primary) for c in columns)])
        else:
            doc.add([b.benchmark, *(verdict(b.verdict) if c.startswith("verdict") else "-" for c in columns)])
    return doc


def other_docs(b: BenchmarkResult) -> list[Doc]:
    """What never gates: further numbers, groups; and the policy's checks."""
    columns = ("base", "candidate", "difference", "95 % interval", "p")
    numbers = Doc("others", "", "", ["number", *columns])
    for m in b.metrics:
        if not m.primary:
            numbers.add([m.name, *(COLUMNS[c](m) for c in columns)])
    groups = Doc("groups", "", "", ["group", "items", "base", "candidate"])
    for s in b.slices:
        groups.add([s.group or "-", str(s.n), f"{s.base:.3f}", f"{s.candidate:.3f}"])
    checks = Doc("checks", "", "", ["check", "verdict", "why"], text_columns=3)
    for c in b.checks:
        checks.add([c.name, verdict(c.verdict), c.reason])
    return [doc for doc in (numbers, groups, checks) if doc.lines]


def headline(comparison: Comparison) -> str:
    """One sentence that carries the verdict."""
    by_verdict: dict[str, list[str]] = {}
    for result in comparison.benchmarks:
        by_verdict.setdefault(result.verdict, []).append(result.benchmark)
    parts = [f"{len(names)} {verdict} ({', '.join(names)})" for verdict, names in by_verdict.items()]
    return "; ".join(parts)


def reserved(result: BenchmarkResult) -> list[str]:
    """What the numbers of a benchmark must not be read without, by side: `both: subset of 60 of 480 items`."""
    sides = {"base": result.base, "candidate": result.candidate}
    found: dict[str, list[str]] = {}
    for name, side in sides.items():
        for one in side.reservations if side else ():
            found.setdefault(one.text, []).append(name)
    return [f"{'both' if len(names) == len(sides) else names[0]}: {line}" for line, names in found.items()]


def notices(comparison: Comparison) -> list[str]:
    """Reasons, reservations, checks that failed, items left out: each once, with the benchmarks that it is about."""
    found: dict[str, list[str]] = {}
    for b in comparison.benchmarks:
        lines = [*b.reasons, *reserved(b)]
        lines += [f"{c.name}: {c.verdict} - {c.reason}" for c in b.checks if c.verdict != "PASS"]
        if b.unmeasured:
            lines.append(f"{b.unmeasured} items without a score in one run are left out of both")
        for line in lines:
            found.setdefault(line, []).append(b.benchmark)
    return [f"{', '.join(names)}: {line}" for line, names in found.items()] + comparison.notes
