"""Rubrics of interleaved answers: four dimensions or seven on a scale, zero rules in code, replies read or refused.

`armor-rubric-v1` is ours. `synjudge` is InterSyn's four dimensions (its prompt has no licence: the user's file, by
hash), `opening-scores` OpenING's seven, asked for in words of ours or of the user's file.
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

WITHOUT_TEXT = frozenset({"text", "synergy"})
WITHOUT_IMAGE = frozenset({"image", "quality", "synergy"})

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
OPENING_WORDS = """You grade one answer to a question. The answer is made of text and images, in one step or several;
the images are shown, and [image 1], [image 2] ... stand in the text where they belong. Grade seven things with a whole
number from 0 (nothing of it) to 10 (nothing is missing):

Correctness: what text and images say is true and follows the question.
Image-Text Coherency: each image shows what the text beside it tells.
Multi-step Consistency: persons, things, style and facts stay the same from step to step.
Content Quality: the text reads well and the images are clear and without faults.
Human Preference Alignment: people would find it helpful, pleasant and harmless.
Completeness: no part or step that the question asks for is missing.
Content Richness: it gives more than the least that would do, without going astray.

Length, politeness and the order of the answer change no grade. Reply with one line and nothing else:
[Correctness: N; Image-Text Coherency: N; Multi-step Consistency: N; Content Quality: N; Human Preference Alignment: N;
Completeness: N; Content Richness: N]"""


@dataclass(frozen=True)
class Rubric:
    """How a judge is asked, and under which names it gives its numbers."""

    name: str
    names: Mapping[str, tuple[str, ...]]
    """Dimension -> its names in a reply, whatever their case."""
    words: str | None
    """The judge's prompt; None: a file of the user's."""
    sha256: str | None = None
    """First digits of the published prompt's; None where nobody published one that is known."""
    high: int = 5
    """Every dimension's scale is 0 to this."""
    without_text: frozenset[str] = WITHOUT_TEXT
    without_image: frozenset[str] = WITHOUT_IMAGE
    """What is 0, whatever a judge says, for an answer without text, without images; all of it for one of neither."""
    ours: bool = False
    """Its words are its own; else a published rubric is asked about in words of ours."""

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
        return read if all(0 <= value <= self.high for value in read.values()) else None

    def zero(self, text: str, images: Sequence[object]) -> dict[str, int]:
        """The dimensions that are 0 whatever a judge says, for what is missing."""
        if not text and not images:
            return dict.fromkeys(self.names, 0)
        missing = (frozenset() if text else self.without_text) | (frozenset() if images else self.without_image)
        return {dimension: 0 for dimension in self.names if dimension in missing}

    def composites(self) -> list[Composite]:
        """The mean of the dimensions, then each, over answers that were graded."""
        return [
            Composite(
                *(name, ("sum", "n"), partial(tally_number, name), fraction, "grade"),
                bounds=(0.0, float(self.high)),
                primary=name == "mean",
            )
            for name in ("mean", *self.names)
        ]


RUBRICS: dict[str, Rubric] = {
    rubric.name: rubric
    for rubric in (
        Rubric(
            "armor-rubric-v1",
            {"text": ("Text",), "image": ("Image",), "quality": ("Quality",), "synergy": ("Synergy",)},
            OWN_WORDS,
            ours=True,
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
        Rubric(
            "opening-scores",
            {
                "correctness": ("Correctness",),
                "coherency": ("Image-Text Coherency",),
                "consistency": ("Multi-step Consistency",),
                "quality": ("Content Quality",),
                "preference": ("Human Preference Alignment",),
                "completeness": ("Completeness",),
                "richness": ("Content Richness",),
            },
            OPENING_WORDS,
            high=10,
            without_text=frozenset(),
            without_image=frozenset(),
        ),
    )
}


def words_of(rubric: Rubric, file: Path | None) -> tuple[str, bool]:
    """(the judge's prompt, whether it is the published one). UserError for a missing file, or one where none is
    wanted."""
    if rubric.ours and file is not None:
        raise UserError(f"{rubric.name} has its own words", "leave --prompt out")
    if file is None and rubric.words is not None:
        return rubric.words, rubric.ours
    if file is None:
        raise UserError(f"the words of {rubric.name} have no licence and are not shipped", "give --prompt FILE")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read --prompt {file}: {error}") from None
    return text, rubric.sha256 is not None and sha256_text(text).startswith(rubric.sha256)
