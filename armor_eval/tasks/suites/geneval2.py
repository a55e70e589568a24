"""GenEval 2's published file (facebookresearch/GenEval2, CC BY-NC 4.0: never copied, the user brings it)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import file_rows, json_of, text_of
from armor_model.base.errors import UserError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(n) for n, word in enumerate(WORDS)}


class _Row(BaseModel):
    prompt: str
    atom_count: int
    vqa_list: list[tuple[str, Annotated[str, Field(min_length=1)]]]
    skills: list[str]


def forms(answer: str) -> tuple[str, ...]:
    """The spellings whose first tokens' probabilities are added, in the official order; none for an empty answer."""
    if answer in DIGITS:
        word, digit = answer, DIGITS[answer]
        return (word, word.capitalize(), f" {word}", f" {word.capitalize()}", digit, f" {digit}")
    low = answer.lower()
    return (low.capitalize(), low, f" {low}", f" {low.capitalize()}")


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """One JSON object a line: prompt, atom_count, vqa_list of [question, answer], skills. Errors name the line."""
    items = []
    for number, (where, row) in enumerate(file_rows(_Row, files[0], "the prompts")):
        if len(row.vqa_list) != len(row.skills):
            raise UserError(f"{where}: {len(row.vqa_list)} questions, but {len(row.skills)} skills")
        pairs = enumerate(zip(row.vqa_list, row.skills, strict=True))
        probes = tuple(Probe(str(k), question, forms(answer), skill=skill) for k, ((question, answer), skill) in pairs)
        items.append(SuiteItem(str(number), row.prompt, probes, group=str(row.atom_count)))
    return SuiteData(suite.name, "", items)


# --- the embedded world's twin ---------------------------------------------------------------------------------------


def read_twin(files: Sequence[Path], suite: Suite) -> SuiteData:
    """GenEval 2's fields; a line's `held_out` makes a group of its own beside its atomicity."""
    data = read(files, suite)
    lines = text_of(str(files[0]), files[0].read_bytes()).splitlines()
    held = [json_of(line, str(files[0])).get("held_out", False) for line in lines]
    items = [
        replace(item, group=f"{item.group}, held out") if out else item
        for item, out in zip(data.items, held, strict=True)
    ]
    return replace(data, items=items)
