"""What a resume must find unchanged, what may change, and which field is named; what processes have to agree on."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from train_helpers import mixture, tiny_model

from armor_model.base.errors import RunFailed, UserError
from trainer import devices
from trainer.checkpoints import differences, identity, longer
from trainer.config import LoopOptions, Optimization
from trainer.loop import Loop
from trainer.stages import STAGES

HOW = Optimization(8, 8, lr=3e-3)
RUN = identity(STAGES["3"], HOW, 5, {"t2i": 12}, {"t2i": "12 abc"}, trained=["a"], shapes=[[1]])


def run_of(stage="3", **changes):
    return identity(
        STAGES[stage], replace(HOW, **changes), 5, {"t2i": 12}, {"t2i": "12 abc"}, trained=["a"], shapes=[[1]]
    )


@pytest.mark.parametrize(
    "free", [{"accumulate": 4}, {"gradient_checkpointing": True}, {"compile": True}, {"steps": 20}]
)
def test_what_only_costs_time_may_change(free):
    assert differences(RUN, run_of(**free)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 1e-3}, "optimization.lr is 0.001, was 0.003"),
        ({"batch_size": 16}, "optimization.batch_size is 16, was 8"),
        ({"precision": "bf16"}, "optimization.precision is bf16, was fp32"),
        ({"steps": 4}, "optimization.steps is 4, was 8: a run may be made longer, not shorter"),
        ({"ema": 0.9}, "optimization.ema is 0.9, was 0.0"),
    ],
)
def test_what_changes_the_mathematics_is_named(change, told):
    assert differences(RUN, run_of(**change)) == [told]


def test_data_stage_and_weights_must_match():
    assert differences(RUN, {**RUN, "data": {"t2i": "12 abd"}}) == ["data.t2i is 12 abd, was 12 abc"]
    assert differences(RUN, {**RUN, "frozen weights": "x"}) == ["frozen weights is x, was None"]
    assert "stage.beta is 0, was 1" in differences(RUN, run_of("1"))
    older = json.loads(json.dumps(RUN))
    del older["optimization"]["ema"], older["optimization"]["compile"]
    assert differences(older, RUN) == [], "a checkpoint of the last version goes on"


def test_a_longer_run_states_its_schedule():
    assert longer(RUN, HOW, 4) is None
    told = longer(RUN, replace(HOW, steps=16), 4)
    assert told.startswith("16 steps instead of 8: the cosine schedule is now over all of them")
    assert f"step 4 is {replace(HOW, steps=16).factor(4):.3g} of the peak, was 0.5" in told


def loop(out, steps=4, model=None, **how) -> Loop:
    model = model or tiny_model()
    resume = (out / "checkpoints").is_dir()
    how = Optimization(steps, 4, lr=3e-3, schedule="constant", **how)
    return Loop(model, STAGES["3"], mixture(model), how, LoopOptions(out, save_every=2, bar=False, resume=resume))


def test_a_run_goes_on_longer_and_in_other_micro_batches(tmp_path, caplog):
    straight = loop(tmp_path / "straight", steps=6)
    straight.run()
    loop(tmp_path / "parts", steps=4).run()
    with caplog.at_level(logging.WARNING, "trainer"):
        again = loop(tmp_path / "parts", steps=6, accumulate=2)
        again.run()
    assert "6 steps instead of 4: the constant schedule" in caplog.text
    for name, value in straight.trained_parameters().items():
        assert torch.allclose(value, again.trained_parameters()[name], atol=3e-4), name


def test_the_average_is_kept_through_a_resume_and_is_what_is_judged(tmp_path):
    straight = loop(tmp_path / "straight", steps=4, ema=0.5)
    values = []
    update = straight.average.update
    straight.average.update = lambda: (
        update(),
        values.append(straight.trained_parameters()["adapter_norm.weight"].clone()),
    )
    start = straight.average.values["adapter_norm.weight"].clone()
    straight.run()
    expected = start
    for value in values:
        expected = 0.5 * expected + 0.5 * value
    assert torch.allclose(straight.average.values["adapter_norm.weight"], expected, atol=1e-7)
    raw = straight.trained_parameters()["adapter_norm.weight"].clone()
    with straight.average.swapped():
        assert torch.equal(straight.trained_parameters()["adapter_norm.weight"], expected)
    assert torch.equal(straight.trained_parameters()["adapter_norm.weight"], raw) and not torch.equal(raw, expected)
    resumed = loop(tmp_path / "straight", steps=4, ema=0.5)
    resumed.run()
    for name, value in straight.average.values.items():
        assert torch.equal(value, resumed.average.values[name]), name


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "accelerate was told to use DeepSpeed - use its MULTI_GPU or FSDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "told to use Megatron-LM"),
        (
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
            "4",
            "told gradient_accumulation_steps 4, here it is 1 - give --acc",
        ),
    ],
)
def test_the_launchers_other_engines_are_one_line(monkeypatch, tmp_path, name, value, told):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        loop(tmp_path)
    assert told in caught.value.line()


def test_the_environments_accumulation_does_not_divide_gradients(monkeypatch, tmp_path):
    """accelerate reads it in every Accelerator and divides each backward pass by it once more."""
    plain = loop(tmp_path / "plain", steps=1, accumulate=2)
    plain.run()
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    asked = loop(tmp_path / "asked", steps=1, accumulate=2)
    asked.run()
    norms = [json.loads((tmp_path / d / "log.jsonl").read_text())["gradient_norm"] for d in ("plain", "asked")]
    assert norms[0] == norms[1] > 0


class Two:
    """A process group of two, seen by process 0."""

    num_processes, is_main_process, process_index = 2, True, 0


def test_processes_that_know_other_facts_are_named(monkeypatch):
    monkeypatch.setattr(devices, "gather_object", lambda mine: [*mine, {"weights": "b"}])
    with pytest.raises(RunFailed, match="process 1 has weights b, process 0 has a: they would differ"):
        devices.agree(Two(), {"weights": "a"}, "they would differ")
    monkeypatch.setattr(devices, "gather_object", lambda mine: mine * 2)
    devices.agree(Two(), {"weights": "a"}, "")


def test_a_folder_that_one_process_cannot_see_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "broadcast_object_list", lambda values: values)
    monkeypatch.setattr(devices, "gather_object", lambda mine: [*mine, False])
    with pytest.raises(UserError, match="is not one folder for all processes: process 1 cannot see") as caught:
        devices.check_shared(Two(), tmp_path / "out")
    assert "every machine mounts" in caught.value.line() and not list((tmp_path / "out").iterdir())
