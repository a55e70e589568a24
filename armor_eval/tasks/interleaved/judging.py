"""Pairs of text and image in a free answer, and what a guest profile's comparer says of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL import Image

KEPT = {"text-only": (True, False), "image-only": (False, True)}
"""Baseline -> whether texts and images of an answer are kept."""


@dataclass(frozen=True)
class Compared:
    """One text and one image, held against each other and against what was asked for."""

    text_right: bool
    """The text states exactly what was asked for."""
    image_right: bool
    """The image shows exactly what was asked for."""
    agreement: float
    """F1 of the text's claims that are true of the image and the image's things that the text tells of; 0..1."""
    agrees: bool
    """Each claim is true, each thing is told of."""
    nothing_beyond: bool
    """Neither holds a thing that was not asked for."""
    claims: int
    """Claims that were read off the text."""
    seen: str
    """What the image shows, in words."""


@dataclass(frozen=True)
class Pair:
    """A part of an answer: its text, its image, and what was asked of both; None where nothing more was asked for."""

    text: str
    image: Image.Image | None
    target: JsonObject | None


class Comparer(Protocol):
    """A guest profile's reader of texts and images."""

    info: JsonObject
    """What it reads with, for the record."""

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """One a pair, in order."""
        ...


def paired(parts: Sequence[str | Image.Image], targets: Sequence[JsonObject]) -> list[Pair]:
    """The answer's images with the text that belongs to each, beside the targets in order.

    A text belongs to the image after it, the last one to the last image; where an answer begins with an image, texts
    follow theirs. All texts of an answer with one image belong to it. What is missing is an empty text or None.
    """
    texts: list[str] = [""]
    images: list[Image.Image | None] = []
    for part in parts:
        if isinstance(part, str):
            texts[-1] = f"{texts[-1]} {part}".strip()
        else:
            images.append(part)
            texts.append("")
    if not texts[0] and len(images) > 1:
        texts = texts[1:]
    elif images:
        texts = [*texts[:-2], f"{texts[-2]} {texts[-1]}".strip()]
    made = []
    for at in range(max(len(targets), len(images), 1)):
        made.append(
            Pair(
                texts[at] if at < len(texts) else "",
                images[at] if at < len(images) else None,
                targets[at] if at < len(targets) else None,
            )
        )
    return made


@dataclass(frozen=True)
class Verdict:
    """A whole answer: a pair that is wrong makes it wrong."""

    text_right: bool
    image_right: bool
    agrees: bool
    agreement: float
    nothing_beyond: bool
    claims: int
    seen: list[str]

    @property
    def right(self) -> bool:
        return self.text_right and self.image_right and self.agrees

    def extras(self) -> JsonObject:
        return asdict(self)


def verdict_of(compared: Sequence[Compared]) -> Verdict:
    """All pairs together; the agreement is the pairs' mean."""
    return Verdict(
        text_right=all(one.text_right for one in compared),
        image_right=all(one.image_right for one in compared),
        agrees=all(one.agrees for one in compared),
        agreement=sum(one.agreement for one in compared) / len(compared),
        nothing_beyond=all(one.nothing_beyond for one in compared),
        claims=sum(one.claims for one in compared),
        seen=[one.seen for one in compared],
    )
