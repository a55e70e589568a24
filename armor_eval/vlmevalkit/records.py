"""What goes through the door to VLMEvalKit and comes back: requests, replies, verdicts; and what it asks of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@dataclass(frozen=True)
class Request:
    """One answer to be judged."""

    id: str
    prompt: str
    """VLMEvalKit's own words, as its `evaluate` will send them."""
    kind: str
    """The family that reads the reply."""
    options: JsonObject = field(default_factory=dict)
    system: str | None = None


@dataclass
class Judged:
    """Replies as VLMEvalKit wants them, by prompt; and the items that no reply could be had for."""

    replies: dict[str, str] = field(default_factory=dict)
    usable: dict[str, str] = field(default_factory=dict)
    """Item id -> the reply in the form that is read without doubt."""
    raw: dict[str, str] = field(default_factory=dict)
    """Item id -> what the judge said."""
    failed: dict[str, str] = field(default_factory=dict)
    """Item id -> why, one line."""

    def generate(self, prompt: str, **_: object) -> str:
        """Stands in for VLMEvalKit's judge: says again what was said."""
        return self.replies[prompt]


@dataclass
class Verdict:
    """What the official rule made of one answer."""

    parsed: object
    score: float | None
    unparsed: bool = False
    extras: JsonObject = field(default_factory=dict)


@dataclass
class Evaluated:
    """What VLMEvalKit's `evaluate` said of a set of predictions."""

    headline: float | None
    """None where a row has no verdict."""
    verdicts: dict[str, Verdict]
    differing: list[str] = field(default_factory=list)
    """Rows (of circular evaluation: groups) that it scored otherwise than their verdicts say."""


class ScorableRow(Protocol):
    """A question, as scoring knows it."""

    id: str
    cluster: str


class ScoringRule(Protocol):
    """A family, as scoring knows it (armor_eval.tasks.families.base)."""

    scorer: str
    stand_in: str
    index_matters: bool

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]: ...

    def requests(self, frame: pd.DataFrame) -> list[Request]: ...

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated: ...


class Declared(Protocol):
    """A benchmark, as scoring knows it."""

    @property
    def dataset(self) -> str: ...

    @property
    def scoring(self) -> ScoringRule: ...


class Scorable(Protocol):
    """A benchmark's file with its rows."""

    @property
    def benchmark(self) -> Declared: ...

    @property
    def rows(self) -> Sequence[ScorableRow]: ...

    @property
    def frame(self) -> pd.DataFrame: ...

    @property
    def reading(self) -> str: ...


class Work(Protocol):
    """A prediction file that VLMEvalKit scores, as families see it."""

    @property
    def table(self) -> Scorable: ...

    @property
    def file(self) -> Path: ...

    def load(self, file: Path | str) -> pd.DataFrame:
        """A file as VLMEvalKit reads it, under our ids."""
        ...

    def result(self, name: str) -> pd.DataFrame:
        """A file that `evaluate` left beside the predictions, by what follows their name."""
        ...
