"""Checkpoints of a running stage: only what is trained, written beside and renamed, with everything a resume needs.

A checkpoint goes on under another number of processes, of micro-batches or of steps, since the batches and the
mathematics are the same; under other data, weights or rates it would be a silent mixture of two runs (`differences`).

A directory `step-00000120/` holds `trained.safetensors` (the stage's trained parameters), `optimizer.pt` (optimizers
and random states) and `state.json` (counters, the score if it was judged, and what the run is). A directory under its
final name is complete: it was renamed there after its files were on disk.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from armor_model.base.errors import RunFailed
from armor_model.base.files import DRAFT, whole_folder
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of
from trainer.config import Optimization
from trainer.stages import Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

FILES = ("trained.safetensors", "optimizer.pt", "state.json")
_NAME = re.compile(r"^step-(\d{8})$")


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root, self.keep = root, keep

    def save(self, step: int, trained: Mapping[str, Tensor], optimizer: JsonObject, state: JsonObject) -> Path:
        """Write the checkpoint of `step`, then remove those beyond the last `keep`, never the best one."""
        final = self.path(step)
        no_space = f"no space left for the checkpoint of step {step} in {self.root}; earlier checkpoints are intact"
        with whole_folder(final, "state.json", no_space=no_space) as draft:
            save_file({k: v.detach().cpu().contiguous() for k, v in trained.items()}, draft / "trained.safetensors")
            with (draft / "optimizer.pt").open("wb") as file:  # given a path, torch hides why a write failed
                torch.save(optimizer, file)
            (draft / "state.json").write_text(json.dumps(state, indent=1) + "\n")
        self._prune()
        return final

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        if not self.root.is_dir():
            return []
        return sorted(int(m[1]) for path in self.root.iterdir() if (m := _NAME.match(path.name)))

    def path(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def load(self, step: int) -> tuple[dict[str, Tensor], Any, JsonObject]:
        """Trained parameters, optimizer states and counters of a step. Nothing in the files is executed."""
        path = self.path(step)
        try:
            state = json.loads((path / "state.json").read_text())
            trained = load_file(path / "trained.safetensors")
            optimizer = torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        except Exception as error:
            raise RunFailed(f"{path} cannot be read as a checkpoint: {error}") from error
        return trained, optimizer, state

    def digest(self, step: int) -> str:
        """Of a checkpoint's bytes, or why they cannot be read: what all processes have to agree on."""
        try:
            return sha256_json([sha256_file(self.path(step) / name) for name in FILES])[:16]
        except OSError as error:
            return f"unreadable ({error.strerror})"

    def best(self) -> tuple[int, float] | None:
        """Step and score of the best checkpoint there is, the earlier of equal ones; None where none was judged."""
        scores = [(self._score(step), -step) for step in self.steps()]
        judged = [(score, step) for score, step in scores if score is not None and math.isfinite(score)]
        return (-max(judged)[1], max(judged)[0]) if judged else None

    def _score(self, step: int) -> float | None:
        try:
            score = json_of((self.path(step) / "state.json").read_text()).get("score")
            return None if score is None else float(score)
        except (OSError, ValueError, TypeError, AttributeError):  # a damaged checkpoint is nobody's best
            return None

    def _prune(self) -> None:
        best = self.best()
        for step in self.steps()[: -self.keep]:
            if best is None or step != best[0]:
                shutil.rmtree(self.path(step))
        for path in self.root.glob(f"{DRAFT}*"):  # left behind by a kill
            shutil.rmtree(path, ignore_errors=True)


# ---- what makes a run the same run

FREE = {"optimization": ("accumulate", "gradient_checkpointing", "compile"), "stage": ("name", "source", "epochs")}
"""Fields that change speed, memory or words only; `optimization.steps` may grow. The number of processes, packing,
sharding, logs and checkpoints are no part of the identity."""


def identity(
    stage: Stage, how: Optimization, seed: int, counts: Mapping[str, int], data: Mapping[str, str], **model: object
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


def _told(name: str, before: object, here: object) -> str:
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


# ---- the model at the end


def save_model(model: ArmorModel, processor: ArmorProcessor, folder: Path, training: JsonView | None = None) -> None:
    """Write model and processor as a whole checkpoint folder, in place of an older one; with `training`, a card that
    says what it was trained on. Raises RunFailed where the disk is full."""
    from armor_model import save
    from armor_model.hub import card

    no_space = f"no space left for the model in {folder.parent}; its checkpoints are intact"
    with whole_folder(folder, "config.json", no_space=no_space) as draft:
        save(model, processor, draft)
        if training is not None:
            (draft / "README.md").write_text(card(draft, training, folder))
