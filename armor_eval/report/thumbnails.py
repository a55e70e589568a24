"""Images as a page holds them: reduced, as base64."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

LOSSLESS_SIDE = 96
"""Images up to this size stay PNG: JPEG would change what few pixels there are."""


def thumbnail(path: Path, side: int) -> list | None:
    """[width, height, mime, base64]; small PNGs as they are, others reduced. The size is the original's."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if image.format == "PNG" and len(data) <= 2500:
                return [*size, "image/png", base64.b64encode(data).decode()]
            image.draft("RGB", (side, side))
            return encoded(image.convert("RGB"), size, side)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None


def encoded(image: Image.Image, size: tuple[int, int], side: int) -> list:
    """[width, height, mime, base64] of an RGB image, reduced to the side; `size` is the original's."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    lossless = max(image.size) <= LOSSLESS_SIDE
    image.save(buffer, **({"format": "PNG"} if lossless else {"format": "JPEG", "quality": 72}))
    return [*size, "image/png" if lossless else "image/jpeg", base64.b64encode(buffer.getvalue()).decode()]
