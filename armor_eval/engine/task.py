"""Tasks: what is measured, as the engine sees it. A benchmark, a suite or an ablation's evaluation is one of these.

A task names its units, makes each unit's request, and judges outputs into items. Everything else - bundle, resume,
batches, processes, failures, progress - is the engine's (armor_eval.engine.run).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from armor_eval.models.base import Question
from armor_eval.runs.schema import (
    DataInfo,
    Item,
    JudgeInfo,
    ModelInfo,
    Reservation,
    RunKind,
    ScorerInfo,
    Scores,
    Subset,
)
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from armor_eval.models.base import Model
    from armor_eval.runs.bundle import Bundle


@dataclass(frozen=True)
class Unit:
    """One thing that is asked once and scored once."""

    id: str
    """Unique in the run; the item's id."""
    cluster: str
    """What is resampled together."""
    group: str | None = None
    """Category or task: slices and the terms of composites."""
    gold: Any = None
    length: int = 0
    """Rough length of the request (characters): like lengths share a batch, the longest first. 0 = keep the order."""
    shared: Hashable = None
    """What it shares with others (an image): units of one value are asked side by side."""

    def fields(self, prompt: str, **more: object) -> JsonObject:
        """What every item of this unit says: its names, and what was asked."""
        names = {"id": self.id, "cluster": self.cluster, "group": self.group}
        return {**names, "prompt": prompt, "prompt_sha256": sha256_text(prompt), **more}


@dataclass(frozen=True)
class Prompt:
    """A request to draw one image."""

    id: str
    text: str
    seed: int


@dataclass(frozen=True)
class Conversation:
    """A request to respond freely: messages as chat templates take them, images as PIL images."""

    id: str
    messages: list[JsonObject]
    seed: int


@dataclass(frozen=True)
class Ready:
    """An output that is there already (an image on disk): no model is asked."""

    output: object


Request = Question | Prompt | Conversation | Ready


@dataclass(frozen=True)
class Described:
    """The part of run.json that the task knows."""

    kind: RunKind
    benchmark: str
    data: DataInfo
    subset: Subset | None
    prompt_sha256: str
    scorer: ScorerInfo
    judge: JudgeInfo = field(default_factory=lambda: JudgeInfo(name="none", endpoint="none"))
    protocol: Mapping[str, str] = field(default_factory=dict)
    seeds: Mapping[str, int | None] = field(default_factory=dict)
    """None stands for the seed of the run's decoding."""
    extras: JsonView = field(default_factory=dict)
    reservations: Sequence[Reservation] = ()
    asks: bool = True
    """False where all outputs are there already."""
    decoded: JsonView = field(default_factory=dict)
    """How outputs that are there already were decoded, as far as that is known."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """`wall_seconds` and `cpu_seconds` that making them took."""


@dataclass(frozen=True)
class Outcome:
    """The scored items, in the task's order, and the numbers over them."""

    items: list[Item]
    scores: Scores
    reason: str | None = None
    """Why the run is partial beyond a withheld headline, one line."""
    update: JsonView = field(default_factory=dict)
    """Fields of run.json that only the end knows (extras, reservations), merged over those of the start."""


class Task(Protocol):
    """What is measured. Implementations hold their data and judges; they hold no progress of a run."""

    whole_batches: bool
    """A batch that a resumed run lacks in part is made again whole: its judge's numbers hang on the batch."""

    def check(self, model: Model) -> None:
        """UserError where this model cannot be measured, before anything heavy is loaded."""
        ...

    def describe(self, model: ModelInfo) -> Described: ...

    def units(self) -> Sequence[Unit]:
        """In the order of the data; the engine chooses the order of asking."""
        ...

    def requests(self, units: Sequence[Unit], folder: Path) -> Sequence[Request | Exception]:
        """One a unit; an exception costs that unit. Runs in worker threads, some batches ahead; `folder`: the run's."""
        ...

    def judge(
        self, units: Sequence[Unit], requests: Sequence[Request | Exception], outputs: Sequence[Any], bundle: Bundle
    ) -> list[Item]:
        """One item a unit, scored as far as it can be at once; images are stored through the bundle."""
        ...

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        """Score everything that was journaled; called once, in the first process."""
        ...


@runtime_checkable
class Begins(Protocol):
    """A task that has something to do before the first unit is asked: take answers over, have the model load."""

    def begin(self, bundle: Bundle, model: Model) -> None:
        """Called once, by the first process, on a run that is not complete; the other processes wait for it."""
        ...


@runtime_checkable
class JudgesSideBySide(Protocol):
    """A task whose judge uses an accelerator for a part of the time: while one batch computes, another is read, resized
    and stored. `judge` runs in that many threads; its own models are its own to lock."""

    judging_threads: int


Tick = Callable[[int, int], None]
"""Called with (units done, of them failed) after each batch."""
Progress = Callable[[int, int], Tick]
"""Called with (units in all, done before) once; returns what is called after each batch."""
