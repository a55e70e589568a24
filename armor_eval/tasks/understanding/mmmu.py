"""MMMU's own answer parser (its `eval_utils`) without the random draw: a second line beside the headline.

Source: MMMU-Benchmark/MMMU, mmmu/utils/eval_utils.py (parse_multi_choice_response, parse_open_response, eval_open).
Where that program draws an option at random because it can read none, this one reads nothing, which counts as wrong.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from armor_model.base.jsons import JsonView

_TRIMMED = (",", ".", "!", "?", ";", ":", "'")
_KEY_WORDS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
"""What stands in front of an answer in a sentence; in the last sentence `=` does too."""
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)
"""With thousands' commas, in scientific notation, plain."""


def read_choice(text: str, options: JsonView) -> str | None:
    """The option that the text names last: as `(B)`, else as ` B `, else by its words; None where it names none."""
    for mark in _TRIMMED:
        text = text.strip(mark)
    text = f" {text} "
    low = text.lower()
    for shape in ("({})", " {} "):
        places = {letter: text.rfind(shape.format(letter)) for letter in options}
        if max(places.values(), default=-1) >= 0:
            return _last(places)
    if len(text.split()) <= 5:
        return None
    places = {letter: low.rfind(str(words).lower()) for letter, words in options.items()}
    return _last(places) if max(places.values(), default=-1) >= 0 else None


def _last(places: Mapping[str, int]) -> str:
    """The key with the largest place, the first of equals."""
    return max(places, key=lambda letter: places[letter])


def read_open(text: str) -> list[str | float]:
    """What the text may mean as an answer to an open question: the tails behind key words, and the numbers in them."""
    tails = _tails(text)
    numbers = [number for tail in tails for pattern in _NUMBERS for number in pattern.findall(tail)]
    return list(dict.fromkeys(value for candidate in [*tails, *numbers] for value in _normal(candidate)))


def is_right(read: list[str | float], gold: str) -> bool:
    """Whether any reading holds a gold answer's text, or is its number to two decimals."""
    wanted = [value for answer in gold_answers(gold) for value in _normal(answer)]
    for value in read:
        if isinstance(value, str):
            if any(isinstance(answer, str) and answer in value for answer in wanted):
                return True
        elif value in wanted:
            return True
    return False


def gold_answers(cell: str) -> list[str]:
    """The right answers of an open question: its cell's text, or a list written as Python source."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            parsed = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return [cell]
        return [str(one) for one in parsed] if isinstance(parsed, list) else [cell]
    return [cell]


def _tails(text: str) -> list[str]:
    """Of each sentence the shortest piece behind a key word; the whole text where no sentence has one."""
    # Lowered before it is split, as in the source: sentences then end at line breaks alone.
    text = text.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(text)
    tails = []
    for n, sentence in enumerate(sentences):
        words = (*_KEY_WORDS, "=") if n == len(sentences) - 1 else _KEY_WORDS
        shortest = ""
        for tail in [sentence.split(word)[-1].strip() for word in words if word in sentence]:
            if not shortest or len(tail) < len(shortest):
                shortest = tail
        if shortest and shortest not in _TRIMMED:
            tails.append(shortest)
    return tails or [text]


def _normal(text: str) -> list[str | float]:
    """A number to two decimals; else lower-case text, a single character only with a space beside it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        low = text.lower()
        return [f" {low}", f"{low} "] if len(low) == 1 else [low]
