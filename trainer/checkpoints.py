"""Checkpoints of a running stage: only what is trained, written beside and renamed, with everything a resume needs.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from armor_model.base.errors import RunFailed
from armor_model.base.files import DRAFT, whole_folder
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

FILES = ("trained.safetensors", "optimizer.pt", "state.json")
_NAME = re.compile(r"^step-(\d{8})$")


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, root: Path, keep: int = 2) -> None:
        self.root, self.keep = root, keep

    def save(self, step: int, trained: Mapping[str, Tensor], optimizer: Any, state: JsonObject) -> Path:
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
            score = json.loads((self.path(step) / "state.json").read_text()).get("score")
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


def find_model(name: str) -> Path:
    """The checkpoint folder that `--model` names: a path, or `armor-nano`, which travels with the package. Raises
    UserError."""
    from armor_model import bundled
    from armor_model.loading import check_checkpoint

    return check_checkpoint(bundled(name) if name == "armor-nano" else name)


def save_model(model: ArmorModel, processor: ArmorProcessor, folder: Path, training: JsonView | None = None) -> None:
    """Write model and processor as a whole checkpoint folder, in place of an older one; with `training`, a card that
    says what it was trained on. Raises RunFailed where the disk is full."""
    from armor_model import save
    from armor_model.hub import card

    no_space = f"no space left for the model in {folder.parent}; its checkpoints are intact"
    with whole_folder(folder, "config.json", no_space=no_space) as draft:
        save(model, processor, draft)
        if training is not None:
            (draft / "README.md").write_text(card(draft, training))
