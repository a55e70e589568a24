"""What an image of the shapes world shows: the embedded detector and pixel colours, things with their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.tasks.geneval.colors import Crop
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.jsons import JsonObject
from trainer.shapes.world import GRID, Thing

if TYPE_CHECKING:
    from PIL import Image


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
