"""From journaled answers to scored items and metrics: the official rule, our guards, armor_eval.stats' intervals."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

from armor_eval.engine.task import Outcome, Progress
from armor_eval.runs.schema import Item, Metric, Reservation, Scores
from armor_eval.runs.served import failure_kind
from armor_eval.stats.composite import Composite, measure
from armor_eval.tasks.understanding.judge import Judge
from armor_eval.tasks.understanding.table import Row, Table
from armor_eval.tasks.understanding.thinking import SCORED_TEXT, Thinking, scored_text
from armor_eval.vlmevalkit import official
from armor_eval.vlmevalkit.records import Evaluated, Judged, Verdict

log = logging.getLogger(__name__)

WITHHOLD_ABOVE = 0.01
"""Share of items without a verdict (judge failed, or no answer) from which on the headline is withheld."""
UNREAD_ABOVE = 0.5
"""Share of answers that the official rule cannot read from which on the run says so beside its headline."""
SEED, RESAMPLES = 0, 2000


def score_run(
    table: Table,
    items: dict[str, Item],
    judge: Judge | None = None,
    progress: Progress | None = None,
    *,
    thinking: Thinking = "strip",
) -> Outcome:
    """Score what was answered: by exact matching, or with a judge for what the rule cannot read.

    `progress(total, done)` is called when a judge begins and returns what is called after each reply; `thinking` says
    whether thoughts are cut before anything reads the answers.
    """
    present = [_with_scored_text(items[row.id], thinking) for row in table.rows if row.id in items]
    predictions = {it.id: _scored_text(it) for it in present if it.status != "error"}
    judged, failed = None, {}
    if judge is not None and predictions and table.has_answers:
        requests = official.judge_requests(table, predictions)
        tick = progress(len(requests), 0) if progress is not None else None
        judged = judge.judge(requests, (lambda n: tick(n, 0)) if tick is not None else None)
        failed = judged.failed
    usable = _without_broken_groups(table, predictions, failed)
    verdicts: dict[str, Verdict] = {}
    scored = Evaluated(None, {})
    if usable and table.has_answers:
        scored = official.score(table, usable, judged)
        verdicts = dict(scored.verdicts)
    if len(usable) + len(failed) < len(predictions):
        # Rows of a group that lost one: read one by one.
        rest = {i: text for i, text in predictions.items() if i not in usable and i not in failed}
        verdicts |= official.read_rows(table, rest, judged)
    rows = {row.id: row for row in table.rows}
    done = [_scored(table, rows[it.id], it, verdicts.get(it.id), failed.get(it.id)) for it in present]
    outcome = _outcome(table, done, len(table.rows), scored)
    outcome.scores.metrics += _other_reading(table, done, judged)
    return outcome


def _with_scored_text(item: Item, thinking: Thinking) -> Item:
    """The item with what is scored beside its output, where that is something else."""
    extras = {key: value for key, value in item.extras.items() if key != SCORED_TEXT}
    if item.status != "error" and (text := scored_text(item, thinking)) != (item.output or ""):
        extras[SCORED_TEXT] = text
    return item.model_copy(update={"extras": extras})


def _scored_text(item: Item) -> str:
    return item.extras.get(SCORED_TEXT, item.output or "")


def unread_reservation(items: list[Item]) -> Reservation | None:
    """What must be said of a score that is mostly about answers nobody could read."""
    answered = [it for it in items if it.status in ("ok", "unparsed")]
    unread = sum(it.status == "unparsed" for it in answered)
    if unread <= UNREAD_ABOVE * len(answered):
        return None
    text = f"{unread} of {len(answered)} answers could not be read by the official rule and count as wrong"
    return Reservation(kind="unread", text=text)


def _without_broken_groups(table: Table, predictions: dict[str, str], failed: dict[str, str]) -> dict[str, str]:
    """What VLMEvalKit may score. A circular group that lacks a row would pass as whole there, an MME image that lacks
    a question ends its program, an MM-Vet capability without rows too: those groups are left to our own formula."""
    usable = {i: text for i, text in predictions.items() if i not in failed}
    whole = table.benchmark.scoring.scored_whole
    if len(usable) == len(table.rows) or whole == "row":
        return usable
    if whole == "file":
        return {}
    broken = {row.cluster for row in table.rows if row.id not in usable}
    return {row.id: usable[row.id] for row in table.rows if row.cluster not in broken}


def _scored(table: Table, row: Row, item: Item, verdict: Verdict | None, failure: str | None) -> Item:
    """The item with its parse, score, status and what its composite's formula needs."""
    family = table.benchmark.scoring
    extras = {**item.extras, **family.formula_extras(row)}
    if item.status == "error":
        return item.model_copy(update={"extras": extras, "score": None})
    if failure is None and verdict is None and table.has_answers:
        failure = "VLMEvalKit's result does not hold this row"
    if failure is not None:
        # no reading of an earlier scoring stays: a second line would count what has no verdict
        extras = {name: value for name, value in extras.items() if not name.endswith(("_parse", "_score"))}
        return item.model_copy(update={"status": "judge_failed", "score": None, "reason": failure, "extras": extras})
    if verdict is None:
        return item.model_copy(update={"extras": extras})
    extras |= verdict.extras | family.verdict_extras(row, verdict)
    for key, (read, score) in family.second_readings(row, _scored_text(item)).items():
        extras |= {f"{key}_parse": read, f"{key}_score": score}
    return item.model_copy(
        update={
            "parsed": verdict.parsed,
            "score": verdict.score,
            "status": "unparsed" if verdict.unparsed else "ok",
            "reason": "no choice could be read from the answer: counts as wrong" if verdict.unparsed else None,
            "extras": extras,
        }
    )


