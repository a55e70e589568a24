"""Killed with -9 anywhere and resumed is the uninterrupted run, bit for bit; foreign checkpoints are refused."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from train_helpers import assert_equal_trees, mixture, pools, tiny_model
from train_worker import run

from armor_model.base.errors import RunFailed, UserError
from trainer.checkpoints import Checkpoints
from trainer.config import LoopOptions, Optimization
from trainer.loader import Mixture
from trainer.loop import Loop
from trainer.stages import STAGES

STEPS, EVERY = 24, 3


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("straight")
    run(str(out), STEPS, EVERY, resume=False)
    return out


def last(out: Path) -> Path:
    return out / "checkpoints" / f"step-{STEPS:08d}"


def steps_logged(out: Path) -> list[int]:
    path = out / "log.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []


def kill_at(process, out: Path, step: int, jitter: float) -> None:
    """Kill -9 once `step` is in the log, at some moment within the next step."""
    end = time.monotonic() + 600
    while process.is_alive() and time.monotonic() < end:
        path = out / "log.jsonl"
        if path.exists() and path.read_text().count("\n") >= step:
            time.sleep(jitter)
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.join(600)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("kills", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_times_leave_no_trace(straight, forkserver, tmp_path, kills):
    rng = random.Random(0)
    for step in sorted(rng.sample(range(1, STEPS - 1), kills)):
        process = forkserver.Process(target=run, args=(str(tmp_path), STEPS, EVERY, True, 0.02, step + 1))
        process.start()
        kill_at(process, tmp_path, step, rng.uniform(0, 0.06))
    process = forkserver.Process(target=run, args=(str(tmp_path), STEPS, EVERY, True))
    process.start()
    process.join(600)
    assert process.exitcode == 0
    assert steps_logged(tmp_path) == list(range(1, STEPS + 1))
    saved = [(last(d) / "trained.safetensors").read_bytes() for d in (tmp_path, straight)]
    assert saved[0] == saved[1]
    assert_equal_trees(*(torch.load(last(d) / "optimizer.pt", weights_only=True) for d in (tmp_path, straight)))
    ours, theirs = (json.loads((last(d) / "state.json").read_text()) for d in (tmp_path, straight))
    assert ours["run"] == theirs["run"]
    assert (ours["cost"]["images_seen"], ours["cost"]["tokens"]) == (
        theirs["cost"]["images_seen"],
        theirs["cost"]["tokens"],
    )
    losses = [
        [
            {k: v for k, v in json.loads(line).items() if k.startswith("loss/")}
            for line in (d / "log.jsonl").read_text().splitlines()
        ]
        for d in (tmp_path, straight)
    ]
    assert losses[0] == losses[1] and any("loss/image" in line for line in losses[0])


def loop(out: Path, model=None, stage: str = "3", lr: float = 3e-3, **options) -> Loop:
    model = model or tiny_model()
    how, options = Optimization(4, 4, lr=lr), LoopOptions(out, bar=False, **options)
    return Loop(model, STAGES[stage], mixture(model, stage), how, options)


def test_only_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    loop(tmp_path, save_every=1, keep=1, evaluate_every=1, evaluate=lambda m, s: {"score": next(scores)}).run()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.best() == (2, 0.9)
    assert checkpoints.steps() == [2, 4]


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    scores = iter([float("nan"), 0.2, 0.9, 0.9])
    loop(tmp_path, save_every=1, keep=1, evaluate_every=1, evaluate=lambda m, s: {"score": next(scores)}).run()
    assert Checkpoints(tmp_path / "checkpoints").best() == (3, 0.9)


def test_a_kill_right_after_the_best_checkpoint_does_not_lose_it(tmp_path, monkeypatch):
    """The score is in the checkpoint itself: nothing has to be written after it."""
    scores = iter([0.1, 0.9, 0.3, 0.2])
    options = {"save_every": 1, "keep": 1, "evaluate_every": 1, "evaluate": lambda m, s: {"score": next(scores)}}
    prune = Checkpoints._prune

    def killed(self):
        if self.steps()[-1] == 2:
            raise KeyboardInterrupt
        prune(self)

    monkeypatch.setattr(Checkpoints, "_prune", killed)
    with pytest.raises(KeyboardInterrupt):
        loop(tmp_path, **options).run()
    monkeypatch.undo()
    loop(tmp_path, resume=True, **options).run()
    assert Checkpoints(tmp_path / "checkpoints").best() == (2, 0.9)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 4]


def test_other_data_is_another_run(tmp_path):
    loop(tmp_path, save_every=2).run()
    model = tiny_model()
    more = {kind: [*pool, pool[0]] for kind, pool in pools(model.config).items()}
    swapped = {kind: pool[::-1] for kind, pool in pools(model.config).items()}
    for data in (more, swapped):
        mixture = Mixture(data, dict.fromkeys(STAGES["3"].mixture, 12), 4, 5)
        other = Loop(model, STAGES["3"], mixture, Optimization(4, 4, lr=3e-3), LoopOptions(tmp_path, resume=True))
        with pytest.raises(UserError, match=r"belongs to another run: data\.t2i is 1[23] .*, was 12 "):
            other.run()


def test_a_run_killed_before_its_first_checkpoint_starts_its_log_anew(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss/text": 9.0}\n{"step": 2, "lo')
    loop(tmp_path, log_every=1).run()
    assert steps_logged(tmp_path) == [1, 2, 3, 4]


def test_only_trained_parameters_are_saved(tmp_path):
    one = loop(tmp_path, stage="2")
    one.run()
    trained, _, state = Checkpoints(tmp_path / "checkpoints").load(4)
    assert sorted(trained) == sorted(one.trained)
    assert {name.split(".")[0] for name in trained} == {"new_embeddings", "adapter", "adapter_norm", "visual_head"}
    assert state["cost"]["images_seen"] > 0


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    loop(tmp_path).run()
    with pytest.raises(UserError, match=r"belongs to another run: optimization\.lr is 0\.001, was 0\.003 - resume"):
        loop(tmp_path, lr=1e-3, resume=True).run()


def test_an_occupied_directory_is_not_overwritten(tmp_path):
    loop(tmp_path).run()
    with pytest.raises(UserError, match="already holds a run"):
        loop(tmp_path).run()


def test_a_damaged_checkpoint_is_named(tmp_path):
    loop(tmp_path).run()
    path = tmp_path / "checkpoints" / "step-00000004" / "trained.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunFailed, match=r"step-00000004 cannot be read"):
        loop(tmp_path, resume=True).run()


def test_a_draft_left_by_a_kill_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints" / ".draft-00000009-1").mkdir(parents=True)
    assert Checkpoints(tmp_path / "checkpoints").steps() == []
    loop(tmp_path, resume=True).run()
    assert not list((tmp_path / "checkpoints").glob(".draft-*"))


def test_a_full_disk_stops_the_run_in_one_line(tmp_path, monkeypatch):
    import errno

    from trainer import checkpoints

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(RunFailed, match="no space left for the checkpoint of step 4"):
        loop(tmp_path).run()
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_loss_that_is_no_number_stops_before_the_step(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.visual_head.weight[0, 0] = float("nan")
    before = model.new_embeddings.detach().clone()
    with pytest.raises(RunFailed, match=r"image loss of step \d is nan; there is no checkpoint"):
        loop(tmp_path, model).run()
    assert torch.equal(before, model.new_embeddings)
