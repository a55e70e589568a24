"""The embedded detector: RTMDet-Ins through mmdet, trained on the shapes world and bundled.

The mmdet path for real on any machine. armor_eval.shapes.train_detector made the weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.rtmdet import detect_batch
from armor_eval.shapes.train_detector import CARD, PRETRAINED, WEIGHTS, build_model, load_trained
from armor_eval.tasks.geneval.colors import Crop
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.geneval.detectors import by_size
from armor_eval.tasks.geneval.prompts import Vocabulary, load_vocabulary
from armor_eval.tasks.geneval.selftest import noise
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.jsons import JsonObject
from trainer.shapes.world import COLOR_NAMES, GRID, SHAPES, Scene, Thing, render, render_batch

if TYPE_CHECKING:
    from mmdet.models import BaseDetector
    from PIL import Image


class EmbeddedDetector:
    """The bundled RTMDet-Ins."""

    def __init__(self, vocabulary: Vocabulary, device: str = "cpu", batch: int = 32) -> None:
        card = json.loads((PRETRAINED / CARD).read_text())
        self.classes = vocabulary.classes
        self.batch, self.device = batch, device
        self.settings = {
            "detector": "rtmdet-ins-shapes",
            "form": "mmdet",
            "weights_sha256": card["weights_sha256"],
            "input": "128x128 BGR",
        }

    @cached_property
    def _model(self) -> BaseDetector:
        return load_trained(build_model(), PRETRAINED / WEIGHTS, self.classes).to(self.device)

    def detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        return by_size(images, self.batch, lambda part: detect_batch(self._model, part))

    def self_check(self, rules: Rules) -> None:
        """One thing of each class: exactly those are reported at both thresholds, and nothing in an empty image."""
        scene = Scene(tuple(Thing(COLOR_NAMES[i], shape, i) for i, shape in enumerate(SHAPES)))
        blank = np.full((32, 32, 3), 255, np.uint8)
        drawn, nothing = self.detect([np.asarray(render(scene)), blank])
        for threshold in {rules.threshold, rules.counting_threshold}:
            seen = Counter(self.classes[i] for i, s in zip(drawn.labels, drawn.scores, strict=True) if s > threshold)
            ghosts = int((nothing.scores > threshold).sum())
            if seen != Counter(SHAPES) or ghosts:
                raise RunFailed(
                    f"the detector failed its self-check at {threshold}: it saw {dict(seen)} in an image of one "
                    f"{', one '.join(SHAPES)}, and {ghosts} objects in an empty one"
                )


def load_embedded(
    kind: str, vocabulary: Vocabulary, *, weights: Path | None, download: bool, device: str, batch: int
) -> EmbeddedDetector:
    """The bundled detector; UserError for prompts of another world, or weights of the user's own."""
    if vocabulary.name != "shapes-geneval":
        raise UserError(f"the {kind} detector knows the shapes world only", hint="say --detector mmdet")
    if weights is not None:
        raise UserError(f"the {kind} detector has its own weights", "leave --detector-weights out")
    return EmbeddedDetector(vocabulary, device, batch)


SCENES: dict[str, tuple[str, int]] = {
    "one": ("red circle@0", 32),
    "four": ("red circle@0; green square@1; blue triangle@2; yellow cross@3", 32),
    "three alike": ("purple square@0; purple square@1; purple square@3", 32),
    "apart": ("blue cross@0; yellow triangle@3", 32),
    "beside": ("green circle@2; purple cross@3", 32),
    "two of four": ("red triangle@1; blue square@2", 64),
    "large": ("yellow circle@1; red square@3", 128),
}
"""Name -> (scene, pixels a side), of the selftest."""


def selftest_images() -> dict[str, np.ndarray]:
    """Name -> RGB uint8 [H, W, 3]."""
    drawn = {name: render_batch([Scene.parse(text)], size)[0] for name, (text, size) in SCENES.items()}
    # scores between the thresholds, where a small change shows: half the contrast, and shapes whose foot is missing
    faded = render_batch([Scene.parse(SCENES["four"][0])], 64)[0]
    cut = faded.copy()
    cut[24:32] = cut[56:] = 255
    faded = 255 - (255 - faded) // 2
    return {**drawn, "faded": faded, "cut": cut, "noise": noise()[:64, :64], "blank": np.full_like(cut, 255)}


# --- what an image of the shapes world shows: the embedded detector and pixel colours, things with their cells -------


class SceneDetector:
    """Images to things; a thing is in the cell where its box is centred, two things may share one."""

    def __init__(self, device: str = "cpu") -> None:
        vocabulary = load_vocabulary("shapes")
        self._detector, self._colors, self._rules = (
            EmbeddedDetector(vocabulary, device),
            PixelColors(vocabulary),
            Rules(),
        )
        self.settings: JsonObject = {
            **self._detector.settings,
            **self._colors.settings,
            "threshold": self._rules.threshold,
        }

    def self_check(self) -> None:
        """RunFailed where the detector misreads an image with a known answer."""
        self._detector.self_check(self._rules)

    def things(self, images: Sequence[Image.Image]) -> list[list[Thing]]:
        """The things of each image in the order of their cells; an empty image has none."""
        arrays = [np.asarray(image.convert("RGB")) for image in images]
        found = self._detector.detect(arrays) if arrays else []
        return [self._things(*pair) for pair in zip(arrays, found, strict=True)]

    def _things(self, image: np.ndarray, found: Instances) -> list[Thing]:
        height, width = image.shape[:2]
        things = []
        for place in np.flatnonzero(found.scores > self._rules.threshold):
            box, shape = found.boxes[place], self._detector.classes[found.labels[place]]
            (answer,) = self._colors.name([Crop(image, found.masks[place], box, shape)])
            column, row = (int(GRID * (box[i] + box[i + 2]) / 2 / side) for i, side in ((0, width), (1, height)))
            things.append(Thing(answer.color, shape, min(row, GRID - 1) * GRID + min(column, GRID - 1)))
        return sorted(things, key=lambda thing: thing.cell)
