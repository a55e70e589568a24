"""The process group of a run: alone, or one of several that torchrun, accelerate or an MPI started.

torchrun --nproc-per-node 4 -m armor_eval understanding ...
accelerate launch --multi_gpu --num_processes 4 -m armor_eval geneval ...     (on CPUs too, in spite of its name)

accelerate 1.15's `--cpu --num_processes 4` starts one process; only with --mpirun_hostfile and an MPI it starts four.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from armor_model.base.errors import UserError

log = logging.getLogger(__name__)

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun and the kinds of MPI say how many processes there are, in the order accelerate looks for them."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process has come here."""
    device: str | None = None

    @property
    def first(self) -> bool:
        """The process that owns run.json and the scores, and prints."""
        return self.rank == 0


def join_processes() -> Processes:
    """The group that the launcher's environment names; torch is imported only where there is one."""
    size = next((int(os.environ[name]) for name in SIZES if int(os.environ.get(name, "0")) > 0), 1)
    if size <= 1:
        if "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ:  # set where several were asked for
            log.warning("accelerate launch --cpu started one process: use torchrun, or --multi_gpu, on CPUs as well")
        return Processes()
    import torch
    from accelerate import PartialState

    # The slowest process may be hours behind where answers differ in length.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=14))
    if state.num_processes != size:
        raise UserError("accelerate does not see the processes that were started", "see accelerate test")
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))
