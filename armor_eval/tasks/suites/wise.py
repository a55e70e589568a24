"""WISE and WISE_Verified: prompts that hide what is meant, and a rubric judge that is told.

An item's prompt goes to the model; its explanation goes to the judge alone. Categories follow from the id, not from the
files' words: a legacy rewrite names one that does not exist.
"""

from __future__ import annotations

from pydantic import Field

from armor_eval.tasks.suites.rows import Row, json_rows
from armor_model.base.errors import UserError

ENDS: dict[str, dict[str, int]] = {
    "wise": {"culture": 400, "time": 567, "space": 700, "biology": 800, "physics": 900, "chemistry": 1000},
    "wise-verified": {"culture": 400, "time": 520, "space": 640, "biology": 760, "physics": 880, "chemistry": 1000},
}
"""Suite -> category -> its last id; each begins behind the one before."""


class WiseRow(Row):
    prompt_id: int = Field(ge=1)
    prompt: str = Field(alias="Prompt", min_length=1)
    explanation: str = Field(alias="Explanation", min_length=1)


def rows(name: str, data: bytes) -> list[WiseRow]:
    """One of the suite's files; several are joined by whoever asks."""
    return json_rows(WiseRow, name, data)


def category(suite: str, prompt_id: int) -> str:
    """The category that an id lies in."""
    ends = ENDS[suite]
    found = next((name for name, last in ends.items() if prompt_id <= last), None)
    if found is None:
        raise UserError(f"{suite} has no prompt {prompt_id}: its ids are 1 to {max(ends.values())}")
    return found
