"""Pictures of a dataset row, decoded from base64 in memory: nothing is cached under a name."""

from __future__ import annotations

import ast
import base64
import binascii
import io
import warnings

from PIL import Image

REFERENCE_LENGTH = 64
"""VLMEvalKit's rule: an image cell this short names the row that holds the picture."""
MAX_PIXELS = 178_000_000
"""Pillow's own limit against decompression bombs."""


class BadImageError(ValueError):
    """One line about a picture that cannot be read; costs its item, never the run."""


def image_cells(cell: str) -> list[str]:
    """The base64 strings of one cell: one, or a list written as Python source (never evaluated, only parsed)."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            parsed = ast.literal_eval(cell)
        except (ValueError, SyntaxError) as error:
            raise BadImageError("the image list is not a list of strings") from error
        return [str(part) for part in parsed]
    return [cell]


def decode(encoded: str) -> Image.Image:
    """base64 text to an RGB picture (an animation's first frame; 16-bit grey scaled to 8). BadImageError if not."""
    try:
        data = base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError(f"not base64: {error}") from error
    if not data:
        raise BadImageError("the picture is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
            if picture.width * picture.height > MAX_PIXELS:
                raise BadImageError(f"{picture.width}x{picture.height} pixels are more than {MAX_PIXELS:,}")
            picture.load()
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds; each means the same here
        raise BadImageError(f"cannot decode: {type(error).__name__}: {error}") from error
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        # `convert` would clip at 255 and turn a 16-bit scan white.
        low, high = picture.getextrema()
        scale = 257.0 if picture.mode != "F" and high > 255 else 1.0
        picture = (
            picture.convert("F").point(lambda value: value / scale).convert("L") if high > low or scale > 1 else picture
        )
    return picture.convert("RGB")
