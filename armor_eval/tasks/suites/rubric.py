"""Rubric replies: the integers that a judge's chat answer gives, read by the suite's own rule, or nothing at all.

A reply that the rule does not read, or that names a number outside of the scale, is unread: it is counted and withholds
the headline. The official scripts skip it without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from armor_eval.tasks.understanding.thinking import strip_thoughts


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked for: fields on one scale, and how they become an image's score."""

    name: str
    fields: Mapping[str, float]
    """Field -> weight; the weights sum to 1 / `high`, so that a score is between 0 and 1."""
    high: int
    """The scale ends here; it begins at 0."""
    rule: Callable[[str, Rubric], Mapping[str, int]]
    """The fields that a reply gives; fewer than all means that it is unread."""

    def read(self, reply: str) -> dict[str, int] | None:
        """Field -> integer, thoughts being left out; None where the reply is unread."""
        found = self.rule(strip_thoughts(reply), self)
        values = {name: found[name] for name in self.fields if name in found}
        whole = len(values) == len(self.fields) and all(0 <= value <= self.high for value in values.values())
        return values if whole else None

    def score(self, values: Mapping[str, int]) -> float:
        """The weighted sum, 0..1."""
        return sum(weight * values[name] for name, weight in self.fields.items())


def _bare(text: str, digits: str) -> list[int]:
    """Lines that are a single digit."""
    return [int(digit) for digit in re.findall(rf"(?m)^\s*([{digits}])\s*$", text)]


def first_bit(text: str, rubric: Rubric) -> dict[str, int]:
    """WISE_Verified: the first `Score: 0` or `Score: 1`, else a single line that is just the bit."""
    (name,) = rubric.fields
    found = re.search(rf"\*{{0,2}}{name}\*{{0,2}}\s*[:：]?\s*([01])\b", text, re.IGNORECASE)
    if found is not None:
        return {name: int(found[1])}
    bare = _bare(text, "01")
    return {name: bare[0]} if len(bare) == 1 else {}


def last_digits(text: str, rubric: Rubric) -> dict[str, int]:
    """WISE: each field's name followed by one digit, the last one counting; else bare lines in their order."""
    names = "|".join(map(re.escape, rubric.fields))
    pairs = re.findall(rf"\*{{0,2}}({names})\*{{0,2}}\s*[:：]?\s*(\d)", text, re.IGNORECASE)
    if pairs:
        by_lower = {name.lower(): name for name in rubric.fields}
        return {by_lower[name.lower()]: int(digit) for name, digit in pairs}
    bare = _bare(text, "0-9")
    return dict(zip(rubric.fields, bare, strict=True)) if len(bare) == len(rubric.fields) else {}


def numbers(text: str, rubric: Rubric) -> dict[str, int]:
    """Each field's name followed by an integer, the last one counting."""
    found = {}
    for name in rubric.fields:
        said = re.findall(rf"\*{{0,2}}{re.escape(name)}\*{{0,2}}\s*[:：]?\s*(\d+)(?![.\d])", text, re.IGNORECASE)
        if said:
            found[name] = int(said[-1])
    return found


WISE_VERIFIED = Rubric("wise-verified", {"Score": 1.0}, 1, first_bit)
WISE = Rubric("wise", {"Consistency": 0.35, "Realism": 0.1, "Aesthetic Quality": 0.05}, 2, last_digits)
"""(0.7 C + 0.2 R + 0.1 A) / 2."""
EDIT = Rubric("edit", {"Instruction": 0.1, "Preservation": 0.1}, 10, numbers)
RULES = {rule.__name__.replace("_", "-"): rule for rule in (first_bit, last_digits, numbers)}
"""By the names that a suite's declaration gives them."""
