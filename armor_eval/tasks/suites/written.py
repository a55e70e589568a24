"""Text in an image against the text asked for: the cleaning, the matches and the edit distance of LongText and OneIG.

Both keep letters, digits, French accents and CJK and drop everything else, so that "24-hour" is "24hour" and "don't"
is "dont". Order is ignored in a match, and what is written too much is not punished.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from armor_eval.base.data import Declared

NO_TEXT = "No text recognized."
"""What the OCR prompt has a judge say of an image without text. It is removed with its full stop only: without the stop
the three words stay, as in the official scripts."""
_DROPPED = re.compile(r"[^\u4e00-\u9fa5a-zA-Z0-9\sàâäéèêëîïôöùûüçÀÂÄÉÈÊËÎÏÔÖÙÛÜÇ]")
_CJK = re.compile(r"[\u4e00-\u9fa5]")


class LongText(Declared):
    """Options of a suite that counts as LongText does."""

    units: Literal["words", "characters"]


class OneIG(Declared):
    """Options of a suite that counts as OneIG does."""

    limit: float = Field(gt=0)
    """M: the mean edit distance from which on nothing is left of the score."""


@dataclass(frozen=True)
class Written:
    """One image's text against its target."""

    matched: int
    """Target units (words, or characters in Chinese) that were found, each as often as it is asked for."""
    target: int
    """Units of the target."""
    distance: int | None = None
    """Edit distance in characters of the cleaned texts; None in LongText, which does not ask."""


def kept(text: str) -> str:
    """The text without what does not count, each run of white space one space."""
    return " ".join(_DROPPED.sub("", text).split())


def words(text: str) -> list[str]:
    """LongText's units in English: lower-cased words."""
    return kept(text).lower().split()


def characters(text: str) -> list[str]:
    """LongText's units in Chinese: characters without white space, case kept."""
    return list("".join(kept(text).split()))


UNITS = {"words": words, "characters": characters}


def longtext(target: Sequence[str], read: str, units: str) -> Written:
    """LongText's count: the target's texts joined by a space, against what was read. `units`: one of UNITS."""
    wanted, seen = UNITS[units](" ".join(target)), UNITS[units](read.replace(NO_TEXT, ""))
    return Written(_common(wanted, seen), len(wanted))


def oneig(target: str, read: str) -> Written:
    """OneIG's count and edit distance. Case counts; a text that holds Chinese loses its white space, each on its own,
    and the target alone decides whether words or characters are matched."""
    wanted, seen = _compact(target), _compact(read.replace(NO_TEXT, ""))
    if _CJK.search(wanted):
        return Written(_common(wanted, seen), len(wanted), _distance(wanted, seen))
    return Written(_common(wanted.split(), seen.split()), len(wanted.split()), _distance(wanted, seen))


def _compact(text: str) -> str:
    cleaned = kept(text)
    return "".join(cleaned.split()) if _CJK.search(cleaned) else cleaned


def _common(wanted: Sequence[str], seen: Sequence[str]) -> int:
    return (Counter(wanted) & Counter(seen)).total()


def _distance(a: str, b: str) -> int:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.distance(a, b)
