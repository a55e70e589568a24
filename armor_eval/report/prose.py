"""The paper's statements in words, each with its evidence and a verdict.

Most are arithmetic on the paper's own tables (and say where it disagrees with itself); the others wait for a
run, which leaves its finding in `run.extras["claims"][KEY] = {"verdict": ..., "evidence": ...}`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from armor_eval.base.data import benchmarks_dir
from armor_eval.report.claims import Claims, load_claims
from armor_eval.runs.schema import Record, Run
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none

Verdict = Literal["supported", "contradicted", "undecided", "not run"]


class Statement(Record):
    key: str
    where: str
    """Place in the paper."""
    statement: str
    """In our words."""
    rule: str
    arguments: JsonObject


class Statements(Record):
    source: str
    claims: list[Statement]


@dataclass(frozen=True)
class Judged:
    """A statement with what speaks for or against it."""

    key: str
    where: str
    statement: str
    verdict: Verdict
    evidence: str
    scope: str
    """`paper` (arithmetic on its own numbers) or the profile of the run."""
    run_id: str | None = None


Finding = tuple[Verdict, str]


def _truth(holds: bool) -> Verdict:
    return "supported" if holds else "contradicted"


def outperforms(claims: Claims, *, table: str, row: str, rank_group: str) -> Finding:
    """Strictly ahead of every row of the rank group in every column where both are printed."""
    source = claims.table(table)
    lost, compared, missing = [], 0, 0
    for column in source.columns:
        ours = source.value(row, column.key)
        for other in source.rows:
            if other.key == row or other.rank_group != rank_group:
                continue
            theirs = other.printed[column.key]
            if theirs is None or ours is None:
                missing += 1
                continue
            compared += 1
            if float(theirs) >= ours:
                lost.append(f"{column.title}: {other.method} {theirs} against {source.row(row).printed[column.key]}")
    reason = "; ".join(lost) if lost else "none is behind"
    return _truth(not lost), f"{reason} ({compared} printed cells compared, {missing} are dashes)"


def others_are_larger(claims: Claims, *, table: str, row: str, rank_group: str) -> Finding:
    source = claims.table(table)
    own = float(source.row(row).params.rstrip("B"))
    others = [r for r in source.rows if r.rank_group == rank_group and r.key != row]
    smaller = [f"{r.method} {r.params}" for r in others if float(r.params.rstrip("B")) <= own]
    return _truth(not smaller), f"not larger than {own:g}B: {', '.join(smaller)}" if smaller else f"all above {own:g}B"


def mean_ratio(claims: Claims, *, table: str, row: str, base: str, at_least: float) -> Finding:
    source = claims.table(table)
    ratios = [not_none(source.value(row, c.key)) / not_none(source.value(base, c.key)) for c in source.columns]
    mean = sum(ratios) / len(ratios)
    reason = f"the mean over the table's {len(ratios)} columns is {100 * mean:.1f} % (lowest {100 * min(ratios):.1f} %)"
    return _truth(mean >= at_least), reason


def difference(
    claims: Claims,
    *,
    table: str,
    column: str,
    row: str,
    base: str,
    at_least: float | None = None,
    within: float | None = None,
    why: str | None = None,
) -> Finding:
    source = claims.table(table)
    gap = not_none(source.value(row, column)) - not_none(source.value(base, column))
    holds = gap >= at_least if at_least is not None else abs(gap) <= not_none(within)
    decimals = source.column(column).decimals
    reason = f"printed difference {gap:+.{decimals}f}"
    return _truth(holds), f"{reason}; {why}" if why else reason


def lowest_cost(claims: Claims, *, table: str, row: str, fact: str) -> Finding:
    source = claims.table(table)
    printed = {r.key: cost for r in source.rows if (cost := r.facts.get(fact))}
    days = {key: float(text.split("/")[0]) for key, text in printed.items()}
    holds = all(days[row] < d for key, d in days.items() if key != row)
    reason = (
        f"{printed[row]} is the lowest of the {len(days)} printed costs; {len(source.rows) - len(days)} rows "
        f"print none, the devices differ, and ARMOR's leaves out what it starts from"
    )
    return _truth(holds), reason


def added_parameter_count(
    blocks: int, hidden: int = 4096, ffn: int = 14336, kv: int = 1024, codebook: int = 8192
) -> int:
    """Parameters ARMOR adds to InternVL2.5-8B: blocks, embedding rows, visual head and norm, `<imgbos>` row.

    A block is q, k, v, o (grouped-query: k and v are `kv` wide), three FFN matrices and two norms.
    """
    block = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden
    embeddings = (codebook + 3) * hidden
    visual_head = (codebook + 2) * hidden
    return blocks * block + embeddings + visual_head + hidden + hidden


def added_parameters(claims: Claims, *, blocks: int, printed: float, decimals: int) -> Finding:
    counts = {n: added_parameter_count(n) / 1e9 for n in (blocks - 1, blocks)}
    reason = "; ".join(f"{n} adapter blocks: {1000 * b:.1f} M" for n, b in counts.items())
    return _truth(round(counts[blocks], decimals) == printed), f"{reason} (the number of blocks is our inference)"


def added_share(claims: Claims, *, blocks: int, base_parameters: int, printed: float, tolerance: float) -> Finding:
    share = 100 * added_parameter_count(blocks) / base_parameters
    stated = 100 * 0.7e9 / base_parameters
    reason = (
        f"the paper's own 0.7 B is {stated:.1f} % of {base_parameters / 1e9:.3f} B, {blocks} blocks are {share:.1f} % "
        f"(2 blocks would be {100 * added_parameter_count(2) / base_parameters:.1f} %)"
    )
    return _truth(abs(share - printed) <= tolerance), reason


def at_least(claims: Claims, *, table: str, row: str, column: str, at_least: float, why: str) -> Finding:
    source = claims.table(table)
    return _truth(not_none(source.value(row, column)) >= at_least), f"printed {source.row(row).printed[column]}; {why}"


def fact(claims: Claims, *, table: str, row: str, fact: str, actual: str, why: str) -> Finding:
    printed = claims.table(table).row(row).facts[fact]
    return _truth(printed == actual), f"printed {printed}; {why}"


RULES: dict[str, Callable[..., Finding]] = {
    "outperforms": outperforms,
    "others_are_larger": others_are_larger,
    "mean_ratio": mean_ratio,
    "difference": difference,
    "lowest_cost": lowest_cost,
    "added_parameters": added_parameters,
    "added_share": added_share,
    "at_least": at_least,
    "fact": fact,
}
"""Rule name in prose.json -> function of the printed tables. `measured` is none of them: it asks the runs."""


@functools.cache
def load_statements() -> Statements:
    path = benchmarks_dir() / "paper" / "prose.json"
    return Statements.model_validate_json(path.read_text(encoding="utf-8"))


def judge_statements(runs: Sequence[Run] = ()) -> list[Judged]:
    """Every statement of the paper with its verdict; those that need a run take it from the given ones."""
    claims = load_claims()
    judged: list[Judged] = []
    for s in load_statements().claims:
        if s.rule != "measured":
            verdict, evidence = RULES[s.rule](claims, **s.arguments)
            judged.append(Judged(s.key, s.where, s.statement, verdict, evidence, "paper"))
            continue
        holders = [r for r in runs if s.key in r.extras.get("claims", {})]
        for run in holders:
            finding = run.extras["claims"][s.key]
            scope = f"{run.profile} profile, {run.model.name}"
            judged.append(
                Judged(s.key, s.where, s.statement, finding["verdict"], finding["evidence"], scope, run.run_id)
            )
        if not holders:
            reason = f"needs a run of armor-eval {s.arguments['kind']}"
            judged.append(Judged(s.key, s.where, s.statement, "not run", reason, "-"))
    return judged
