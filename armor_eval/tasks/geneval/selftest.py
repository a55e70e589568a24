"""`armor-eval geneval selftest`: does this machine's detector, with its colours, see what it saw when it was recorded?

Images drawn by our own code are run through the chosen detector and colour judge and held against a
reference: the images' hashes, how many objects of which class pass each threshold, every score, box and colour. That of
the detector that comes with the program is committed. For weights that a user has, `--record` stores one; a card that
returns nothing, a library that resizes otherwise, a wrong channel order are drift from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import profile_of
from armor_eval.runs import provenance
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
    return drawn_images() if profile.guest is None else profile.part("detector").selftest_images()


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
    """Where the reference of these weights lies: with the program for the embedded detector, else in the cache."""
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


# --- the images, drawn from integers alone: the same pixels on every machine, library and year -----------------------
# Shape legend: H x W pixels. Polygons and discs are tested at two by two points a pixel in integers, then averaged: no
# float, no font and no image library, whose next release could draw an edge otherwise.


SIDE = 256
"""Pixels of a drawing; coordinates below are in pixels."""
FINE = 2
"""Points a pixel and axis."""
Color = tuple[int, int, int]
Point = tuple[int, int]

WHITE, SKY, GRASS, GREY, BLACK = (250, 250, 250), (170, 205, 235), (96, 150, 70), (125, 128, 132), (24, 24, 26)
RED, GREEN, BLUE = (196, 30, 36), (36, 150, 60), (34, 78, 168)
YELLOW, ORANGE, BROWN = (242, 200, 40), (236, 132, 30), (116, 74, 42)


class Canvas:
    """A drawing of SIDE x SIDE pixels at FINE x FINE points each."""

    def __init__(self, ground: Color) -> None:
        points = np.arange(SIDE * FINE, dtype=np.int32) * 2 + 1  # centres, in units of 1 / (2 FINE) pixel
        self.x, self.y = points[None, :], points[:, None]
        self.fine = np.empty((SIDE * FINE, SIDE * FINE, 3), np.uint8)
        self.fine[:] = ground

    def disc(self, center: Point, radius: int, color: Color) -> Canvas:
        unit = 2 * FINE
        inside = (self.x - center[0] * unit) ** 2 + (self.y - center[1] * unit) ** 2 <= (radius * unit) ** 2
        return self._fill(inside, color)

    def polygon(self, corners: Sequence[Point], color: Color) -> Canvas:
        """Even-odd rule."""
        unit = 2 * FINE
        inside = np.zeros(self.fine.shape[:2], bool)
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if y1 == y2:
                continue
            (x1, y1), (x2, y2) = ((x1, y1), (x2, y2)) if y1 < y2 else ((x2, y2), (x1, y1))
            rows = (self.y >= y1 * unit) & (self.y < y2 * unit)
            left = (self.x - x1 * unit) * (y2 - y1) < (self.y - y1 * unit) * (x2 - x1)
            inside ^= rows & left
        return self._fill(inside, color)

    def box(self, x1: int, y1: int, x2: int, y2: int, color: Color) -> Canvas:
        return self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], color)

    def _fill(self, inside: np.ndarray, color: Color) -> Canvas:
        self.fine[inside] = color
        return self

    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        sums = self.fine.reshape(SIDE, FINE, SIDE, FINE, 3).astype(np.int64).sum(axis=(1, 3))
        return ((2 * sums + FINE * FINE) // (2 * FINE * FINE)).astype(np.uint8)


def stop_sign() -> np.ndarray:
    def octagon(a: int, b: int) -> list[Point]:
        return [(-b, -a), (b, -a), (a, -b), (a, b), (b, a), (-b, a), (-a, b), (-a, -b)]

    drawn = Canvas(SKY).box(0, 200, 256, 256, GRASS).box(123, 120, 133, 240, GREY)
    for color, a, b in ((WHITE, 78, 32), (RED, 72, 30)):
        drawn.polygon([(128 + x, 96 + y) for x, y in octagon(a, b)], color)
    for x in (76, 104, 132, 160):  # four white letters, as bars
        drawn.box(x, 84, x + 20, 90, WHITE).box(x + 7, 84, x + 13, 112, WHITE)
    return drawn.image()


def traffic_light() -> np.ndarray:
    drawn = Canvas(SKY).box(122, 190, 134, 256, GREY).box(88, 20, 168, 200, BLACK)
    for y, color in ((52, RED), (110, (70, 62, 30)), (168, (26, 60, 34))):
        drawn.disc((128, y), 24, color)
    return drawn.image()


def clock() -> np.ndarray:
    drawn = Canvas((214, 190, 160)).disc((128, 128), 96, BLACK).disc((128, 128), 88, WHITE)
    for x, y in (
        (128, 50),
        (206, 128),
        (128, 206),
        (50, 128),
        (167, 60),
        (196, 89),
        (196, 167),
        (167, 196),
        (89, 196),
        (60, 167),
        (60, 89),
        (89, 60),
    ):
        drawn.disc((x, y), 5, BLACK)
    drawn.polygon([(124, 132), (132, 132), (131, 66), (125, 66)], BLACK)
    return drawn.polygon([(124, 124), (124, 132), (180, 150), (182, 144)], BLACK).disc((128, 128), 7, RED).image()


def bus() -> np.ndarray:
    drawn = Canvas(SKY).box(0, 186, 256, 256, GREY).box(18, 76, 238, 196, YELLOW).box(18, 150, 238, 160, BLACK)
    for x in (30, 72, 114, 156):
        drawn.box(x, 92, x + 34, 134, (60, 84, 110))
    drawn.box(198, 92, 232, 190, (60, 84, 110))
    for x in (70, 186):
        drawn.disc((x, 196), 24, BLACK).disc((x, 196), 11, GREY)
    return drawn.image()


def person() -> np.ndarray:
    skin = (222, 176, 140)
    drawn = Canvas((226, 226, 220)).box(0, 220, 256, 256, GRASS)
    drawn.box(104, 150, 124, 236, BLUE).box(132, 150, 152, 236, BLUE)
    drawn.polygon([(100, 84), (156, 84), (160, 158), (96, 158)], RED)
    drawn.polygon([(100, 86), (84, 96), (74, 150), (86, 154), (100, 116)], skin)
    drawn.polygon([(156, 86), (172, 96), (182, 150), (170, 154), (156, 116)], skin)
    return drawn.disc((128, 56), 27, BROWN).disc((128, 60), 24, skin).image()


def fruit() -> np.ndarray:
    """Two apples, an orange and a banana on a plate."""
    drawn = Canvas(BROWN).disc((128, 134), 112, WHITE)
    drawn.disc((88, 112), 34, RED).box(86, 68, 91, 84, BROWN).disc((166, 100), 34, RED).box(164, 56, 169, 72, BROWN)
    drawn.disc((190, 168), 30, ORANGE)
    return drawn.polygon(
        [(44, 152), (62, 186), (98, 206), (140, 206), (148, 196), (110, 184), (80, 160), (58, 144)], YELLOW
    ).image()


def umbrella() -> np.ndarray:
    drawn = Canvas(SKY).disc((128, 128), 96, GREEN).box(0, 128, 256, 256, SKY)
    for x in (64, 128, 192):
        drawn.disc((x, 130), 32, SKY)
    return drawn.box(125, 98, 131, 220, BLACK).disc((116, 220), 15, BLACK).disc((116, 218), 9, SKY).image()


def noise() -> np.ndarray:
    """A linear congruential generator's bytes, in blocks of four pixels."""
    state, values = 2024, []
    for _ in range(64 * 64 * 3):
        state = (1103515245 * state + 12345) % 2**31
        values.append(state >> 23)
    return np.kron(np.array(values, np.uint8).reshape(64, 64, 3), np.ones((4, 4, 1), np.uint8))


def blank() -> np.ndarray:
    return Canvas(WHITE).image()


DRAWINGS: dict[str, Callable[[], np.ndarray]] = {
    "stop sign": stop_sign,
    "traffic light": traffic_light,
    "clock": clock,
    "bus": bus,
    "person": person,
    "fruit": fruit,
    "umbrella": umbrella,
    "noise": noise,
    "blank": blank,
}
"""Things of COCO's list, for GenEval's published detector."""


def drawn_images() -> dict[str, np.ndarray]:
    """Name -> RGB uint8 [H, W, 3]."""
    return {name: draw() for name, draw in DRAWINGS.items()}
