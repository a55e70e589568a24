"""The detectors behind one small interface: images in, detections with masks out.

`mmdet` and `transformers`: GenEval's Mask2Former Swin-S from a checkpoint on disk. Each passes a self-check on an image
with a known answer first. What goes into a run's record is known before any weights are read.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from armor_eval.tasks.geneval import mask2former
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.geneval.prompts import Vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_eval.tasks.geneval.weights import locate
from armor_model.base.errors import RunFailed, UserError, unknown_name
from armor_model.base.optional import not_none

DETECTORS = {
    "embedded": ("armor_eval.shapes.detector:load_embedded", 32),
    "mmdet": ("armor_eval.tasks.geneval.detectors:load_mask2former", 8),
    "transformers": ("armor_eval.tasks.geneval.detectors:load_mask2former", 8),
}
"""Name -> (`module:function` that makes it, images a pass)."""


class Detector(Protocol):
    classes: tuple[str, ...]
    settings: dict[str, object]
    """Goes into the bundle's scorer settings: name, weights' hash, input size."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """RGB uint8 [H, W, 3] images of any sizes, in order."""
        ...

    def self_check(self, rules: Rules) -> None:
        """Raises RunFailed unless an image with a known answer is read right."""
        ...


def by_size(
    images: Sequence[np.ndarray], batch: int, detect: Callable[[Sequence[np.ndarray]], list[Instances]]
) -> list[Instances]:
    """Batches of images of one size each, since padding would change what is seen; results in the given order."""
    found: list[Instances | None] = [None] * len(images)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape[:2], []).append(index)
    for indices in groups.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            for i, result in zip(part, detect([images[i] for i in part]), strict=True):
                found[i] = result
    return [not_none(one) for one in found]


class Mask2FormerDetector:
    """GenEval's published detector."""

    def __init__(
        self,
        form: str,
        vocabulary: Vocabulary,
        weights: Path,
        weights_sha256: str,
        device: str = "cpu",
        batch: int = 8,
        above: float = 0.05,
    ) -> None:
        self.classes = vocabulary.classes
        self.form, self.device, self.batch, self.above = form, device, batch, above
        self._weights = weights
        self._one_pass = threading.Lock()
        """Two batches in the network at once would need twice the memory and not half the time."""
        self.settings = {
            "detector": "mask2former-swin-s",
            "form": form,
            "weights_sha256": weights_sha256,
            "input": "shorter side 800, longer at most 1333, uint8 bilinear",
            "max_per_image": mask2former.TOP,
        }

    @cached_property
    def _network(self) -> object:
        build = mask2former.build_transformers if self.form == "transformers" else mask2former.build_mmdet
        network = build(mask2former.Architecture(classes=len(self.classes)))
        mask2former.load_weights(network, mask2former.read_state(self._weights), self.form, str(self._weights))
        return network.to(self.device).eval()

    def detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        return by_size(images, self.batch, self._detect)

    def _detect(self, images: Sequence[np.ndarray]) -> list[Instances]:
        resized = mask2former.resize(images)
        with self._one_pass:
            pixels = mask2former.normalise(resized, self.device)
            classes, masks = mask2former.forward(self._network, self.form, pixels)
            padded, size = tuple(pixels.shape[-2:]), images[0].shape[:2]
            pairs = zip(classes, masks, strict=True)
            return [mask2former.detections_of(c, m, padded, resized.shape[1:3], size, self.above) for c, m in pairs]

    def self_check(self, rules: Rules) -> None:
        """A portrait photograph (matplotlib's sample image): its best detection must be one person above .9."""
        from matplotlib import cbook
        from PIL import Image

        photo = np.asarray(Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("RGB"))
        (found,) = self.detect([photo])
        best = self.classes[found.labels[0]] if len(found.labels) else "nothing"
        score = float(found.scores[0]) if len(found.scores) else 0.0
        if best != "person" or score <= rules.counting_threshold:
            raise RunFailed(
                f"the detector failed its self-check: in a portrait it saw {best} ({score:.2f}), expected person above "
                f"{rules.counting_threshold}: wrong weights, class list or channel order"
            )


def load_mask2former(
    kind: str, vocabulary: Vocabulary, *, weights: Path | None, download: bool, device: str, batch: int
) -> Mask2FormerDetector:
    """GenEval's detector from its checkpoint; UserError where that is not at hand."""
    if vocabulary.name != "geneval":
        raise UserError(f"--detector {kind} knows COCO's classes, not {vocabulary.name}'s", "say --profile official")
    file = locate("mask2former", weights, download)
    return Mask2FormerDetector(kind, vocabulary, file.path, file.sha256, device, batch)


def load_detector(
    kind: str, vocabulary: Vocabulary, *, weights: Path | None, download: bool, device: str, batch: int | None
) -> Detector:
    """The detector by name, its weights read on first use; UserError for none at hand, or other classes."""
    if kind not in DETECTORS:
        raise unknown_name("detector", kind, DETECTORS)
    target, usual_batch = DETECTORS[kind]
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(
        kind, vocabulary, weights=weights, download=download, device=device, batch=batch or usual_batch
    )
