"""UEval: answers of text and images judged line by line of each question's rubrics, under two protocols that are not
comparable.

`ueval-official`: an unreadable reply is not met; text and image rates are means over the questions that have such
lines, a task's score is the mean of its two rates, the headline the mean over tasks. `ueval-lmms-eval`: a line whose
reply is unreadable leaves the denominator, a half without lines is 0, a question's score is the mean of its halves, a
task's the mean over questions. Lines on images see them; of closed questions without the text (official).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from pydantic import ConfigDict, Field, field_validator

from armor_eval.engine import Unit
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import Item, Reservation
from armor_eval.stats.composite import Composite, ratio
from armor_eval.tasks.interleaved.answers import Answers, asked, question_text
from armor_eval.tasks.interleaved.judged import ROOM, JudgedTask
from armor_eval.tasks.interleaved.looking import Opened, Reply, reason_of
from armor_eval.tasks.interleaved.rubrics import Rubric, words_of
from armor_eval.tasks.modality.layouts import TaskType
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Ask, Judge, Shown
from armor_eval.tasks.suites.rows import Row, json_rows
from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

OWN_WORDS = """You check one requirement on an answer to a question. The answer is made of text and images; only what
stands below and the images that you are shown are the answer. Reply with one JSON object and nothing else:
{"criteria_met": true} where the requirement is met, {"criteria_met": false} where it is not, {"criteria_met":
"not sure"} where that cannot be told."""
PROTOCOLS = ("ueval-official", "ueval-lmms-eval")
TASKS: tuple[str, ...] = get_args(TaskType)
HALVES = ("text", "image")
Met = Literal["met", "not met", "unread"]


class Question(Row):
    """A question with its rubrics; `question_type` must be there: the published script judges all as open without."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: str
    prompt: str
    task_type: TaskType
    question_type: Literal["open", "closed"]
    text_rubrics: list[str] = Field(default_factory=list)
    image_rubrics: list[str] = Field(default_factory=list)

    @field_validator("text_rubrics", "image_rubrics", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        """Strings, or the earlier objects with a criterion."""
        if not isinstance(value, list):
            return value or []
        return [one["criterion"] if isinstance(one, dict) and "criterion" in one else one for one in value]


def read_questions(path: Path) -> list[Question]:
    """Of a JSON list or JSON lines. UserError naming the entry."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read --data {path}: {error.strerror}") from None
    found = json_rows(Question, str(path), data)
    if not found or len({one.id for one in found}) < len(found):
        raise UserError(f"{path}: {'an id is there twice' if found else 'no questions'}")
    return found


def read_met(reply: str) -> Met:
    """`criteria_met` of a reply's last JSON object; "not sure" is not met."""
    for text in reversed(re.findall(r"\{[^{}]*\}", strip_thoughts(reply))):
        try:
            value = json.loads(text).get("criteria_met")
        except ValueError:
            continue
        if value is True or (isinstance(value, str) and value.strip().lower() == "true"):
            return "met"
        if value is False or (isinstance(value, str) and value.strip().lower() in ("false", "not sure")):
            return "not met"
    return "unread"


@dataclass(frozen=True)
class Rates:
    """Shares of lines met, of one question; None where there is nothing to take a share of."""

    text: float | None
    image: float | None


def rates(text: Sequence[Met], image: Sequence[Met], protocol: str) -> Rates:
    """Of one question's replies, by the protocol's rule for what is unread and for a half without lines."""
    shares = []
    for half in (text, image):
        read = [one for one in half if one != "unread"] if protocol == "ueval-lmms-eval" else half
        empty = 0.0 if protocol == "ueval-lmms-eval" else None
        shares.append(sum(one == "met" for one in read) / len(read) if read else empty)
    return Rates(*shares)


def _tally(items: Sequence[Item]) -> dict[str, list[float]]:
    """For each task and half: (sum of the rates, questions that have one)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (2 * len(TASKS) * len(HALVES)))
    for item in items:
        if item.score is None:
            continue
        for at, half in enumerate(HALVES):
            if half in item.extras["numbers"]:
                place = 2 * (TASKS.index(str(item.group)) * len(HALVES) + at)
                table[item.cluster][place] += item.extras["numbers"][half]
                table[item.cluster][place + 1] += 1
    return table


def _mean(tasks: Sequence[int], halves: Sequence[int], sums: np.ndarray) -> np.ndarray:
    """Percent: the mean over tasks of the mean over halves of the mean rate, what has no questions left out."""
    shape = (*sums.shape[:-1], len(TASKS), len(HALVES), 2)
    chosen = sums.reshape(shape)[..., tasks, :, :][..., halves, :]
    means, there = ratio(chosen[..., 0], chosen[..., 1], empty=0.0), chosen[..., 1] > 0
    task = ratio(means.sum(axis=-1), there.sum(axis=-1), empty=0.0)
    counted = there.any(axis=-1)
    return 100.0 * ratio((task * counted).sum(axis=-1), counted.sum(axis=-1))


def composites() -> list[Composite]:
    """The mean over tasks, each task, and the two halves."""
    columns = tuple(f"{task}:{half}:{part}" for task in TASKS for half in HALVES for part in ("sum", "n"))
    every, both = range(len(TASKS)), range(len(HALVES))
    made: dict[str, tuple[Sequence[int], Sequence[int], Callable[[Item], bool] | None]] = {
        "mean of tasks": (every, both, None),
        **{half: (every, (at,), partial(_has, half)) for at, half in enumerate(HALVES)},
        **{task: ((at,), both, partial(_of_task, task)) for at, task in enumerate(TASKS)},
    }
    return [
        Composite(
            name, columns, _tally, partial(_mean, list(tasks), list(halves)), primary=name == "mean of tasks", keep=keep
        )
        for name, (tasks, halves, keep) in made.items()
    ]


def _has(half: str, item: Item) -> bool:
    return half in item.extras.get("numbers", {})


def _of_task(task: str, item: Item) -> bool:
    return item.group == task


class UEvalTask(JudgedTask):
    """Every line of every rubric is asked about by itself. A line on images of an answer without any is not met, and
    nobody is asked."""

    def __init__(
        self,
        answers: Answers,
        data: Path,
        protocol: str,
        words: Path | None,
        judge: Judge,
        reservations: Sequence[Reservation] | None = None,
    ) -> None:
        rubric = Rubric(protocol, {}, OWN_WORDS)
        self._questions = {one.id: one for one in read_questions(data)}
        if odd := self._questions.keys() ^ {one.id for one in answers.rows}:
            raise UserError(
                f"{data} and the answers of {answers.name} do not hold the same ids: {sorted(odd)[0]!r} is in one only",
                "expected an answer, empty or not, to every question",
            )
        rows = [one.model_copy(update={"question": self._questions[one.id].prompt}) for one in answers.rows]
        super().__init__(replace(answers, rows=rows), rubric, *words_of(rubric, words), judge, reservations)

    def units(self) -> Sequence[Unit]:
        return [Unit(one.id, one.id, self._questions[one.id].task_type) for one in self._rows]

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Opened | Exception], bundle: Bundle
    ) -> list[Item]:
        shown = {
            (unit.id, half): self._shown(unit, half, output[1])
            for unit, output in zip(units, outputs, strict=True)
            if not isinstance(output, Exception)
            for half in HALVES
            if self._lines(unit, half) and (half == "text" or output[1])
        }
        replies = self._replies(shown, ROOM, bundle)
        return [
            self._of_lines(u, o, {half: replies.get((u.id, half)) for half in HALVES}, bundle)
            for u, o in zip(units, outputs, strict=True)
        ]

    def _lines(self, unit: Unit, half: str) -> list[str]:
        question = self._questions[unit.id]
        return question.text_rubrics if half == "text" else question.image_rubrics

    def _shown(self, unit: Unit, half: str, images: Sequence[Image.Image]) -> Shown:
        answer, question = self._by_id[unit.id], self._questions[unit.id]
        if half == "text":  # no image is shown, none is spoken of
            told = f"{self._words.rstrip()}\n\n{question_text(answer)}\nAnswer: {answer.text or 'null'}"
        else:
            blank = question.question_type == "closed"
            told = asked(self._words, answer.model_copy(update={"answer": ""} if blank else {}))
        probes = tuple(Probe(f"{half}-{at}", line) for at, line in enumerate(self._lines(unit, half)))
        asks = tuple(Ask(probe, f"{told}\nRequirement: {probe.text}") for probe in probes)
        item = SuiteItem(unit.id, question.prompt, probes)
        return Shown(item, 0, tuple(images) if half == "image" else (), asks)

    def _of_lines(
        self, unit: Unit, output: Opened | Exception, replies: Mapping[str, Reply | None], bundle: Bundle
    ) -> Item:
        fields, failed = self._fields(unit, output, bundle)
        if failed is not None:
            return failed
        met: dict[str, list[Met]] = {}
        for half, reply in replies.items():
            if isinstance(reply, Exception):
                return Item(**fields, status="judge_failed", reason=reason_of(reply))
            lines = self._lines(unit, half)
            met[half] = ["not met"] * len(lines) if reply is None else [read_met(reading.text) for reading in reply]
        found = vars(rates(met["text"], met["image"], self._rubric.name))
        numbers = {half: rate for half, rate in found.items() if rate is not None}
        if not numbers:
            return Item(**fields, status="error", reason="the question has no rubric")
        unread = sum(one == "unread" for half in met.values() for one in half)
        extras = {"numbers": numbers, "lines": met, "unread": unread}
        return Item(**fields, status="ok", score=sum(numbers.values()) / len(numbers), extras=extras)

    def _composites(self) -> list[Composite]:
        return composites()

    def _found(self, items: Sequence[Item]) -> list[Reservation]:
        unread = sum(item.extras.get("unread", 0) for item in items)
        lines = sum(len(half) for item in items for half in item.extras.get("lines", {}).values())
        rule = "not met" if self._rubric.name == "ueval-official" else "left out"
        text = f"{unread} of {lines} replies are unread: {rule} by {self._rubric.name}'s rule"
        return [Reservation(kind="unread", text=text)] if unread else []
