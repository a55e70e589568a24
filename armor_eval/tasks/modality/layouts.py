"""Files of free requests in others' layouts, as requests of ours: plain questions, UEval's, OpenING's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from armor_eval.tasks.suites.rows import Row, row_of
from armor_model.base.jsons import JsonObject

IMAGE = "<image>"
BEGIN = "<BEGIN>"
"""Parts OpenING's instruction from what the answer goes on from; no model and no judge sees it."""
TaskType = Literal["space", "textbook", "diagram", "paper", "art", "life", "tech", "exercise"]


def listed(value: object) -> object:
    """A path, a list of them, or nothing, as a list."""
    return [] if not value else [value] if isinstance(value, str) else value


class Plain(Row):
    """`{"id", "question"}` with the question's own images under `given`: a file of answers is one of questions too."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    id: str
    question: str = Field(min_length=1, validation_alias=AliasChoices("question", "prompt"))
    given: list[str] = Field(default_factory=list)
    task_type: TaskType | None = None
    cluster: str | None = None

    _listed = field_validator("given", mode="before")(listed)

    def request(self) -> JsonObject:
        marked = self.question.count(IMAGE) == len(self.given)
        text = self.question if marked else IMAGE * len(self.given) + self.question.replace(IMAGE, "")
        return _request(self.id, self.task_type or "question", text, self.given, self.cluster)


class Step(Row):
    """A piece of OpenING's input or output."""

    text: str | None = None
    image: str | None = None


class Turn(Row):
    input: list[Step] | None = None
    output: list[Step] | None = None


class Opening(Row):
    """A line of OpenING's data, or a model's file of one answer, whose `output` is its own."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    total_uid: str = Field(pattern=r"^\d{7}$")
    meta_task_name: str = "question"
    conversations: list[Turn] = Field(min_length=1)

    @property
    def asked(self) -> tuple[str, list[str]]:
        """The input's text, a mark where an image stands, and the images."""
        return joined([step for turn in self.conversations for step in turn.input or ()])

    @property
    def answered(self) -> tuple[str, list[str]]:
        """The same of the output."""
        return joined([step for turn in self.conversations for step in turn.output or ()])

    def request(self) -> JsonObject:
        text, images = self.asked
        told, drawn = self.answered
        wants = {"text": bool(told.replace(IMAGE, "").strip()) or not drawn, "image": bool(drawn)}
        return {**_request(self.total_uid, self.meta_task_name, text, images, None), "expect": wants}


def joined(steps: Sequence[Step]) -> tuple[str, list[str]]:
    """(text with a mark for each image, the images). An image stands at its step's only mark, else at its end."""
    texts, images = [], []
    for step in steps:
        text = " ".join((step.text or "").replace(BEGIN, " ").split())
        if text.count(IMAGE) != bool(step.image):
            text = f"{' '.join(text.replace(IMAGE, ' ').split())} {IMAGE if step.image else ''}".strip()
        texts.append(text)
        images += [step.image] if step.image else []
    return " ".join(filter(None, texts)), images


def _request(id: str, kind: str, text: str, images: list[str], cluster: str | None) -> JsonObject:
    return {
        "id": id,
        "kind": kind,
        "messages": [{"role": "user", "content": text}],
        "images": images,
        "expect": {"text": True, "image": True},
        "cluster": cluster,
    }


LAYOUTS: dict[str, Callable[[object, str], JsonObject]] = {
    "total_uid": lambda value, where: row_of(Opening, value, where).request(),
    "question": lambda value, where: row_of(Plain, value, where).request(),
    "prompt": lambda value, where: row_of(Plain, value, where).request(),
}
"""A field that only this layout has -> (record, its place) -> a request as `records.Record` has it."""


def as_request(value: object, where: str) -> object:
    """A record of another layout as a request of ours; anything else as it is. UserError naming the place."""
    if isinstance(value, dict) and "messages" not in value:
        reader = next((read for field, read in LAYOUTS.items() if field in value), None)
        return value if reader is None else reader(value, where)
    return value
