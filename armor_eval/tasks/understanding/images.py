"""The images of a dataset row, decoded in memory to the pixels that VLMEvalKit would show: nothing is cached."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path, PurePosixPath
from typing import cast

from PIL import Image

from armor_model.base.images import BadImageError, decoded
from armor_model.base.parsing import literal_of

REFERENCE_LENGTH = 64
"""VLMEvalKit's rule: an image cell this short names the row that holds the image."""


def image_cells(cell: str) -> list[str]:
    """The images of one cell: one, or a list written as Python source (never evaluated, only parsed); `[]` is none."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            parsed = literal_of(cell)
        except ValueError as error:
            raise BadImageError("the image list is not a list of strings") from error
        return [str(part) for part in parsed]
    return [cell]


def decode(text: str, folder: Path | None = None, saved_as: str | None = None) -> Image.Image:
    """base64, a data URI or a path below `folder` to an RGB image (of an animation the first). BadImageError if not.

    `saved_as` is the file name under which VLMEvalKit would write the image before it is shown: see `as_saved`.
    """
    with decoded(_bytes_of(text, folder)) as image:
        return shown(image if saved_as is None else as_saved(image, saved_as))


def size_of(text: str) -> tuple[int, int] | None:
    """Width and height of a base64 image of which only the beginning may be there; None where it does not say."""
    text = text[: len(text) // 4 * 4].rpartition(",")[2]  # a data URI's head goes
    try:
        with Image.open(io.BytesIO(base64.b64decode(text[: len(text) // 4 * 4]))) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _bytes_of(text: str, folder: Path | None) -> bytes:
    """The image file that a cell holds or names. A path must lie below the TSV's folder; nothing is fetched."""
    text = text.strip()
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise BadImageError(f"a data URI without base64: {head[:40]}")
    elif text.startswith(("http://", "https://")):
        raise BadImageError(f"an address, and nothing is fetched: {text[:80]}")
    elif PurePosixPath(text[-16:]).suffix.lower() in Image.registered_extensions():  # base64 has no point
        return _file_below(folder, text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadImageError(f"not base64: {error}") from error


def _file_below(folder: Path | None, name: str) -> bytes:
    try:
        if folder is None or not (file := (folder / name).resolve()).is_relative_to(folder.resolve()):
            raise BadImageError(f"a path out of the data folder: {name[:80]!r}")
        return file.read_bytes()
    except FileNotFoundError as error:
        raise BadImageError(f"no image at {name[:80]!r} in the data folder") from error
    except (OSError, ValueError) as error:
        if isinstance(error, BadImageError):
            raise
        raise BadImageError(f"{name[:80]!r} cannot be read: {error}") from error


def as_saved(image: Image.Image, name: str) -> Image.Image:
    """The image as it comes back from the file `name`, which VLMEvalKit writes before it shows it (`dump_image`).

    Pillow's defaults for the name's suffix: a `.jpg` is compressed again at quality 75, a `.png` keeps the pixels.
    """
    if image.mode in ("RGBA", "P", "LA"):
        image = image.convert("RGB")
    suffix = PurePosixPath(name).suffix.lower()
    written = io.BytesIO()
    image.save(written, format=Image.registered_extensions()[suffix])
    written.seek(0)
    return Image.open(written)


def shown(image: Image.Image) -> Image.Image:
    """RGB as VLMEvalKit and InternVL convert it, plainly: what is transparent shows the colour that lies below.

    16-bit grey is scaled to 8 first: `convert` clips at 255 and would turn a scan white.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        low, high = cast("tuple[float, float]", image.getextrema())  # of one band
        scale = 257.0 if image.mode != "F" and high > 255 else 1.0
        if high > low or scale > 1:
            image = image.convert("F").point(lambda value: value / scale).convert("L")
    image = image.convert("RGB")
    # Pillow keeps a transparent colour in `info`, by which our model's own reader would lay the image on white.
    image.info.pop("transparency", None)
    return image
