"""Several processes on one run, with one journal: `accelerate launch -m armor_eval understanding ...`.

Every row belongs to one process by its place in the sorted file, so no two ask the same, and a run that was begun by
three processes is finished by one or eight.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Team:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process has come here."""
    device: str | None = None

    @property
    def first(self) -> bool:
        """The process that owns run.json, scores, and prints."""
        return self.rank == 0


def join_team() -> Team:
    """The team that accelerate or torchrun started, or a team of one. torch is imported only for a real one."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Team()
    from accelerate import PartialState

    # The slowest process may be hours behind where answers differ in length.
    state = PartialState(timeout=timedelta(days=14))
    return Team(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))
