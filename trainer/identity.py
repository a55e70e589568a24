"""What makes a run the same run: what a resume must find unchanged, what may change, and which field differs.

A checkpoint goes on under another number of processes, of micro-batches or of steps, since the batches and the
mathematics are the same; under other data, weights or rates it would be a silent mixture of two runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from armor_model.base.jsons import JsonObject, JsonView
from trainer.config import Optimization
from trainer.stages import Stage

FREE = {"optimization": ("accumulate", "gradient_checkpointing", "compile"), "stage": ("name", "source", "epochs")}
"""Fields that change speed, memory or words only; `optimization.steps` may grow. The number of processes, packing,
sharding, logs and checkpoints are no part of the identity."""


def identity(
    stage: Stage, how: Optimization, seed: int, counts: Mapping[str, int], data: Mapping[str, str], **model: Any
) -> JsonObject:
    """As a checkpoint holds it: JSON values. `model`: what is trained, its shapes, a fingerprint of the rest."""
    run = {"stage": asdict(stage), "optimization": asdict(how), "seed": seed, "mixture": dict(counts), "data": data}
    return json.loads(json.dumps({**run, **model}))


def differences(saved: JsonView, here: JsonView) -> list[str]:
    """What must match and does not, each as `optimization.lr is 0.001, was 0.003`. Fields that the checkpoint's
    version did not have count as their defaults."""
    saved = {**saved, "optimization": {**asdict(Optimization()), **saved.get("optimization", {})}}
    told = []
    for part, value in here.items():
        before = saved.get(part)
        if part in FREE and isinstance(before, dict):
            names = [name for name in value if name not in FREE[part]]
            told += [_told(f"{part}.{n}", before.get(n), value[n]) for n in names if not _goes_on(n, before, value)]
        elif isinstance(value, dict) and isinstance(before, dict):
            names = sorted({*value, *before})
            told += [_told(f"{part}.{n}", before.get(n), value.get(n)) for n in names if before.get(n) != value.get(n)]
        elif value != before:
            told.append(_told(part, before, value))
    return told


def _goes_on(name: str, before: JsonView, here: JsonView) -> bool:
    if name == "steps":
        return before[name] <= here[name]
    return before.get(name) == here[name]


def _told(name: str, before: Any, here: Any) -> str:
    if name == "optimization.steps":
        return f"{name} is {here}, was {before}: a run may be made longer, not shorter"
    if len(str(here)) > 60:
        return f"{name} differ"
    return f"{name} is {here}, was {before}"


def longer(saved: JsonView, how: Optimization, step: int) -> str | None:
    """What a run that is made longer does to its learning rate, in a line; None where its steps are the same."""
    settings: JsonObject = {k: tuple(v) if k == "betas" else v for k, v in saved["optimization"].items()}
    before = Optimization(**settings)
    if before.steps == how.steps:
        return None
    rates = f"its rate at step {step} is {how.factor(step):.3g} of the peak, was {before.factor(step):.3g}"
    return (
        f"{how.steps:,} steps instead of {before.steps:,}: the {how.schedule} schedule is now over all of them, {rates}"
    )
