"""SIGTERM and SIGUSR1 end a run behind its step with a checkpoint; resumed, it is the uninterrupted run."""

from __future__ import annotations

import logging
import os
import signal

import pytest
import torch
from train_helpers import mixture, tiny_model

from armor_model.base.errors import ArmorError, Preempted
from trainer.checkpoints import Checkpoints
from trainer.config import LoopOptions, Optimization
from trainer.loop import Loop
from trainer.stages import STAGES

STEPS = 6


def loop(out, resume=False, at=None, number=signal.SIGTERM, **options) -> Loop:
    """A run in which, with `at`, this process gets a signal within that step."""
    model = tiny_model()
    how = Optimization(STEPS, 4, lr=3e-3, muon_lr=1e-3)
    made = Loop(model, STAGES["3"], mixture(model), how, LoopOptions(out, resume=resume, bar=False, **options))
    made.average.update = lambda: made.step == at and os.kill(os.getpid(), number)
    return made


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_preempted_run_goes_on_where_it_stopped(tmp_path, number):
    straight = loop(tmp_path / "straight")
    straight.run()
    before = signal.getsignal(number)
    with pytest.raises(
        Preempted, match="stopped by a signal behind step 4 of 6; the last checkpoint is of step 4"
    ) as e:
        loop(tmp_path / "parts", at=3, number=number).run()
    assert isinstance(e.value, ArmorError) and e.value.exit_code == 75
    assert signal.getsignal(number) is before, "the process's own handlers are back"
    assert Checkpoints(tmp_path / "parts" / "checkpoints").steps() == [4]
    again = loop(tmp_path / "parts", resume=True)
    again.run()
    for name, value in straight.trained_parameters().items():
        assert torch.equal(value, again.trained_parameters()[name]), name


def test_a_signal_at_the_last_step_ends_as_usual(tmp_path):
    last = loop(tmp_path, at=STEPS - 1)
    assert last.run().steps == STEPS and last.stop.name == "SIGTERM"


def test_the_plan_and_the_steps_are_told(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "trainer"):
        loop(tmp_path, log_every=2, given={"t2t": 12, "refuse": 9}, peak_tflops=1.0).run()
    told = caplog.text
    for part in (
        "stage 3 trains 24.1 K of 73.3 K parameters: new_embeddings 608, adapter 20.8 K",
        "6 steps of 4 conversations (1 processes x 1 micro-batches x 4)",
        "0.5 passes",
        "t2t: 6 readings of 12 conversations, 50% of them once",
        "not used by this stage: refuse 9",
        "GB in each process: frozen weights",
        "estimated, not measured:",
        "step 2 of 6: text ",
        " tokens/s, ",
        " left",
        "mfu 0.",
        "step 6 of 6",
    ):
        assert part in told, (part, told)
