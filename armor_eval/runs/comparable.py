"""Which runs may stand beside each other: one list of what makes two numbers comparable, and the reservations
that a run's own state, its judge or blank images bring.

Every place that ranks, compares, resumes or takes answers over reads from here, so that no table marks a best among
runs that `compare` calls not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import Item, JudgeInfo, Reservation, Run, decoding_of
from armor_model.base.jsons import JsonObject


def _decoding(run: Run) -> JsonObject:
    """How tokens were chosen, apart from the seed: two seeds of one setting are a repeat."""
    return {name: value for name, value in decoding_of(run).items() if name != "seed"}


OUTCOMES = ("unread", "failed", "blank")
"""Kinds of reservations that the model's own answers caused: a worse model has them, which must not hide that."""
_OF_OTHER_FIELDS = ("partial", "subset", "blind")
"""Kinds that a field of their own, or the state of the run, compares."""


def _conditions(run: Run) -> list[str]:
    """The kinds of reservations about how the run was measured."""
    return sorted({r.kind for r in reservations_of(run)}.difference(OUTCOMES, _OF_OTHER_FIELDS))


def outcomes_of(run: Run) -> list[str]:
    """The kinds of reservations that the model's own answers caused."""
    return sorted({r.kind for r in reservations_of(run)}.intersection(OUTCOMES))


COMPARED: dict[str, Callable[[Run], object]] = {
    "kind": lambda run: run.kind,
    "profile": lambda run: run.profile,
    "benchmark": lambda run: run.benchmark,
    "data.name": lambda run: run.data.name,
    "data.split": lambda run: run.data.split,
    "data.sha256": lambda run: run.data.sha256,
    "subset": lambda run: run.subset,
    "protocol": protocol_of,
    "prompt_sha256": lambda run: run.prompt_sha256,
    "decoding": _decoding,
    "judge": lambda run: run.judge,
    "scorer.name": lambda run: run.scorer.name,
    "scorer.version": lambda run: run.scorer.version,
    "scorer.settings": lambda run: run.scorer.settings,
    "extras.blind": lambda run: bool(run.extras.get("blind")),
    "reservations": _conditions,
}
"""What must agree before two numbers are compared, by the name that a policy may ignore it under."""


def differing(a: Run, b: Run, fields: Collection[str] = COMPARED) -> list[str]:
    """The compared fields in which two runs differ, in order."""
    return [name for name in fields if COMPARED[name](a) != COMPARED[name](b)]


def rankable(a: Run, b: Run) -> bool:
    """Whether two runs' numbers may be ranked: comparable, both whole, and under the same reservations."""
    return a.status == b.status == "complete" and outcomes_of(a) == outcomes_of(b) and not differing(a, b)


def reservations_of(run: Run) -> list[Reservation]:
    """What the run's numbers must not be read without: what it recorded, and what its own state says."""
    derived: list[Reservation] = []
    if run.status != "complete":
        why = f": {run.status_reason}" if run.status_reason else ""
        state = "was interrupted" if run.status_reason == "interrupted" else f"is {run.status}{why}"
        derived.append(Reservation(kind="partial", text=f"the run {state}"))
    if (s := run.subset) is not None:
        text = f"subset of {s.items} of {s.of_items} items ({s.limit} x {s.rule}, seed {s.seed})"
        derived.append(Reservation(kind="subset", text=text))
    if run.profile == "official" and run.extras.get("data_is_published") is False:
        derived.append(Reservation(kind="data", text="the data file is not the published one"))
    if run.profile == "official" and run.extras.get("prompts_are_official") is False:
        derived.append(Reservation(kind="data", text="these are not the official prompts"))
    if run.extras.get("blind"):
        derived.append(Reservation(kind="blind", text="images were left out (blind baseline)"))
    recorded = {r.kind for r in run.reservations}
    return [*run.reservations, *(r for r in derived if r.kind not in recorded)]


HONESTY = "armor-honesty-v1"
"""The benchmark of a run that says what a judge looks at."""


def same_judge(one: JudgeInfo, other: JudgeInfo) -> bool:
    """Whether two records are of one judge; recorded replies, other files for other questions, go by the name."""
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


def blank_of(items: Sequence[Item]) -> tuple[int, int]:
    """(images of one single colour, images in all) of scored items; `extras.blank` counts those of one item."""
    scored = [item for item in items if item.status != "error"]
    return sum(int(item.extras.get("blank", 0)) for item in scored), sum(len(item.output_images) for item in scored)


def reserve_blank(known: Sequence[Reservation], blank: int, drawn: int) -> list[Reservation]:
    """A run's reservations, with the one that some of its images are blank where some are."""
    kept = [r for r in known if r.kind != "blank"]
    text = f"{blank} of {drawn} images are of one single colour"
    return [*kept, Reservation(kind="blank", text=text)] if blank else kept
