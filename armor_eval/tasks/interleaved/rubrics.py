"""Rubrics of interleaved answers: four dimensions on a scale, zero rules in code, replies read or refused.

`armor-rubric-v1` is in our own words. `synjudge` is InterSyn's (its prompt has no licence: the user's file, by hash).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from armor_eval.stats.composite import Composite, fraction
from armor_eval.tasks.suites.reductions import tally_number
from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text

HIGH = 5
DIMENSIONS = ("text", "image", "quality", "synergy")
"""Text against the question, image against the question, the image's technique, and whether both belong together."""
ZERO_WITHOUT_TEXT = frozenset({"text", "synergy"})
ZERO_WITHOUT_IMAGE = frozenset({"image", "quality", "synergy"})

OWN_WORDS = """You grade one answer to a question. The answer is made of text and images; the images are shown, and
[image 1], [image 2] ... stand in the text where they belong. Grade four things with a whole number from 0 to 5:

Text: does the text answer the question? 0: there is no text. 1: it has nothing to do with the question. 3: it answers
in part, or with mistakes. 5: it answers all of it, correctly and clearly.
Image: do the images show what the question asks for? 0: there is no image. 1: nothing of it. 3: some of it, or with
wrong details. 5: all of it.
Quality: how well are the images made, whatever they show? 0: there is no image. 1: unrecognisable. 3: clear, with
visible faults. 5: sharp, detailed and without faults.
Synergy: do text and images belong together? 0: one of them is missing, or they contradict each other. 3: they agree.
5: they agree, and each adds what the other lacks.

Length, politeness and the order of the answer change no grade. Reply with one line and nothing else:
[Text: N; Image: N; Quality: N; Synergy: N]"""


@dataclass(frozen=True)
class Rubric:
    """How a judge is asked, and under which names it gives its numbers."""

    name: str
    names: Mapping[str, tuple[str, ...]]
    """Dimension -> its names in a reply, whatever their case."""
    words: str | None
    """The judge's prompt; None: a file of the user's."""
    sha256: str | None = None
    """First digits of the published prompt's."""

    def read(self, reply: str) -> dict[str, int] | None:
        """Dimension -> 0..5; None where not every dimension is named with one whole number of the scale."""
        text = strip_thoughts(reply)
        found: dict[str, set[int]] = {}
        for dimension, names in self.names.items():
            either = "|".join(map(re.escape, names))
            for value in re.findall(rf"(?i)(?<![\w-])(?:{either})\W{{0,6}}?[:=]\W{{0,4}}?(-?\d+(?:\.\d+)?)", text):
                if not value.isdigit():
                    return None
                found.setdefault(dimension, set()).add(int(value))
        if set(found) != set(self.names) or any(len(values) != 1 for values in found.values()):
            return None
        read = {dimension: values.pop() for dimension, values in found.items()}
        return read if all(0 <= value <= HIGH for value in read.values()) else None


RUBRICS: dict[str, Rubric] = {
    rubric.name: rubric
    for rubric in (
        Rubric(
            "armor-rubric-v1",
            {"text": ("Text",), "image": ("Image",), "quality": ("Quality",), "synergy": ("Synergy",)},
            OWN_WORDS,
        ),
        Rubric(
            "synjudge",
            {
                "text": ("Text Response Quality", "Text Content Completeness"),
                "image": ("Image Response Quality", "Image Content Quality", "Image Content Completeness"),
                "quality": ("Image Aesthetic Quality", "Image Quality"),
                "synergy": ("Text-Image Synergy", "Text-Image Consistency"),
            },
            None,
            "4791772464e4ba09",
        ),
    )
}


def words_of(rubric: Rubric, file: Path | None) -> tuple[str, bool]:
    """(the judge's prompt, whether it is the published one). UserError for a missing file, or one where none is
    wanted."""
    if rubric.words is not None:
        if file is not None:
            raise UserError(f"{rubric.name} has its own words", "leave --prompt out")
        return rubric.words, True
    if file is None:
        raise UserError(f"the words of {rubric.name} have no licence and are not shipped", "give --prompt FILE")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --prompt {file}: {error}") from None
    return text, sha256_text(text).startswith(rubric.sha256 or "")


def zero_rules(text: str, images: Sequence[object]) -> dict[str, int]:
    """The dimensions that are 0 whatever a judge says, for what is missing."""
    zero = (frozenset() if text.strip() else ZERO_WITHOUT_TEXT) | (frozenset() if images else ZERO_WITHOUT_IMAGE)
    return {dimension: 0 for dimension in DIMENSIONS if dimension in zero}


def composites() -> list[Composite]:
    """The mean of the four dimensions, then each, 0..5, over answers that were graded."""
    return [
        Composite(
            name,
            "points",
            "higher",
            (0.0, float(HIGH)),
            ("sum", "n"),
            partial(tally_number, name),
            fraction,
            primary=name == "mean",
        )
        for name in ("mean", *DIMENSIONS)
    ]
