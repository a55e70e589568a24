"""The comparison as Markdown for a CI step summary: verdict first, what changed folded away, under 1 MiB."""

from __future__ import annotations

import re
from html import escape

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison, FlipRecord, MetricResult

LIMIT_BYTES = 1_000_000
"""GitHub cuts a step summary at 1 MiB (1,048,576 bytes)."""
FLIPS_SHOWN = 40
"""A benchmark; the HTML page has all of them."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@$-])")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
"""A terminal that shows the file would obey these."""


def safe(value: object, limit: int | None = 160) -> str:
    """Untrusted text as one line that neither Markdown nor HTML reads anything into; a reason is never cut (None)."""
    line = " ".join(_CONTROL.sub(" ", str(value)).split())
    line = line if limit is None or len(line) <= limit else line[:limit] + "\u2026"
    return _SPECIAL.sub(r"\\\1", escape(line, quote=False))


def render(comparison: Comparison) -> str:
    """The whole summary; flips are dropped, most verbose benchmark first, where it would grow too long."""
    shown = {id(b): min(FLIPS_SHOWN, len(b.flips)) for b in comparison.benchmarks}
    while True:
        made = _render(comparison, shown)
        if len(made.encode()) <= LIMIT_BYTES or not any(shown.values()):
            return made if len(made.encode()) <= LIMIT_BYTES else made.encode()[:LIMIT_BYTES].decode(errors="ignore")
        shown = {key: n // 2 for key, n in shown.items()}


def _render(comparison: Comparison, shown: dict[int, int]) -> str:
    strict = " (--strict)" if comparison.strict else ""
    lines = [
        f"## {comparison.verdict}: {safe(text.headline(comparison), 400)}",
        "",
        f"Base `{_code(comparison.base)}`, candidate `{_code(comparison.candidate)}`; exit code "
        f"{comparison.exit_code}{strict}.",
        "",
    ]
    rows = [_row(b, m) for b in comparison.benchmarks for m in b.metrics if m.primary]
    if rows:
        lines += [
            "| benchmark | number | base | candidate | difference | 95 % interval | p (Holm) | tolerance | would see | "
            "verdict |",
            "|---|---|--:|--:|--:|:-:|--:|--:|--:|---|",
            *rows,
            "",
            "`would see`: the drop that this comparison would have found with 80 % power.",
            "",
        ]
    lines += [
        f"- **{safe(b.benchmark)}** ({b.profile}): {b.verdict}" for b in comparison.benchmarks if b.primary is None
    ]
    lines += [f"- {safe(line, None)}" for line in text.notices(comparison)]
    for b in comparison.benchmarks:
        lines += _details(b, shown[id(b)])
    policy = f"Policy `{_code(comparison.policy)}` ({comparison.policy_sha256[:12]})"
    lines += ["", f"{policy}, seed {comparison.seed}, {comparison.resamples:,} resamples."]
    return "\n".join(lines) + "\n"


def _row(b: BenchmarkResult, m: MetricResult) -> str:
    name = f"{safe(b.benchmark)}" + (" (shapes)" if b.profile == "shapes" else "")
    verdict = f"**{m.verdict}**: {safe(m.reason, None)}"
    cells = [
        name, safe(m.name), text.plain(m.base, m.unit, False), text.plain(m.candidate, m.unit, False),
        text.plain(m.delta, m.unit), text.bounds(m.ci95, m.unit), text.p_value(m.p_holm),
        text.plain(m.tolerance, m.unit, False), text.mde(m), verdict,
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _details(b: BenchmarkResult, shown: int) -> list[str]:
    lines: list[str] = []
    others = [m for m in b.metrics if not m.primary]
    if others or b.slices:
        lines += ["", f"<details><summary>{safe(b.benchmark)}: other numbers and groups (never gate)</summary>", ""]
        if others:
            lines += ["| number | base | candidate | difference | 95 % interval | p |", "|---|--:|--:|--:|:-:|--:|"]
            lines += [
                f"| {safe(m.name)} | {text.plain(m.base, m.unit, False)} | {text.plain(m.candidate, m.unit, False)} "
                f"| {text.plain(m.delta, m.unit)} | {text.bounds(m.ci95, m.unit)} | {text.p_value(m.p)} |"
                for m in others
            ]
        if b.slices:
            lines += ["", "| group | items | base | candidate |", "|---|--:|--:|--:|"]
            lines += [f"| {safe(s.group) or '-'} | {s.n} | {s.base:.3f} | {s.candidate:.3f} |" for s in b.slices]
        lines += ["", "</details>"]
    if b.flips:
        lost = sum(f.kind == "lost" for f in b.flips)
        head = f"{safe(b.benchmark)}: {lost} items lost, {len(b.flips) - lost} gained"
        more = f", the first {shown} shown" if shown < len(b.flips) else ""
        lines += ["", f"<details><summary>{head}{more}</summary>", ""]
        if shown:
            lines += ["| item | change | expected | base answer | candidate answer |", "|---|---|---|---|---|"]
            lines += [_flip(f) for f in b.flips[:shown]]
        lines += ["", "</details>"]
    return lines


def _flip(f: FlipRecord) -> str:
    change = f"{f.kind} ({f.base_score:g} to {f.candidate_score:g})"
    return f"| {safe(f.id, 60)} | {change} | {safe(f.gold, 60)} | {safe(f.base_output)} | {safe(f.candidate_output)} |"


def _code(value: str) -> str:
    return " ".join(value.replace("`", "'").split())
