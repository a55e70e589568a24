"""People's answers on GenEval's images: Mechanical Turk's CSV of djghosh13/geneval (`annotations/`), five an image.

Each person's answer is judged by GenEval's own rules - enough objects, of the wanted colour, in the wanted relation; a
count exactly - and the image by the majority. What one person is worth against the other four bounds any detector.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from armor_eval.tasks.geneval.folders import folder_name
from armor_eval.tasks.geneval.prompts import Metadata, official_records
from armor_model.base.errors import UserError

COLUMNS = (
    "Input.prompt_id",
    "Input.image_id",
    "Answer.task-count-0",
    "Answer.task-count-1",
    "Answer.task-color-0",
    "Answer.task-color-1",
    "Answer.task-position-x",
    "Answer.task-position-y",
)
"""What is read of a row, in the order of `_answer`."""
LEFT, RIGHT, ABOVE, BELOW = "left of", "right of", "above", "below"
SAID = {"left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}


@dataclass(frozen=True)
class Answer:
    """What one person saw."""

    counts: tuple[int, int]
    """Of the prompt's first and second object; 5 is five or more."""
    colors: tuple[frozenset[str], frozenset[str]]
    relation: frozenset[str]
    """Where the second object lies relative to the first."""


@dataclass(frozen=True)
class Looked:
    """One image with its people."""

    prompt: int
    """Index into the official prompts."""
    sample: int
    tag: str
    votes: tuple[bool, ...]
    """Whether each person's answer fulfils the prompt."""

    @property
    def key(self) -> str:
        """The id that a GenEval run gives this image."""
        return f"{folder_name(self.prompt)}/{self.sample:05d}"

    @property
    def correct(self) -> bool:
        return 2 * sum(self.votes) > len(self.votes)

    @property
    def unanimous(self) -> bool:
        return len(set(self.votes)) == 1

    def one_against_the_rest(self) -> list[bool]:
        """For each person, whether the majority of the others says the same; a tie of them is no majority."""
        return [vote == (2 * (sum(self.votes) - vote) > len(self.votes) - 1) for vote in self.votes]


def fulfils(meta: Metadata, answer: Answer) -> bool:
    """GenEval's verdict on what a person saw."""
    for at, wanted in enumerate(meta.include):
        seen = answer.counts[at]
        right = seen == wanted.count if meta.exclude else seen >= wanted.count
        if not right or (wanted.color is not None and wanted.color not in answer.colors[at]):
            return False
        if wanted.position is not None and wanted.position[0] not in answer.relation:
            return False
    return True


def read_people(path: Path) -> list[Looked]:
    """Images by prompt and sample. UserError where it is no such file."""
    metas = [Metadata.model_validate(record) for record in official_records()]
    answers: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    try:
        for prompt, sample, answer in _csv_rows(path):
            answers[prompt, sample].append(answer)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read people's answers of {path}: {error}") from None
    if not answers:
        raise UserError(f"{path} holds no answers")
    if max(prompt for prompt, _ in answers) >= len(metas):
        raise UserError(f"{path} is of other prompts: GenEval has {len(metas)}")
    return [
        Looked(prompt, sample, metas[prompt].tag, tuple(fulfils(metas[prompt], a) for a in given))
        for (prompt, sample), given in sorted(answers.items())
    ]


Row = tuple[int, int, Answer]


def _csv_rows(path: Path) -> Iterator[Row]:
    head, *records = whole_records(path.read_text(encoding="utf-8-sig"))
    if missing := [name for name in COLUMNS if name not in head]:
        raise UserError(f"{path} is no file of GenEval's annotations: it lacks the column {missing[0]}")
    places = [head.index(name) for name in COLUMNS]
    for number, record in enumerate(records, 2):
        if len(record) != len(head):
            raise UserError(f"{path}: record {number} has {len(record)} fields, expected {len(head)}")
        try:
            yield _answer([record[place] for place in places])
        except ValueError as error:
            raise UserError(f"{path}: record {number}: {error}") from None


def whole_records(text: str) -> list[list[str]]:
    """The CSV's records; one that a typed line break cut in two is joined again (if-xl has four)."""
    found: list[list[str]] = []
    for row in csv.reader(io.StringIO(text)):
        if found and row and len(found[-1]) < len(found[0]) and len(found[-1]) + len(row) - 1 <= len(found[0]):
            found[-1] = [*found[-1][:-1], f"{found[-1][-1]}\n{row[0]}", *row[1:]]
        elif row:
            found.append(row)
    return found or [[]]


def _answer(fields: Sequence[str]) -> Row:
    prompt, sample, count_0, count_1, color_0, color_1, x, y = fields
    counts = int(float(count_0 or 0)), int(float(count_1 or 0))
    colors = frozenset(color_0.split("|")), frozenset(color_1.split("|"))
    return int(prompt), int(sample), Answer(counts, colors, frozenset(SAID[w] for w in (x, y) if w in SAID))
