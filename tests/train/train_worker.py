"""A small deterministic run in a process of its own, to be killed, resumed, or run twice side by side."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path


def wait_for_a_killer() -> None:
    """Half an hour, or until this process's starter ends: however late a busy machine lets it kill, it can."""
    multiprocessing.parent_process().join(1800)


def run(out: str, steps: int, save_every: int, resume: bool, pause: float = 0.0, hold: int | None = None) -> None:
    """Train stage 3 on the tiny model; `pause` seconds a step leave a killer its time.

    From the batch of index `hold` on it waits for its killer.
    """
    import torch

    torch.set_num_threads(1)
    from train_helpers import pools, tiny_model

    from trainer.config import LoopOptions, Optimization
    from trainer.loader import Mixture
    from trainer.loop import Loop
    from trainer.stages import STAGES

    asked = []

    class Slow(Mixture):
        def chosen(self, step):  # what the data loader asks of a mixture, in its thread
            asked.append(step)
            if hold is not None and step >= hold:
                wait_for_a_killer()
            time.sleep(pause)
            return super().chosen(step)

    model = tiny_model()
    mixture = Slow(pools(model.config), {"t2t": 12, "ti2t": 12, "t2i": 12, "t2ti": 12}, 4, 5, condition_dropout=0.2)
    options = LoopOptions(Path(out), save_every=save_every, resume=resume, log_every=1, bar=False)
    how = Optimization(steps, 4, lr=3e-3, muon_lr=1e-3, warmup=3)
    Loop(model, STAGES["3"], mixture, how, options).run()
    assert asked, "the data loader asks otherwise by now: nothing waits for its killer"
