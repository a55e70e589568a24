"""Several processes on one run, with one journal: `accelerate launch -m armor_eval understanding ...`.

Every row belongs to one process by its place in the sorted file, so no two ask the same, and a run that was begun by
three processes is finished by one or eight.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from armor_eval.errors import UserError


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
    import torch
    from accelerate import PartialState

    # The slowest process may be hours behind where answers differ in length.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=14))
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise UserError("accelerate does not see the processes that were started", "see accelerate test")
    return Team(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))
