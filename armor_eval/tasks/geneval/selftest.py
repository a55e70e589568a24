"""`armor-eval geneval selftest`: does this machine's detector, with its colours, see what it saw when it was recorded?

Images drawn by our own code (selftest_images) are run through the chosen detector and colour judge and held against a
reference: the images' hashes, how many objects of which class pass each threshold, every score, box and colour. That of
the detector that comes with the program is committed. For weights that a user has, `--record` stores one; a card that
returns nothing, a library that resizes otherwise, a wrong channel order are drift from it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import profile_of
from armor_eval.runs import provenance
from armor_eval.tasks.geneval import selftest_images
from armor_eval.tasks.geneval.colors import ColorJudge, Crop
from armor_eval.tasks.geneval.detections import STORED_ABOVE
from armor_eval.tasks.geneval.detectors import Detector
from armor_eval.tasks.geneval.prompts import Vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.cache import cache_dir
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.files import write_file
from armor_model.base.parsing import fault_of

COMMITTED = benchmarks_dir() / "geneval" / "selftest.json"
"""The reference of the detector that comes with the program. Its tolerance was measured on its images: 3e-6 by batch or
threads, .0007 where convolutions round as TF32 does (a GPU's default; emulated), .011 for bf16, .05 for another resize,
.2 for channels in the wrong order."""
BOX_TOLERANCE = 0.01
"""Largest shift of a box's edge, as a share of the image's longer side."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Seen(_Stored):
    """What was reported in one image."""

    name: str
    sha256: str
    """Of its RGB bytes."""
    size: tuple[int, int]
    """Height and width in pixels."""
    detections: dict[str, list[tuple[float, float, float, float, float]]]
    """Class -> x1, y1, x2, y2, score by falling score, all above STORED_ABOVE."""
    colors: dict[str, list[str]]
    """Of the detections above the threshold."""
    margins: dict[str, list[float]]
    """Each colour's lead over the second."""

    def counts(self, threshold: float) -> dict[str, int]:
        found = {name: sum(b[4] > threshold for b in boxes) for name, boxes in self.detections.items()}
        return {name: n for name, n in found.items() if n}


class Reference(_Stored):
    """A machine's record of what a detector sees in the images."""

    schema_version: int = 1
    settings: dict[str, object]
    """Of detector and colours: weights' hashes, input size ..."""
    device: str
    """`cpu`, or the accelerator's name."""
    packages: dict[str, str]
    images: list[Seen]
    tolerance: float = 0.01
    """Largest difference of a score, or of a colour's lead, that is rounding; this for weights never measured."""


@dataclass
class Drift:
    """One image now against then."""

    name: str
    now: Seen
    then: Seen
    problems: list[str] = field(default_factory=list)
    score: float = 0.0
    """Largest difference of paired scores."""


def look(
    detector: Detector, colors: ColorJudge | None, vocabulary: Vocabulary, device: str, rules: Rules = Rules()
) -> Reference:
    """Run the images through detector and colours, which are on `device`."""
    images = images_for(vocabulary)
    found = detector.detect(list(images.values()))
    seen = []
    for (name, image), report in zip(images.items(), found, strict=True):
        boxes = report.by_class(detector.classes, STORED_ABOVE)
        crops = [
            Crop(image, mask, box, label)
            for label, stored in boxes.items()
            for box, mask in zip(stored, report.masks_of(detector.classes.index(label), STORED_ABOVE), strict=True)
            if box[4] > rules.threshold
        ]
        named: dict[str, list[str]] = {}
        margins: dict[str, list[float]] = {}
        for crop, answer in zip(crops, colors.name(crops) if colors and crops else [], strict=colors is not None):
            named.setdefault(crop.name, []).append(answer.color)
            margins.setdefault(crop.name, []).append(round(answer.margin, 4))
        digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
        seen.append(
            Seen(name=name, sha256=digest, size=image.shape[:2], detections=boxes, colors=named, margins=margins)
        )
    settings = {**detector.settings, **(colors.settings if colors else {})}
    kind = "cpu" if device == "cpu" else provenance.device().kind
    return Reference(settings=settings, device=kind, packages=provenance.packages(), images=seen)


def images_for(vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Name -> RGB uint8 [H, W, 3] for a vocabulary's detector."""
    profile = profile_of(vocabulary.profile)
    return selftest_images.images() if profile.guest is None else profile.part("detector").selftest_images()


def compare(now: Reference, then: Reference, rules: Rules = Rules()) -> list[Drift]:
    """Each image's drift; RunFailed where the reference is of other images."""
    if [s.name for s in now.images] != [s.name for s in then.images]:
        raise RunFailed("the reference is of other images: record it again with this version")
    return [_drift(a, b, rules, then.tolerance) for a, b in zip(now.images, then.images, strict=True)]


def _drift(now: Seen, then: Seen, rules: Rules, tolerance: float) -> Drift:
    made = Drift(now.name, now, then)
    if now.sha256 != then.sha256:
        made.problems.append("the image itself has other pixels")
    for threshold in (rules.threshold, rules.counting_threshold):
        ours = now.counts(threshold)
        low, high = (then.counts(threshold + s * tolerance) for s in (1, -1))
        for name in sorted({*ours, *low}):
            if not low.get(name, 0) <= ours.get(name, 0) <= high.get(name, 0):
                was = then.counts(threshold).get(name, 0)
                made.problems.append(f"{ours.get(name, 0)} {name} above {threshold}, recorded {was}")
    for name, boxes in then.detections.items():
        sure = [i for i, box in enumerate(boxes) if box[4] > rules.threshold + tolerance]
        _pair(made, name, sure, rules, tolerance)
    return made


def _pair(made: Drift, name: str, sure: list[int], rules: Rules, tolerance: float) -> None:
    """Each recorded detection with the nearest one of now: its score, box and colour."""
    side, then, now = max(made.now.size), made.then, made.now
    left = [i for i, box in enumerate(now.detections.get(name, [])) if box[4] > rules.threshold]
    for i in sure:
        box = np.array(then.detections[name][i])
        if not left:
            return  # the count has told it
        away = {j: float(np.abs(np.array(now.detections[name][j])[:4] - box[:4]).max()) for j in left}
        j = min(left, key=lambda j: away[j])
        left.remove(j)
        score = now.detections[name][j][4]
        made.score = max(made.score, abs(score - box[4]))
        if abs(score - box[4]) > tolerance:
            made.problems.append(f"{name} scores {score:.3f}, recorded {box[4]:.3f}")
        if away[j] > BOX_TOLERANCE * side:
            made.problems.append(f"{name} lies {away[j]:.1f} px from where it was recorded")
        colors = [seen.colors.get(name, [])[k : k + 1] for seen, k in ((now, j), (then, i))]
        if colors[0] != colors[1] and (not all(colors) or then.margins[name][i] > tolerance):
            made.problems.append(f"{name} is {_one(colors[0])}, recorded {_one(colors[1])}")


def _one(colors: list[str]) -> str:
    return colors[0] if colors else "of no colour"


def path_for(settings: dict[str, object]) -> Path:
    """Where the reference of these weights lies: with the program for the detector that comes with it, else in the
    cache."""
    if settings["detector"] == Reference.model_validate_json(COMMITTED.read_bytes()).settings["detector"]:
        return COMMITTED
    parts = [str(settings.get(key, "none"))[:12] for key in ("weights_sha256", "colors_weights_sha256")]
    return cache_dir() / "selftest" / f"{'-'.join([str(settings['detector']), *parts])}.json"


def write_reference(path: Path, seen: Reference) -> None:
    """Store what was seen; RunFailed where it is nothing at all, which is what a broken card would record."""
    if not any(image.counts(Rules().threshold) for image in seen.images):
        raise RunFailed("the detector saw nothing in any image: not recorded; try another device or other weights")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, seen.model_dump_json(indent=1) + "\n")


def read_reference(path: Path, seen: Reference) -> Reference:
    """The stored record of these weights. Raises UserError."""
    if not path.is_file():
        raise UserError(
            f"no reference of these weights: {path} is not there",
            "on a machine that you trust, run it once with --record, then give that file as --reference elsewhere",
        )
    try:
        then = Reference.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is no selftest reference: {fault_of(error)}") from None
    for key in ("detector", "weights_sha256", "colors", "colors_weights_sha256"):
        if then.settings.get(key) != seen.settings.get(key):
            what = f"{key} {then.settings.get(key)} there, {seen.settings.get(key)} now"
            raise UserError(f"{path} is of another detector: {what}", "leave --reference out, or use --record")
    return then
