"""What judges of free answers are run with: `judge answers`, `judge pairs`, `interleaved --judge`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.cli import common
from armor_eval.engine import Finished, Settings, evaluate
from armor_eval.models.base import Decoding, NotAsked
from armor_eval.profiles import OFFICIAL
from armor_eval.report.loading import RunView
from armor_eval.runs.bundle import read_head
from armor_eval.runs.schema import Reservation
from armor_eval.tasks.interleaved.answers import Answers, read_answers
from armor_eval.tasks.interleaved.honesty import HonestyTask, reserved_by
from armor_eval.tasks.interleaved.judged import JudgedTask
from armor_eval.tasks.interleaved.pairs import PairsTask
from armor_eval.tasks.interleaved.rubrics import RUBRICS, words_of
from armor_eval.tasks.interleaved.ueval import PROTOCOLS, UEvalTask
from armor_eval.tasks.suites.judges import load_judge
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.tasks.suites.judges import Judge


OWN = "armor-rubric-v1"
"""The rubric that is used where none is named."""


def check_grading(
    judge: str | None,
    rubric: str,
    prompt: Path | None,
    data: Path | None,
    calibration: Path | None,
    options: JsonObject,
) -> None:
    """UserError, before any model is asked, for options of a judge without one; for a rubric that is none, or lacks its
    words or its questions; for a calibration that is not there."""
    if judge is None:
        given = {"--rubric": rubric != OWN, "--prompt": prompt, "--calibration": calibration}
        given["--judge-dtype, --judge-args or --judge-json"] = any(options.values())
        if unused := next((name for name, value in given.items() if value), None):
            raise UserError(f"{unused} is of a judge, and none is asked", "give --judge too")
        return
    known = (*RUBRICS, *PROTOCOLS)
    if rubric not in known:
        raise unknown_name("rubric", rubric, known)
    if rubric in PROTOCOLS and data is None:
        raise UserError(f"{rubric} needs the questions with their rubrics", "give --data FILE, UEval's")
    if rubric in RUBRICS:
        words_of(RUBRICS[rubric], prompt)
    if calibration is not None:
        read_head(calibration)


def known_of(calibration: Path | None, judge: Judge) -> list[Reservation] | None:
    """What a calibration says of the judge; None without one."""
    return None if calibration is None else reserved_by(calibration, judge.info)


def graded(
    answers: Answers, rubric: str, prompt: Path | None, data: Path | None, calibration: Path | None, judge: Judge
) -> JudgedTask:
    """The answers, to be graded by the rubric."""
    known = known_of(calibration, judge)
    if rubric in PROTOCOLS:
        assert data is not None
        return UEvalTask(answers, data, rubric, prompt, judge, known)
    words, published = words_of(RUBRICS[rubric], prompt)
    return JudgedTask(answers, RUBRICS[rubric], words, published, judge, known)


def run(
    task_of: Callable[[Judge], JudgedTask | PairsTask | HonestyTask],
    spec: str,
    options: JsonObject,
    out: Callable[[str], Path],
    batch_size: int,
) -> Finished:
    """Have a judge look at answers, in the folder that `out` makes of its name. `options`: of its loader."""
    from armor_eval.cli import COMMAND_LINE

    judge = load_judge(spec, OFFICIAL, **options)
    try:
        task = task_of(judge)
        settings = Settings(task.profile, list(COMMAND_LINE.get()), Decoding(), batch_size)
        finished = evaluate(task, NotAsked(task.model), out(common.short_name(judge.info.name)), settings)
    finally:
        judge.close()
    assert finished is not None, "one process"
    return finished


def judge_runs(
    finished: Sequence[Finished],
    spec: str,
    options: JsonObject,
    rubric: str,
    prompt: Path | None,
    data: Path | None,
    calibration: Path | None,
    batch_size: int,
) -> list[Finished]:
    """The grades of what finished runs were answered, each run's beside it."""
    judged = []
    for one in finished:
        task = partial(graded, read_answers(one.path), rubric, prompt, data, calibration)
        judged.append(run(task, spec, options, partial(_beside, one.path, rubric), batch_size))
    return judged


def _beside(path: Path, rubric: str, judge: str) -> Path:
    """Where the grades of a run lie."""
    return path.with_name(f"{path.name}-{rubric}-{judge}")


def show(done: Finished) -> None:
    """The table of a judged run and what must be known of it."""
    out, run = common.console(), done.run
    against = f" against {run.extras['against']}" if "against" in run.extras else ""
    title = f"{run.benchmark} - {RunView(done.path, run, done.scores).who}{against} - judged by {run.judge.name}"
    common.print_doc(out, common.metrics_doc(title, done.scores.metrics))
    given = ", ".join(f"{name} {count}" for name, count in sorted(run.extras.get("given", {}).items()))
    for line in [*([f"answers of: {given}"] if given else []), *common.remarks(done), str(done.path)]:
        out.print(line, markup=False, soft_wrap=True)
