"""Which colour an object of the shapes world has, by pixel statistics.

Shape legend: n pixels, K colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from armor_eval.tasks.geneval.colors import ColorAnswer, Crop
from armor_eval.tasks.geneval.prompts import Vocabulary
from trainer.shapes.world import COLORS


class PixelColors:
    """Each pixel of the object votes for the nearest of the world's colours; pixels nearer to white do not vote."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.colors = vocabulary.colors
        self._palette_K3 = np.array([COLORS[c] for c in self.colors] + [(255, 255, 255)], np.float32)
        self.settings = {"colors": "pixel votes", "palette": {c: list(COLORS[c]) for c in self.colors}}

    def name(self, crops: Sequence[Crop]) -> list[ColorAnswer]:
        return [self._one(crop.image[crop.mask]) for crop in crops]

    def _one(self, pixels_n3: np.ndarray) -> ColorAnswer:
        if len(pixels_n3) == 0:
            return ColorAnswer(self.colors[0], 0.0)
        distance = np.linalg.norm(pixels_n3[:, None].astype(np.float32) - self._palette_K3, axis=2)
        votes = np.bincount(distance.argmin(1), minlength=len(self._palette_K3))[:-1]
        if votes.sum() == 0:  # all but white: the least white of all
            votes = -distance[:, :-1].mean(0)
            return ColorAnswer(self.colors[int(votes.argmax())], 0.0)
        second, first = np.sort(votes)[-2:]
        return ColorAnswer(self.colors[int(votes.argmax())], float((first - second) / votes.sum()))
