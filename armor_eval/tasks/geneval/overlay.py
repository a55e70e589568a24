"""What a detector saw, drawn on an image for people."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.tasks.geneval.instances import Instances


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
