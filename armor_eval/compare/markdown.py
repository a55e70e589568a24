"""The comparison as Markdown for a CI step summary: verdict first, what changed folded away, under 1 MiB."""

from __future__ import annotations

import re
from html import escape

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison
from armor_eval.report.doc import Doc
from armor_eval.report.formats import markdown_grid

LIMIT_BYTES = 1_000_000
"""GitHub cuts a step summary at 1 MiB (1,048,576 bytes)."""
FLIPS_SHOWN = 40
"""A benchmark; the HTML page has all of them."""

COLUMNS = (
    "number",
    "base",
    "candidate",
    "difference",
    "95 % interval",
    "p (Holm)",
    "tolerance",
    "would see (80 %)",
    "verdict and reason",
)

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
    if any(b.primary for b in comparison.benchmarks):
        lines += _grid(text.numbers_doc(comparison, COLUMNS, text_columns=2))
        lines += ["", "`would see`: the drop that this comparison would have found with 80 % power.", ""]
    lines += [f"- {safe(line, None)}" for line in text.notices(comparison)]
    for b in comparison.benchmarks:
        lines += _details(b, shown[id(b)])
    policy = f"Policy `{_code(comparison.policy)}` ({comparison.policy_sha256[:12]})"
    lines += ["", f"{policy}, seed {comparison.seed}, {comparison.resamples:,} resamples."]
    return "\n".join(lines) + "\n"


def _details(b: BenchmarkResult, shown: int) -> list[str]:
    lines: list[str] = []
    if others := text.other_docs(b):
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
    return " ".join(value.replace("`", "'").split())
