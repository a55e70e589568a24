"""From journaled answers to scored items and metrics: the official rule, our guards, armor_eval.stats' intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armor_eval.errors import RunFailed
from armor_eval.runs.schema import Item, Metric, Scores
from armor_eval.understanding import official, parse
from armor_eval.understanding.judge import Judge
from armor_eval.understanding.table import Row, Table

Progress = Callable[[int, int], Callable[[int, int], None]] | None

WITHHOLD_ABOVE = 0.01
"""Share of items without a verdict (judge failed, or no answer) from which on the headline is withheld."""
SEED, RESAMPLES = 0, 2000


@dataclass
class Outcome:
    items: list[Item]
    scores: Scores
    reason: str | None
    """Why the run is partial beyond a withheld headline, one line."""


def score_run(table: Table, items: dict[str, Item], judge: Judge | None = None, progress: Progress = None) -> Outcome:
    """Score what was answered: by exact matching, or with a judge for what the rule cannot read.

    `progress(total, done)` is called when a judge begins and returns what is called after each reply.
    """
    present = [items[row.id] for row in table.rows if row.id in items]
    predictions = {it.id: it.output or "" for it in present if it.status != "error"}
    judged, failed = None, {}
    if judge is not None and predictions and table.has_answers:
        requests = official.judge_requests(table, predictions)
        tick = progress(len(requests), 0) if progress is not None else None
        judged = judge.judge(requests, (lambda n: tick(n, 0)) if tick is not None else None)
        failed = judged.failed
    usable = _without_broken_groups(table, predictions, failed)
    verdicts: dict[str, official.Verdict] = {}
    headline = None
    if usable and table.has_answers:
        scored = official.score(table, usable, judged)
        verdicts, headline = scored.verdicts, scored.headline
    if len(usable) + len(failed) < len(predictions):
        # Rows of a group that lost one: read one by one.
        rest = {i: text for i, text in predictions.items() if i not in usable and i not in failed}
        verdicts |= official.read_rows(table, rest, judged)
    rows = {row.id: row for row in table.rows}
    done = [_scored(table, rows[it.id], it, verdicts.get(it.id), failed.get(it.id)) for it in present]
    return _outcome(table, done, len(table.rows), headline)


def _without_broken_groups(table: Table, predictions: dict[str, str], failed: dict[str, str]) -> dict[str, str]:
    """What VLMEvalKit may score. A circular group that lacks a row would pass as whole there, an MME picture that lacks
    a question ends its program, an MM-Vet capability without rows too: those groups are left to our own formula."""
    usable = {i: text for i, text in predictions.items() if i not in failed}
    whole = len(usable) == len(table.rows)
    if whole or table.benchmark.kind in ("mcq", "ratio") or table.benchmark.dataset in ("POPE", "HallusionBench"):
        return usable
    if table.benchmark.kind == "graded":
        return {}
    broken = {row.cluster for row in table.rows if row.id not in usable}
    return {row.id: usable[row.id] for row in table.rows if row.cluster not in broken}


def _scored(table: Table, row: Row, item: Item, verdict: official.Verdict | None, failure: str | None) -> Item:
    """The item with its parse, score, status and what its composite's formula needs."""
    extras = {**item.extras, **_formula_extras(table, row)}
    if item.status == "error":
        return item.model_copy(update={"extras": extras, "score": None})
    if failure is not None:
        return item.model_copy(update={"status": "judge_failed", "score": None, "reason": failure, "extras": extras})
    if verdict is None:
        return item.model_copy(update={"extras": extras})
    extras |= verdict.extras
    if table.benchmark.kind == "yes-no":
        extras |= {"answer": str(row.fields["answer"]), "extracted": verdict.parsed}
    ours = _our_reading(table, row, item.output or "")
    if ours is not None:
        extras |= {"our_parse": ours[0], "our_score": ours[1]}
    return item.model_copy(
        update={
            "parsed": verdict.parsed,
            "score": verdict.score,
            "status": "unparsed" if verdict.unparsed else "ok",
            "reason": "no choice could be read from the answer: counts as wrong" if verdict.unparsed else None,
            "extras": extras,
        }
    )


def _formula_extras(table: Table, row: Row) -> dict[str, Any]:
    """What armor_eval.stats.composite declares for this benchmark."""
    if table.benchmark.dataset.startswith("MMMU"):
        return {"split": str(row.fields["split"])}
    if table.benchmark.dataset == "MME":
        return {"pair": str(row.fields["image_path"])}
    if table.benchmark.cluster == "hallusion-set":
        pieces = row.id.split("_")
        return {"figure": pieces[4], "question": pieces[5]}
    return {}


