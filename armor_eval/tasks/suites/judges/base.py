"""What a suite asks of a judge: one small protocol, and the records that go in and out.

A judge implements what it can. An image that fails is that image's exception, never the batch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from armor_eval.runs.schema import JudgeInfo
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_model.base.jsons import JsonView

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Ask:
    """One probe as it is put to the judge."""

    probe: Probe
    text: str
    """The template, filled."""
    system: str | None = None


@dataclass(frozen=True)
class Shown:
    """One image with everything that is asked about it."""

    item: SuiteItem
    sample: int
    """From 0."""
    images: tuple[Image.Image, ...]
    """RGB; the item's source images first, the judged image last."""
    asks: tuple[Ask, ...]
    image_last: bool = False
    """The words come before the images."""


@dataclass(frozen=True)
class Reading:
    """What the judge made of one probe."""

    text: str
    """Its answer, raw; for probabilities the likeliest first token."""
    log_p: float | None = None
    """Natural logarithm (float64) of the first tokens' probability mass; -inf is 0. None where none was asked."""
    extras: JsonView = field(default_factory=dict)


class Judge(Protocol):
    """A model, a server, recorded replies, or a rule, that looks at images."""

    info: JudgeInfo
    settings: JsonView
    """Decoding, precision asked for, image size: all whose change would change a score. Known before it is loaded."""
    facts: JsonView
    """What loading showed (device, how prefixes are shared), for the record; filled by `prepare`."""

    def prepare(self, kind: str) -> None:
        """Load, and try what a kind needs. UserError where this judge cannot do it."""
        ...

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        """For each image a reading (with `log_p`) an ask, in order."""
        ...

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        """For each image a reading (greedy text) an ask, in order."""
        ...

    def close(self) -> None: ...


class UnreadReply(ValueError):  # noqa: N818 - what the reply is
    """One line: a judge's reply that no rule reads. Its image has no score, and the headline is withheld."""
