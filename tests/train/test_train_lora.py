"""LoRA on the decoder: nothing changes at the start, only the additions and the stage's parts learn, and what is merged
computes the same."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from train_helpers import mixture, pools, tiny_model

from armor_model.base.errors import UserError
from trainer.batches import collate
from trainer.config import LoopOptions, Optimization
from trainer.loop import Loop
from trainer.objective import Objective, add_lora, merge_lora
from trainer.stages import STAGES, Stage, part_of

LEARNS = Stage("lora", (*STAGES["3"].trains, "lora"), 1, 1, STAGES["3"].mixture)


def losses(model) -> list[float]:
    batch = collate([pool[0] for pool in pools(model.config).values()], 0, model.config.imgbos_id)
    with torch.no_grad():
        sums = Objective(model.eval(), STAGES["3"])(batch)
    return [float(sums.text), float(sums.image)]


def test_additions_learn_and_merge_into_a_plain_model(tmp_path):
    pytest.importorskip("peft", reason="the optional extra armor-eval[lora] is not installed")
    model = tiny_model()
    names, before = [n for n, _ in model.named_parameters()], losses(model)
    frozen = {n: p.clone() for n, p in model.named_parameters() if n.startswith("model.")}
    add_lora(model, 4)
    assert losses(model) == before, "additions are zero at the start"
    assert sum(part_of(n, model.base) == ("lora",) for n, _ in model.named_parameters()) == 2 * 7 * len(
        model.decoder.layers
    )
    options = LoopOptions(tmp_path, bar=False, log_every=1)
    loop = Loop(model, LEARNS, mixture(model, LEARNS, 8), Optimization(12, 8, lr=1e-2), options)
    loop.run()
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss/text"] < log[0]["loss/text"] and loop.plan.trained["decoder"] > 0
    learned = losses(model)
    merge_lora(model)
    assert losses(model) == pytest.approx(learned, rel=1e-5) and learned[0] < before[0]
    assert [n for n, _ in model.named_parameters()] == names
    moved = {n for n, p in model.named_parameters() if n in frozen and not torch.equal(p, frozen[n])}
    assert moved == {n for n in frozen if "language_model.layers" in n and n.endswith("_proj.weight")}


def test_every_process_begins_with_the_same_additions():
    """Random by each process's own clock, several were told that they held different weights."""
    pytest.importorskip("peft", reason="the optional extra armor-eval[lora] is not installed")
    models = [tiny_model() for _ in range(3)]
    for model, seed in zip(models, (7, 7, 8), strict=True):
        torch.seed()
        add_lora(model, 4, seed)
    one, two, other = (torch.cat([p.flatten() for n, p in m.named_parameters() if "lora_" in n]) for m in models)
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_without_peft_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"--lora needs the package peft - pip install 'armor-eval\[lora\]'"):
        add_lora(tiny_model(), 4)
