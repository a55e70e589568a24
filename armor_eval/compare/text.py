"""Numbers in words, alike in every output."""

from __future__ import annotations

from armor_eval.compare.record import Comparison, MetricResult


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
