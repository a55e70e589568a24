"""Joins answers to a benchmark's rows: by index, else by image and question; what does not fit is counted."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from armor_eval.tasks.understanding.predictions.layouts import Prediction, PredictionFile
from armor_eval.tasks.understanding.table import Row, Table
from armor_model.base.errors import UserError

_INSTRUCTIONS = re.compile(
    r"please answer (?:with )?yes or no\.?|answer the question using a single word or phrase\.?|<image(?: ?\d+)?>",
    re.IGNORECASE,
)
"""What papers and tools hang onto a question, or write into it where an image stands, each in its own way."""


@dataclass
class Joined:
    """Row id -> its answer, and what is to be told of the rest."""

    by_row: dict[str, Prediction] = field(default_factory=dict)
    folded: int = 0
    """Answers said again in the same words (POPE asks one question in up to three categories)."""
    contradicted: dict[str, str] = field(default_factory=dict)
    """Row id -> the places of its different answers: none of them is scored."""
    unknown: list[Prediction] = field(default_factory=list)
    other_question: list[Prediction] = field(default_factory=list)
    """Answers whose id is a row's, but whose question is not: not scored."""

    def notes(self) -> list[str]:
        """What a reader of the numbers should know, a line each."""
        counts = [
            (self.folded, "answers are given again in the same words and used once", ""),
            (len(self.unknown), "answers name no row of the data and are left out", _where(self.unknown)),
            (
                len(self.other_question),
                "answers carry another question than the data and are not scored",
                _where(self.other_question),
            ),
            (
                len(self.contradicted),
                "rows have several different answers, of which none is scored",
                next(iter(self.contradicted.values()), ""),
            ),
        ]
        return [f"{n} {text}{f' (first: {where})' if where else ''}" for n, text, where in counts if n]


def join(table: Table, file: PredictionFile, aliases: Mapping[str, str] | None = None) -> Joined:
    """Find each answer's row. `aliases`: ids of the question file -> row ids.

    UserError where most answers find none: the file is of another benchmark or edition.
    """
    # MMMU's own ids stand in a column `id` beside the TSV's index; the index comes first where both would do.
    rows = {str(row.fields["id"]): row for row in table.rows if "id" in row.fields}
    rows |= {row.id: row for row in table.rows}
    by_image_name: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in table.rows:
        if (name := row.fields.get("image_path")) is not None and "question" in row.fields:
            by_image_name[image_key(str(name))].append(row)
    joined = Joined()
    for one in file.predictions:
        named = _by_image_name(one, by_image_name) or _by_id(one, rows, aliases or {})
        if named is None:
            joined.unknown.append(one)
        elif not same_question(named, one.prompt):
            joined.other_question.append(one)
        else:
            _take(joined, named, one)
    lost = len(joined.unknown) + len(joined.other_question)
    if lost * 2 > len(file.predictions):
        raise UserError(
            f"{lost} of {len(file.predictions)} answers in {file.path} are to no question of {table.benchmark.name}"
            f" as {table.path.name} holds it: {'; '.join(joined.notes())}",
            "is it another benchmark's file, or another edition of the data (--data, --questions)?",
        )
    return joined


def _take(joined: Joined, row: Row, one: Prediction) -> None:
    earlier = joined.by_row.get(row.id)
    if row.id in joined.contradicted:
        return
    if earlier is None:
        joined.by_row[row.id] = one
    elif (earlier.text, earlier.replies) == (one.text, one.replies):
        joined.folded += 1
    else:
        joined.contradicted[row.id] = f"{earlier.where} and {one.where}"
        del joined.by_row[row.id]


def _by_id(one: Prediction, rows: Mapping[str, Row], aliases: Mapping[str, str]) -> Row | None:
    # MM-Vet's questions are v1_0, v1_1 ... in its own files and 0, 1 ... in LLaVA's.
    names = [
        name for index in one.ids for name in (aliases.get(index), index, f"v1_{index}", index.removeprefix("v1_"))
    ]
    return next((rows[name] for name in names if name is not None and name in rows), None)


def _by_image_name(one: Prediction, by_image_name: Mapping[tuple[str, str], list[Row]]) -> Row | None:
    """The image's row whose question the prompt holds; LLaVA's MME answers have the image as id."""
    if one.prompt is None:
        return None
    prompt = plain_question(one.prompt)
    for name in (one.image_name, *one.ids):
        rows = by_image_name.get(image_key(name), ()) if name else ()
        held = [row for row in rows if plain_question(str(row.fields["question"])) in prompt]
        longest = max((len(str(row.fields["question"])) for row in held), default=0)
        held = [row for row in held if len(str(row.fields["question"])) == longest]
        if len(held) == 1:
            return held[0]
    return None


def image_key(name: str) -> tuple[str, str]:
    """An image's category (the first folder, where there is one) and name without its ending."""
    path = PurePosixPath(name.strip())
    folders = [part for part in path.parts[:-1] if part != "."]
    return folders[0] if folders else "", path.stem


def same_question(row: Row, prompt: str | None) -> bool:
    """Whether the recorded text is, or holds, the row's question; True where none is recorded."""
    if prompt is None or "question" not in row.fields:
        return True
    question, prompted = plain_question(str(row.fields["question"])), plain_question(prompt)
    return question in prompted or prompted in question


def plain_question(text: str) -> str:
    """A question without its instructions, spaces and capitals."""
    return re.sub(r"\s+", "", _INSTRUCTIONS.sub("", text)).lower()


def _where(answers: list[Prediction]) -> str:
    return answers[0].where if answers else ""
