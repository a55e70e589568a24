"""Rubric replies: the integers that a judge's chat answer gives, read by the suite's own rule, or nothing at all.

A reply that the rule does not read, or that names a number outside of the scale, is unread: it is counted and withholds
the headline. The official scripts skip it without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from armor_eval.base.data import Declared
from armor_eval.tasks.understanding.thinking import strip_thoughts


class Rubric(Declared):
    """What a judge is asked for, as a suite's `options` have it: fields on one scale, and how they become a score."""

    fields: dict[str, float] = Field(min_length=1)
    """Field -> weight; weights sum to 1."""
    high: int = Field(ge=1)
    """The scale ends here; it begins at 0."""
    rule: Literal["first-bit", "last-digits", "numbers"]
    """How a reply is read (RULES)."""
    mean: Literal["arithmetic", "geometric"] = "arithmetic"

    def read(self, reply: str) -> dict[str, int] | None:
        """Field -> integer, thoughts being left out; None where the reply is unread."""
        found = RULES[self.rule](strip_thoughts(reply), list(self.fields))
        values = {name: found[name] for name in self.fields if name in found}
        whole = len(values) == len(self.fields) and all(0 <= value <= self.high for value in values.values())
        return values if whole else None

    def score(self, values: Mapping[str, int]) -> float:
        """The weighted mean of the fields, 0..1."""
        if self.mean == "geometric":
            return math.prod((values[name] / self.high) ** weight for name, weight in self.fields.items())
        return sum(weight * values[name] for name, weight in self.fields.items()) / self.high


def _bare(text: str, digits: str) -> list[int]:
    """Lines that are a single digit."""
    return [int(digit) for digit in re.findall(rf"(?m)^\s*([{digits}])\s*$", text)]


def _named(text: str, names: Sequence[str], number: str) -> list[tuple[str, int]]:
    """Every field's name that is followed by a number, in the reply's order; stars and a colon may stand between."""
    either = "|".join(map(re.escape, names))
    by_lower = {name.lower(): name for name in names}
    pairs = re.findall(rf"\*{{0,2}}({either})\*{{0,2}}\s*[:：]?\s*({number})", text, re.IGNORECASE)
    return [(by_lower[name.lower()], int(value)) for name, value in pairs]


def first_bit(text: str, names: Sequence[str]) -> dict[str, int]:
    """WISE_Verified: the first `Score: 0` or `Score: 1`, else a single line that is just the bit."""
    found = _named(text, names, r"[01]\b")
    bare = _bare(text, "01")
    return dict(found[:1]) if found else {names[0]: bare[0]} if len(bare) == 1 else {}


def last_digits(text: str, names: Sequence[str]) -> dict[str, int]:
    """WISE: each field's name followed by one digit, the last one counting; else bare lines in their order."""
    bare = _bare(text, "0-9")
    return dict(_named(text, names, r"\d")) or (dict(zip(names, bare, strict=True)) if len(bare) == len(names) else {})


def numbers(text: str, names: Sequence[str]) -> dict[str, int]:
    """Each field's name followed by an integer, the last one counting."""
    return dict(_named(text, names, r"\d+(?![.\d])"))


RULES: dict[str, Callable[[str, Sequence[str]], dict[str, int]]] = {
    "first-bit": first_bit,
    "last-digits": last_digits,
    "numbers": numbers,
}
