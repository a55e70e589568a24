"""Detected instances of one image, in the form that everything behind it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Instances:
    """N detections by falling score in an image of H x W pixels."""

    labels: np.ndarray
    """int [N], class indices."""
    scores: np.ndarray
    """float32 [N]."""
    boxes: np.ndarray
    """float32 [N, 4], x1, y1, x2, y2."""
    masks: np.ndarray
    """bool [N, H, W]."""

    @classmethod
    def nothing(cls, size: tuple[int, int]) -> Instances:
        return cls(np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), np.zeros((0, *size), bool))

    def by_class(self, classes: Sequence[str], above: float) -> dict[str, list[list[float]]]:
        """The stored form, `{class: [[x1, y1, x2, y2, score], ...]}`, of the scores strictly above a threshold.

        Numbers are the shortest decimals that mean the same float32, so that .3 is stored as .3 and not above it.
        """
        stored: dict[str, list[list[float]]] = {}
        for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True):
            if score > above:
                stored.setdefault(classes[label], []).append([float(str(v)) for v in (*box, score)])
        return stored

    def masks_of(self, label: int, above: float) -> np.ndarray:
        """Masks of one class in the order of `by_class`, bool [n, H, W]."""
        return self.masks[(self.labels == label) & (self.scores > above)]