def _outcome(table: Table, items: list[Item], expected: int, scored: Evaluated) -> Outcome:
    counts = Counter(it.status for it in items)
    metrics = _metrics(table, items)
    errors, judge_failed = counts["error"], counts["judge_failed"]
    withheld, lost = _disagreement(table, items, scored), False
    if not table.has_answers:
        note = "the file holds no answers: send submission.xlsx to the benchmark's server"
        metrics = [Metric.nothing("submission", "%", note, primary=True)]
    elif lost := (errors + judge_failed) > WITHHOLD_ABOVE * expected:
        which = f"{errors} errors, {judge_failed} judge failures"
        withheld = f"{errors + judge_failed} of {expected} items have no verdict ({which})"
        if judge_failed:
            withheld += f", e.g. {next(it.reason for it in items if it.status == 'judge_failed')}"
    if withheld is not None:
        headline = next(m.name for m in metrics if m.primary)
        hidden = {"value": None, "ci95": None, "note": f"withheld: {withheld}"}
        # where answers are lost the second lines go with it: the same number by another rule, over the same few items
        metrics = [
            m.model_copy(update=hidden) if m.primary or (lost and m.name.startswith(f"{headline}, ")) else m
            for m in metrics
        ]
    reason = None
    if errors:
        first = next(it for it in items if it.status == "error")
        kinds = Counter(failure_kind(it) for it in items if it.status == "error").most_common()
        by_kind = ", ".join(f"{n} {kind}" for kind, n in kinds)
        reason = f"{errors} of {expected} items could not be answered ({by_kind}), e.g. {first.id}: {first.reason}"
    all_counts = {status: counts[status] for status in ("ok", "unparsed", "judge_failed", "error")}
    return Outcome(
        items, Scores(metrics=metrics, counts=all_counts, expected_items=expected, withheld=withheld), reason
    )


def _metrics(table: Table, items: list[Item]) -> list[Metric]:
    """Every declared composite with its interval, and behind the headline its second lines."""
    family = table.benchmark.scoring
    composites = family.composites()
    if not any(it.score is not None for it in items):
        primary = next(c for c in composites if c.primary)
        return [Metric.nothing(primary.name, primary.unit, "nothing scored", primary=True)]
    metrics = []
    for composite in composites:
        metrics.append(measure(items, composite, seed=SEED, resamples=RESAMPLES))
        for key, name in family.second_lines:
            second = composite.primary or key in family.second_of_all
            if second and any(f"{key}_score" in it.extras for it in items):
                metrics.append(_second_line(items, composite, key, name))
    return metrics