def _our_reading(table: Table, row: Row, text: str) -> tuple[str | None, float] | None:
    """Our parse beside the official one, for closed questions."""
    gold = str(row.fields.get("answer"))
    if table.benchmark.kind == "yes-no":
        read = parse.read_yes_no(text)
        return read, float(read == gold)
    if table.benchmark.kind in ("mcq", "mcq-circular") and row.options:
        read = parse.read_option(text, row.options)
        return read, float(read == gold)
    return None


def _outcome(table: Table, items: list[Item], expected: int, headline: float | None) -> Outcome:
    counts = Counter(it.status for it in items)
    metrics = _metrics(table, items, headline)
    errors, judge_failed = counts["error"], counts["judge_failed"]
    withheld = None
    if not table.has_answers:
        note = "the file holds no answers: send submission.xlsx to the benchmark's server"
        metrics = [Metric(name="submission", value=None, unit="%", n=0, clusters=0, primary=True, note=note)]
    elif (errors + judge_failed) > WITHHOLD_ABOVE * expected:
        lost = f"{errors} errors, {judge_failed} judge failures"
        withheld = f"{errors + judge_failed} of {expected} items have no verdict ({lost})"
        metrics = [
            m.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"}) if m.primary else m
            for m in metrics
        ]
    reason = None
    if errors:
        first = next(it for it in items if it.status == "error")
        reason = f"{errors} of {expected} items could not be answered, e.g. {first.id}: {first.reason}"
    all_counts = {status: counts[status] for status in ("ok", "unparsed", "judge_failed", "error")}
    return Outcome(
        items, Scores(metrics=metrics, counts=all_counts, expected_items=expected, withheld=withheld), reason
    )


def _metrics(table: Table, items: list[Item], headline: float | None) -> list[Metric]:
    """Every declared composite with its interval; the primary one must agree with VLMEvalKit's number."""
    from armor_eval.stats.composite import composites_for, measure

    if not any(it.score is not None for it in items):
        primary = next(c for c in composites_for(table.benchmark.composite) if c.primary)
        return [
            Metric(
                name=primary.name, value=None, unit=primary.unit, n=0, clusters=0, primary=True, note="nothing scored"
            )
        ]
    metrics = []
    for composite in composites_for(table.benchmark.composite):
        metric = measure(items, composite, seed=SEED, resamples=RESAMPLES)
        if composite.primary:
            _check_against_official(table, items, composite, headline)
        metrics.append(metric)
        if composite.primary and any("our_score" in it.extras for it in items):
            metrics.append(_our_metric(items, composite))
    return metrics


def _check_against_official(table: Table, items: list[Item], composite: Any, headline: float | None) -> None:
    """Over the clusters that are whole, our formula and VLMEvalKit's evaluate must say the same number."""
    broken = {it.cluster for it in items if it.score is None}
    if broken:
        return  # VLMEvalKit has no rule for a missing row; our formula leaves its group out
    ours = composite.value(items)
    # LLaVABench's evaluate rounds to one decimal; 84.75 may become 84.7 there and 84.8 here.
    near = 0.05 + 1e-9 if table.benchmark.kind == "ratio" else 1e-9
    if ours is None or headline is None:
        if ours is not headline:
            raise RunFailed(
                f"{table.benchmark.name}: our formula gives {ours}, VLMEvalKit {headline}: nothing is reported"
            )
        return
    if not math.isclose(ours, headline, rel_tol=1e-9, abs_tol=near):
        raise RunFailed(
            f"{table.benchmark.name}: our formula gives {ours!r}, VLMEvalKit {headline!r}: nothing is reported"
        )


def _our_metric(items: list[Item], composite: Any) -> Metric:
    """The primary formula over our own reading of the answers: what the official parser cost or gave."""
    from armor_eval.stats.composite import measure

    read, differ = [], 0
    for it in items:
        if "our_score" not in it.extras:
            read.append(it)
            continue
        differ += it.extras["our_score"] != it.score
        extras = {**it.extras, "extracted": it.extras["our_parse"]} if "extracted" in it.extras else it.extras
        read.append(it.model_copy(update={"score": it.extras["our_score"], "extras": extras}))
    metric = measure(read, composite, seed=SEED, resamples=RESAMPLES)
    note = f"{differ} of {len(items)} answers score differently than by the official rule"
    return metric.model_copy(update={"name": f"{composite.name}, our reading", "primary": False, "note": note})


def write_submission(table: Table, items: dict[str, Item], path: Path) -> None:
    """What MMBench's server takes: the dataset's columns and the predictions, as a spreadsheet."""
    frame = table.frame.copy()
    frame["prediction"] = [items[str(i)].output if str(i) in items else "" for i in frame["index"]]
    frame.to_excel(path, index=False, engine="xlsxwriter")
