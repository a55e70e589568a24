"""The detectors behind one small interface: pictures in, detections with masks out.

`embedded`: RTMDet-Ins through mmdet, trained on the shapes world and bundled. `mmdet` and `transformers`: GenEval's
Mask2Former Swin-S from a checkpoint on disk. Each passes a self-check on a picture with a known answer first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from armor_eval.tasks.geneval import mask2former
from armor_eval.tasks.geneval.found import Found
from armor_eval.tasks.geneval.rtmdet import detect_batch
from armor_eval.tasks.geneval.verdicts import Rules
from armor_eval.tasks.geneval.vocabulary import Vocabulary
from armor_model.base.errors import RunFailed, UserError, unknown_name

DETECTORS = ("embedded", "mmdet", "transformers")


class Detector(Protocol):
    classes: tuple[str, ...]
    settings: dict[str, object]
    """Goes into the bundle's scorer settings: name, weights' hash, input size."""

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        """RGB uint8 [H, W, 3] pictures of any sizes, in order."""
        ...

    def self_check(self, rules: Rules) -> None:
        """Raises RunFailed unless a picture with a known answer is read right."""
        ...


def by_size(
    pictures: Sequence[np.ndarray], batch: int, detect: Callable[[Sequence[np.ndarray]], list[Found]]
) -> list[Found]:
    """Batches of pictures of one size each, since padding would change what is seen; results in the given order."""
    found: list[Found | None] = [None] * len(pictures)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(picture.shape[:2], []).append(index)
    for indices in groups.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            for i, result in zip(part, detect([pictures[i] for i in part]), strict=True):
                found[i] = result
    return found


class EmbeddedDetector:
    """The bundled RTMDet-Ins: the mmdet path for real on any machine."""

    def __init__(self, vocabulary: Vocabulary, device: str = "cpu", batch: int = 32) -> None:
        from armor_eval.tasks.geneval.train_detector import CARD, PRETRAINED, WEIGHTS, build_model, load_trained

        card = json.loads((PRETRAINED / CARD).read_text())
        self.classes = vocabulary.classes
        self.batch = batch
        self.settings = {
            "detector": "rtmdet-ins-shapes",
            "form": "mmdet",
            "weights_sha256": card["weights_sha256"],
            "input": "128x128 BGR",
        }
        self._model = load_trained(build_model(), PRETRAINED / WEIGHTS, vocabulary.classes).to(device)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        return by_size(pictures, self.batch, lambda part: detect_batch(self._model, part))

    def self_check(self, rules: Rules) -> None:
        """One thing of each class: exactly those are reported at both thresholds, and nothing in an empty picture."""
        from trainer.shapes.world import COLOR_NAMES, SHAPES, Scene, Thing, render

        scene = Scene(tuple(Thing(COLOR_NAMES[i], shape, i) for i, shape in enumerate(SHAPES)))
        blank = np.full((32, 32, 3), 255, np.uint8)
        drawn, nothing = self.detect([np.asarray(render(scene)), blank])
        for threshold in {rules.threshold, rules.counting_threshold}:
            seen = Counter(self.classes[i] for i, s in zip(drawn.labels, drawn.scores, strict=True) if s > threshold)
            ghosts = int((nothing.scores > threshold).sum())
            if seen != Counter(SHAPES) or ghosts:
                raise RunFailed(
                    f"the detector failed its self-check at {threshold}: it saw {dict(seen)} in a picture of one "
                    f"{', one '.join(SHAPES)}, and {ghosts} objects in an empty one"
                )


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
        build = mask2former.build_transformers if form == "transformers" else mask2former.build_mmdet
        network = build(mask2former.Architecture(classes=len(vocabulary.classes)))
        mask2former.load_weights(network, mask2former.read_state(weights), form, str(weights))
        self._network = network.to(device).eval()
        self.settings = {
            "detector": "mask2former-swin-s",
            "form": form,
            "weights_sha256": weights_sha256,
            "input": "shorter side 800, longer at most 1333, uint8 bilinear",
            "max_per_image": mask2former.TOP,
        }

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        return by_size(pictures, self.batch, self._detect)

    def _detect(self, pictures: Sequence[np.ndarray]) -> list[Found]:
        pixels, resized = mask2former.prepare(pictures, self.device)
        classes, masks = mask2former.forward(self._network, self.form, pixels)
        padded, size = tuple(pixels.shape[-2:]), pictures[0].shape[:2]
        pairs = zip(classes, masks, strict=True)
        return [mask2former.detections_of(c, m, padded, resized, size, self.above) for c, m in pairs]

    def self_check(self, rules: Rules) -> None:
        """A portrait photograph (matplotlib's sample picture): its best detection must be one person above .9."""
        from matplotlib import cbook
        from PIL import Image

        with cbook.get_sample_data("grace_hopper.jpg") as file:
            photo = np.asarray(Image.open(file).convert("RGB"))
        (found,) = self.detect([photo])
        best = self.classes[found.labels[0]] if len(found.labels) else "nothing"
        score = float(found.scores[0]) if len(found.scores) else 0.0
        if best != "person" or score <= rules.counting_threshold:
            raise RunFailed(
                f"the detector failed its self-check: in a portrait it saw {best} ({score:.2f}), expected person above "
                f"{rules.counting_threshold}: wrong weights, class list or channel order"
            )


def load_detector(
    kind: str, vocabulary: Vocabulary, *, weights: Path | None, download: bool, device: str, batch: int | None
) -> Detector:
    """The detector by name; UserError where its weights are not at hand or its classes do not fit the prompts."""
    if kind not in DETECTORS:
        raise unknown_name("detector", kind, DETECTORS)
    size = {} if batch is None else {"batch": batch}
    if kind == "embedded":
        if vocabulary.name != "shapes-geneval":
            raise UserError("the embedded detector knows the shapes world only", hint="say --detector mmdet")
        return EmbeddedDetector(vocabulary, device, **size)
    if vocabulary.name == "shapes-geneval":
        raise UserError(
            f"--detector {kind} knows COCO's classes, not the shapes world's", hint="say --profile official"
        )
    from armor_eval.tasks.geneval.weights import locate

    file = locate("mask2former", weights, download)
    return Mask2FormerDetector(kind, vocabulary, file.path, file.sha256, device, **size)
