"""Answers extracted from free text (MathVista): a rule reads what it can, a judge the rest, and a rule compares."""

from __future__ import annotations

import ast
import math
import re
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, accuracy, in_group
from armor_eval.tasks.families.base import Family, extra_of
from armor_eval.tasks.understanding.cells import records
from armor_eval.vlmevalkit import rules
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import literal_of

if TYPE_CHECKING:
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.tasks.understanding.table import Row

TASKS = (
    "figure question answering",
    "geometry problem solving",
    "math word problem",
    "textbook question answering",
    "visual question answering",
)
SKILLS = (
    "algebraic reasoning",
    "arithmetic reasoning",
    "geometry reasoning",
    "logical reasoning",
    "numeric commonsense",
    "scientific reasoning",
    "statistical reasoning",
)
NO_REPLY = "Failed to obtain answer via API"
"""What VLMEvalKit's clients say instead of a reply; its rule asks again where it reads it."""
MOST_CHOICES = 26
"""Its rule names them by capital letters, and ends the program at the next one."""


def _of_skill(name: str, item: Item) -> bool:
    return name in extra_of(item, "skills")


class Extracted(Family):
    """MathVista: the right choice, integer or float. A judge reads every answer that is not at once the right one, so
    a number is only as good as its judge."""

    name = "extracted"
    columns = (*Family.columns, "question_type", "answer_type", "choices", "answer_option", "task", "skills")
    optional = Family.optional | {"choices", "answer_option"}
    scorer = "MathVista"
    stand_in = "MathVista_MINI"
    constant = "A"
    always_judged = True
    second_lines = (("our", "lists and texts compared as they are"),)

    def composites(self) -> list[Composite]:
        tasks = [accuracy(name, primary=False, keep=in_group(name)) for name in TASKS]
        skills = [accuracy(name, primary=False, keep=partial(_of_skill, name)) for name in SKILLS]
        return [accuracy(), *tasks, *skills]

    def problem(self, row: Row) -> str | None:
        """What VLMEvalKit's `eval` would run, or end the program at."""
        if skills_of(row.fields["skills"]) is None:
            return f"has the skills {str(row.fields['skills'])[:40]!r}, expected a list of texts"
        if row.fields["question_type"] != "multi_choice":
            return None
        choices = listed(row.fields.get("choices"))
        if not choices or len(choices) > MOST_CHOICES:
            return f"has the choices {str(row.fields.get('choices'))[:40]!r}, expected a list of 1 to {MOST_CHOICES}"
        letters = [chr(ord("A") + at) for at in range(len(choices))]
        if (right := row.fields.get("answer_option")) not in letters:
            return f"has the answer_option {str(right)[:40]!r}, which is none of its choices {', '.join(letters)}"
        return None

    def formula_extras(self, row: Row) -> JsonObject:
        return {"skills": skills_of(row.fields["skills"])}

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        rows = [record for record in records(frame) if not rules.already_right(record)]
        return [Request(str(record["index"]), rules.extraction_prompt(record), self.name) for record in rows]

    def read_reply(self, request: Request, reply: str) -> str | None:
        """Whatever is said is what was extracted: the rule decides what it is worth. An infinite number would end its
        program."""
        said = reply.strip()
        try:
            unusable = math.isinf(float(said))
        except ValueError:
            unusable = NO_REPLY in said
        return None if unusable or not said else said

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        usable = judged.usable if judged is not None else {}
        rows = records(frame)
        found = {str(r["index"]): rules.already_right(r) or usable.get(str(r["index"])) for r in rows}
        return {str(r["index"]): _verdict({**r, "res": found[str(r["index"])]}) for r in rows}

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        verdicts = {str(r["index"]): _verdict(r) for r in records(work.result("judge"))}
        return Evaluated(float(returned.loc[returned["Task&Skill"] == "Overall", "acc"].iloc[0]), verdicts)


def _verdict(record: JsonObject) -> Verdict:
    """Of a record with what was extracted (`res`). VLMEvalKit 0.0.20 never finds a list or a text right: `post_check`
    compares the word None with the answer. Ours is beside it."""
    right, text = rules.extracted_right(record), str(record["res"]).strip()
    unread_type = record["question_type"] != "multi_choice" and record["answer_type"] not in ("integer", "float")
    ours = right or (unread_type and text == str(record["answer"]).strip())
    return Verdict(text, float(right), extras={"our_parse": text, "our_score": float(ours)})


def listed(cell: object) -> list[str | int | float] | None:
    """A list of texts and numbers as its cell holds it; None where Python would read anything else."""
    try:
        found = literal_of(str(cell))
    except ValueError:
        return None
    plain = isinstance(found, list) and all(isinstance(one, str | int | float) for one in found)
    return found if plain else None


def skills_of(cell: object) -> list[str] | None:
    """A row's skills: a list of texts, or plain words that are no Python; None for what is neither."""
    if re.fullmatch("[A-Za-z][A-Za-z -]*", str(cell)):
        try:
            ast.parse(str(cell), mode="eval")
        except SyntaxError:
            return [str(cell)]
    entries = listed(cell) or []
    texts = [one for one in entries if isinstance(one, str)]
    return texts if texts and len(texts) == len(entries) else None