def _disagreement(table: Table, items: list[Item], scored: Evaluated) -> str | None:
    """Why the headline cannot be trusted: our formula and VLMEvalKit's `evaluate` say different numbers.

    None where they agree, or where rows are missing, for which VLMEvalKit has no rule (ours leaves their group out).
    """
    if not table.has_answers or not items or any(it.score is None for it in items):
        return None
    ours = next(c for c in table.benchmark.scoring.composites() if c.primary).value(items)
    theirs = scored.headline
    near = table.benchmark.scoring.rounded_to + 1e-9
    if ours is None or theirs is None:
        agree = ours is theirs
    else:
        agree = math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=near)
    if agree:
        return None
    differing = scored.differing
    named = f"rows {', '.join(differing[:10])}{' ...' if len(differing) > 10 else ''} ({len(differing)}) differ"
    return f"our formula gives {ours}, VLMEvalKit {theirs}: {named if differing else 'no single row differs'}"


def _second_line(items: list[Item], composite: Composite, key: str, name: str) -> Metric:
    """The composite's formula over another reading of the answers: what the official parser cost or gave."""
    read, differ, unread = [], 0, 0
    for it in items:
        if f"{key}_score" not in it.extras:
            read.append(it)
            continue
        score, parsed = it.extras[f"{key}_score"], it.extras[f"{key}_parse"]
        differ += score != it.score
        unread += parsed is None
        extras = {**it.extras, "extracted": parsed} if "extracted" in it.extras else it.extras
        read.append(it.model_copy(update={"score": score, "extras": extras}))
    metric = measure(read, composite, seed=SEED, resamples=RESAMPLES)
    note = f"{differ} of {len(items)} answers score differently than by the official rule, {unread} are unread"
    return metric.model_copy(update={"name": f"{composite.name}, {name}", "primary": False, "note": note})


def _other_reading(table: Table, items: list[Item], judged: Judged | None) -> list[Metric]:
    """The headline that the same answers give by the other reading of the file; none where it touches no row."""
    other = table.other
    if other is None or not table.has_answers or not any(it.score is not None for it in items):
        return []
    primary = next(c for c in table.benchmark.scoring.composites() if c.primary)
    name = f"{primary.name}, reading {other.reading}"
    if table.benchmark.scoring.always_judged:
        note = f"{len(other.rows)} rows would be put to the judge in other words: only a run of its own can tell"
        return [Metric.nothing(name, primary.unit, note)]
    rows = {row.id: row for row in other.rows}
    verdicts = official.read_rows(
        other, {it.id: _scored_text(it) for it in items if it.id in rows and it.score is not None}, judged
    )
    read = [_scored(other, rows[it.id], it, verdicts[it.id], None) if it.id in verdicts else it for it in items]
    differ = sum(one.score != it.score for one, it in zip(read, items, strict=True))
    metric = measure(read, primary, seed=SEED, resamples=RESAMPLES)
    note = f"the same answers; it touches {len(rows)} rows, {differ} of them score differently"
    return [metric.model_copy(update={"name": name, "primary": False, "note": note})]


EXCEL_CELL = 32_767
"""Characters that a cell of a spreadsheet can hold; the library leaves a longer one empty."""


def write_submission(table: Table, items: list[Item], path: Path) -> None:
    """What MMBench's server takes: the dataset's columns and the predictions, as a spreadsheet; as `.tsv` beside where
    a text does not fit into a cell."""
    frame = table.frame.copy()
    texts = {it.id: _scored_text(it) for it in items}
    frame["prediction"] = [texts.get(str(i), "") for i in frame["index"]]
    if frame.map(lambda cell: isinstance(cell, str) and len(cell) > EXCEL_CELL).any(axis=None):
        log.warning("an answer is longer than a spreadsheet's cell: %s is written instead", path.with_suffix(".tsv"))
        official.write_predictions(frame, path.with_suffix(".tsv"))
        return
    as_text = {"options": {"strings_to_formulas": False, "strings_to_urls": False}}  # "=A" is an answer
    frame.to_excel(path, index=False, engine="xlsxwriter", engine_kwargs=as_text)
