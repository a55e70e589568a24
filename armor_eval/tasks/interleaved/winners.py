"""Files of pairwise verdicts in OpenING's layout: who wins, and how far two judges agree.

A file is a JSON list of `{"data_id", "model_A": {"id", "name"}, "model_B": {"id", "name"}, "winner"}`; the winner is A,
B, Tie(A) or Tie(B). Any other is counted, and never guessed at (the published script draws lots).
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from pydantic import ConfigDict

from armor_eval.stats.pairwise import Battle, Ties
from armor_eval.tasks.suites.rows import Row, json_rows
from armor_model.base.errors import UserError

TIES: dict[str, Ties] = {rule: rule for rule in get_args(Ties)}
"""What a tie counts for, by name."""


class Contestant(Row):
    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    name: str


class Winner(Row):
    """One verdict."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, protected_namespaces=())

    data_id: str
    model_A: Contestant  # noqa: N815 - the file's own
    model_B: Contestant  # noqa: N815
    winner: str | None = None


def read_winners(path: Path) -> list[Battle]:
    """The verdicts of a file. UserError naming the entry."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "expected OpenING's file of verdicts") from None
    rows = json_rows(Winner, str(path), data)
    if not rows:
        raise UserError(f"{path} holds no verdicts")
    return [Battle(one.data_id, one.model_A.name, one.model_B.name, (one.winner or "").strip()) for one in rows]
