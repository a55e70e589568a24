"""Numbers in words, alike in every output."""

from __future__ import annotations

from armor_eval.compare.record import BenchmarkResult, Comparison, MetricResult


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
