"""WISE and WISE_Verified: prompts that hide what is meant, and a rubric judge that is told.

An item's prompt goes to the model; its explanation goes to the judge alone. Categories follow from the id, not from the
files' words: a legacy rewrite names one that does not exist. The judge's words come from the suite's own script.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import Probe, SuiteData, SuiteItem
from armor_eval.tasks.suites.rows import Row, json_rows
from armor_eval.tasks.suites.templates import from_script
from armor_model.base.errors import UserError

FUNCTION, RECORD, FIELDS = "build_evaluation_messages", "prompt_data", {"Prompt", "Explanation"}
"""Where the official scripts hold the judge's words, and what is put into them."""


class WiseRow(Row):
    prompt_id: int = Field(ge=1)
    prompt: str = Field(alias="Prompt", min_length=1)
    explanation: str = Field(alias="Explanation", min_length=1)


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """`files`: the prompts, in one JSON or several, and last the judging script."""
    *prompts, script = files
    rows = [row for path in prompts for row in json_rows(WiseRow, str(path), path.read_bytes())]
    items = [_item(row, suite) for row in sorted(rows, key=lambda row: row.prompt_id)]
    words = from_script(script, FUNCTION, RECORD, FIELDS)
    return SuiteData(suite.name, "", items, template=words.text, system=words.system)


def _item(row: WiseRow, suite: Suite) -> SuiteItem:
    fields = {"Prompt": row.prompt, "Explanation": row.explanation}
    group = category(suite.options["ends"], row.prompt_id) if suite.groups else None
    return SuiteItem(str(row.prompt_id), row.prompt, (Probe("1", "rubric"),), group=group, fields=fields)


def category(ends: dict[str, int], prompt_id: int) -> str:
    """The category that an id lies in. `ends`: category -> its last id; each begins behind the one before."""
    found = next((name for name, last in ends.items() if prompt_id <= last), None)
    if found is None:
        raise UserError(f"there is no prompt {prompt_id}: ids are 1 to {max(ends.values())}")
    return found
