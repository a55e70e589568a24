"""The comparison in words and tables, alike in every output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from armor_eval.compare.record import BenchmarkResult, Comparison, MetricResult, Verdict
from armor_eval.report.doc import Doc, Shown


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
