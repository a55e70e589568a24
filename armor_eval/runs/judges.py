"""What is known of a judge, beside the runs that it judged (armor_eval.tasks.interleaved.honesty measures it)."""

from __future__ import annotations

from collections.abc import Iterable

from armor_eval.runs.schema import JudgeInfo, Run

HONESTY = "armor-honesty-v1"
"""The benchmark of a run that says what a judge looks at."""


def same_judge(one: JudgeInfo, other: JudgeInfo) -> bool:
    """Whether two records are of one judge. Recorded replies are other files for other questions: they go by the
    name."""
    recorded = "recorded" in (one.endpoint, other.endpoint)
    return one.name == other.name and (recorded or one.version == other.version)


def with_known(run: Run, calibrations: Iterable[Run]) -> Run:
    """The run with what whole calibrations of its judge reserve, as if it had been judged with them at hand."""
    told = {r.text for r in run.reservations}
    found = [
        reservation
        for one in calibrations
        if one.status == "complete" and run.benchmark != HONESTY and same_judge(one.judge, run.judge)
        for reservation in one.reservations
        if reservation.text not in told
    ]
    return run.model_copy(update={"reservations": [*run.reservations, *found]}) if found else run
