"""What the harness asks of a model: three small protocols, and the records that go in and out.

A model implements those it can. A row that fails is that row's `error`, never the batch's exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.runs.schema import ModelInfo
from armor_model.base.errors import RunFailed
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

Part: TypeAlias = "str | Image.Image | Path"
"""A piece of a message: text, or an image (decoded, or a file)."""

E = TypeVar("E")
Source = Callable[[bool], list[E] | None]
"""`source(wait)` gives the next encoded requests: an empty list where none is ready and `wait` is false, None when
there are no more."""


class Decoding(BaseModel):
    """How tokens are chosen. The defaults are InternVL's protocol: greedy, up to 4,096 new tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    max_new_tokens: int = Field(default=4096, ge=1)
    """Text tokens an answer may have; it ends earlier at the end-of-turn token."""
    temperature: float = Field(default=0.0, ge=0)
    """0 = greedy."""
    top_k: int = Field(default=0, ge=0)
    """0 = no limit."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)
    """Base seed where something is sampled."""
    guidance: float | None = Field(default=None, ge=0)
    """Classifier-free guidance of images; 1 = without, None = the model's own (which stands in `extras.drawing`)."""
    image_temperature: float = Field(default=1.0, ge=0)
    """Of images; this one and the next two a checkpoint can set where nothing is said (`own_decoding`)."""
    image_top_k: int = Field(default=0, ge=0)
    image_top_p: float = Field(default=1.0, gt=0, le=1)
    mask_imgbos: bool = False
    """Forbid the switch to drawing while answering. Off: a switch may happen, is counted and shown."""


def own_decoding(model: object, decoding: Decoding) -> Decoding:
    """The decoding with what the model's checkpoint sets of drawing, where the caller says nothing of it."""
    own = model.image_defaults if isinstance(model, HasImageDefaults) else {}
    return decoding.model_copy(update={k: v for k, v in own.items() if k not in decoding.model_fields_set})


@dataclass(frozen=True)
class Question:
    """One thing to answer: text and images in the order the model is to read them."""

    id: str
    parts: Sequence[Part]
    dataset: str | None = None
    """Official dataset name: tiling and other protocol details hang on it."""
    max_tiles: int = 6
    """448-pixel tiles an image may be cut into."""
    upscale_first: bool = False
    """MMMU: the first image is doubled in size before it is tiled."""
    fields: JsonObject = field(default_factory=dict)
    """The data set's row, for models that are asked by another protocol than ours."""
    answer_prefix: str = ""
    """What the answer is made to begin with, where such a protocol says so."""


@dataclass(frozen=True)
class Answer:
    """What came back; `error` set means that nothing did."""

    text: str = ""
    error: str | None = None
    """One line; the item is counted as `error`, never scored."""
    extras: JsonObject = field(default_factory=dict)
    """`imgbos`: switches to drawing while answering; usage counts of an endpoint ..."""


class ModelUnavailable(RunFailed):
    """The model cannot be asked any more (server dead, quota spent): the run stops, and the same command resumes it."""

    def __init__(self, why: str, answers: Sequence[Answer | None]) -> None:
        super().__init__(why, "the answers so far are kept: the same command goes on from there")
        self.answers: list[object] = list(answers)
        """What the batch did bring, in the order of its questions; None: not to be had."""


class Model(Protocol):
    """What every adapter has; what it can do is told by the protocols below."""

    @property
    def info(self) -> ModelInfo: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class NotAsked:
    """Stands for a model whose outputs are there already: images of a folder, answers of a run."""

    info: ModelInfo

    def close(self) -> None: ...


@runtime_checkable
class AnswersQuestions(Model, Protocol):
    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """One answer a question, in order."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class AnswersAsTheyFinish(AnswersQuestions, Protocol[E]):
    """A model whose rows take the next question as soon as they are free; E is a question as it encodes it."""

    def encode(self, questions: Sequence[Question], decoding: Decoding) -> list[E]:
        """All that is to be done before the model, one entry a question; an Answer with an error where it cannot be
        asked. Called in several threads, ahead of the model."""
        ...

    def answers(self, source: Source[E], decoding: Decoding, rows: int) -> Iterator[tuple[int, Answer]]:
        """Answers, by number, as they are finished, at most `rows` under way."""
        ...


@runtime_checkable
class RespondsAsTheyFinish(Model, Protocol[E]):
    """The same of conversations that are answered freely."""

    def encode_conversations(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[E]:
        """As `AnswersAsTheyFinish.encode`; an exception where one cannot be asked."""
        ...

    def responses(
        self, source: Source[E], decoding: Decoding, rows: int
    ) -> Iterator[tuple[int, list[str | Image.Image]]]:
        """As `AnswersAsTheyFinish.answers`; text and images of each answer, in order."""
        ...


class Room(NamedTuple):
    """What a loaded model can take at once."""

    tokens: int
    """Of prompts and answers together, by the memory that is free."""
    rows: int
    """More of them no longer pay."""


@runtime_checkable
class KnowsItsRoom(Model, Protocol):
    """A model in this process's memory."""

    def room(self) -> Room:
        """Loads the model where it is not."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A model that loads, and tries one question, before a run's first item."""

    def prepare(self, images: bool = True) -> JsonObject:
        """What the run must record of how the model is asked and decodes. `images`: whether it will be shown any.

        Raises UserError where the model cannot be loaded or cannot be asked so.
        """
        ...


@runtime_checkable
class DrawsImages(Model, Protocol):
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        """One image a prompt and seed, in order; an exception stands where one failed."""
        ...

    def settings(self, decoding: Decoding) -> JsonObject:
        """What it draws with, its own defaults too, for `extras.drawing`. UserError for what it cannot honour."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class HasImageDefaults(Protocol):
    @property
    def image_defaults(self) -> Mapping[str, float]:
        """Fields of the decoding that the checkpoint sets."""
        ...


@runtime_checkable
class RespondsFreely(Model, Protocol):
    def respond(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[list[str | Image.Image] | Exception]:
        """For each conversation what the model said, text and images in order; an exception where one failed."""
        ...

    def settings(self, decoding: Decoding) -> JsonObject:
        """As that of DrawsImages."""
        ...

    def close(self) -> None: ...
