"""From images to verdicts, many at a time: detection, colours, rules; each step batched over the chunk."""

from __future__ import annotations

import colorsys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.tasks.geneval.colors import ColorJudge, Crop
from armor_eval.tasks.geneval.detections import STORED_ABOVE, Detected, Instances, verdict_of
from armor_eval.tasks.geneval.detectors import Detector
from armor_eval.tasks.geneval.prompts import Metadata
from armor_eval.tasks.geneval.verdicts import Rules, Verdict
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Judged:
    """What is kept of one image."""

    verdict: Verdict
    detections: dict[str, list[list[float]]]
    """The stored form, all above .05."""
    colors: dict[str, list[str | None]]
    margins: dict[str, list[float | None]]
    instances: Instances


@dataclass
class Stopwatch:
    """Seconds by part, summed over the threads that judge, and images, since `started`."""

    seconds: dict[str, float] = field(default_factory=dict)
    images: int = 0
    started: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, part: str, since: float, images: int = 0) -> float:
        now = time.perf_counter()
        with self._lock:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - since
            self.images += images
        return now

    def timing(self, drawing: float) -> dict[str, float]:
        """Seconds by part (drawing runs beside the others), images, images a second."""
        wall = time.perf_counter() - self.started if self.started is not None else 0.0
        parts = {f"{part}_seconds": round(seconds, 3) for part, seconds in self.seconds.items()}
        rate = round(self.images / wall, 3) if wall else 0.0
        return {**parts, "draw_seconds": round(drawing, 3), "pictures": self.images, "pictures_per_second": rate}


def judge_images(
    images: Sequence[np.ndarray],
    metas: Sequence[Metadata],
    detector: Detector,
    colors: ColorJudge | None,
    rules: Rules,
    watch: Stopwatch | None = None,
) -> list[Judged]:
    """Verdicts in order. `colors` may be None where no prompt names a colour.

    A coloured class has the colour of its first `count` stored detections named whatever their score, so that stored
    detections can be judged again under any threshold.
    """
    watch = watch or Stopwatch()
    since = time.perf_counter()
    found = detector.detect(images)
    since = watch.add("detect", since)
    stored = [f.by_class(detector.classes, STORED_ABOVE) for f in found]
    asked: list[tuple[int, str, int]] = []
    crops: list[Crop] = []
    for n, (meta, boxes) in enumerate(zip(metas, stored, strict=True)):
        for name, count in _coloured(meta).items():
            masks = found[n].masks_of(detector.classes.index(name), STORED_ABOVE)
            for i, box in enumerate(boxes.get(name, [])[:count]):
                asked.append((n, name, i))
                crops.append(Crop(images[n], masks[i], box, name))
    answers = not_none(colors).name(crops) if crops else []
    since = watch.add("colours", since)
    names: list[dict[str, list[str | None]]] = [{} for _ in images]
    margins: list[dict[str, list[float | None]]] = [{} for _ in images]
    for (n, name, _), answer in zip(asked, answers, strict=True):
        names[n].setdefault(name, []).append(answer.color)
        margins[n].setdefault(name, []).append(round(answer.margin, 4))
    judged = []
    for n, meta in enumerate(metas):
        record = Detected(image="", metadata={}, detections=stored[n], colors=names[n])
        judged.append(Judged(verdict_of(record, meta, rules), stored[n], names[n], margins[n], found[n]))
    watch.add("rules", since, len(images))
    return judged


def _coloured(meta: Metadata) -> dict[str, int]:
    """Class -> how many of its detections the prompt asks the colour of."""
    wanted: dict[str, int] = {}
    for need in meta.include:
        if need.color is not None:
            wanted[need.name] = max(need.count, wanted.get(need.name, 0))
    return wanted


# --- what a detector saw, drawn on an image for people ---------------------------------------------------------------


def overlay(image: np.ndarray, instances: Instances, classes: Sequence[str], threshold: float) -> Image.Image:
    """Boxes, masks, class names and scores above the threshold on the image, enlarged to at least 256 px."""
    from PIL import Image, ImageDraw, ImageFont

    height, width = image.shape[:2]
    zoom = max(1, -(-256 // max(height, width)))
    shade = image.astype(np.float32)
    kept = [i for i in range(len(instances.labels)) if instances.scores[i] > threshold]
    for i in kept:
        shade[instances.masks[i]] = 0.55 * shade[instances.masks[i]] + 0.45 * np.array(
            _tint(int(instances.labels[i])), np.float32
        )
    canvas = Image.fromarray(shade.astype(np.uint8)).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for i in kept:
        x1, y1, x2, y2 = (float(v) * zoom for v in instances.boxes[i])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=_tint(int(instances.labels[i])), width=2)
        draw.text(
            (x1 + 3, y1 + 2), f"{classes[instances.labels[i]]} {instances.scores[i]:.2f}", fill="black", font=font
        )
    return canvas


def _tint(label: int) -> tuple[int, int, int]:
    """A steady colour for a class index: steps of the golden angle around the hue circle."""
    red, green, blue = (int(255 * part) for part in colorsys.hsv_to_rgb((label * 0.618) % 1, 0.75, 0.95))
    return red, green, blue
