"""Several processes sharing one run through accelerate.

accelerate launch --multi_gpu --num_processes 4 -m armor_eval geneval ...
torchrun --nproc-per-node 2 -m armor_eval geneval ...       (also on CPUs, where accelerate's launcher starts one)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    index: int = 0
    count: int = 1
    state: Any = None
    """accelerate's PartialState; None when alone."""

    @property
    def first(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.state is not None:
            self.state.wait_for_everyone()


def join_processes() -> Processes:
    """What the launcher's environment says; alone without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from datetime import timedelta

    import torch
    from accelerate import PartialState

    # a process that is done waits for the slowest one: days, not the default's ten minutes
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))
    return Processes(state.process_index, state.num_processes, state)
