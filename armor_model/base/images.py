"""Image files: opened in one place, under one limit, with one error for all that Pillow's decoders raise."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 100_000_000
"""Larger images are refused: decoding one takes half a gigabyte, and they all end as a few tiles."""


class BadImageError(ValueError):
    """One line about an image that cannot be read; costs its item, never the run."""


@contextmanager
def opened(source: Image.Image | bytes | str | Path, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """An image, or that of a file or of a file's bytes (of an animation the first), its pixels not yet read.

    BadImageError if there is none or it is too large, whatever Pillow raises here or in the block: its decoders have a
    dozen kinds, and each means the same. FileNotFoundError and MemoryError stay what they are. `formats`: the only ones
    that are tried.
    """
    from PIL import Image, UnidentifiedImageError

    what = "is not an image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "Palette images with Transparency")
            if isinstance(source, Image.Image):
                _check_size(source)
                what = "is damaged"
                yield source
                return
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as image:
                _check_size(image)
                what = "is damaged"
                yield image
    except (BadImageError, MemoryError, FileNotFoundError):
        raise
    except UnidentifiedImageError as error:
        raise BadImageError("it is not an image" + (": the file is empty" if source == b"" else "")) from error
    except Image.DecompressionBombError as error:  # Pillow's own limit lies above ours
        raise BadImageError(f"it has more than {MAX_PIXELS / 1e6:.0f} megapixels") from error
    except Exception as error:
        raise BadImageError(" ".join(f"it {what}: {type(error).__name__}: {error}".split())) from error


@contextmanager
def decoded(data: bytes, formats: tuple[str, ...] | None = None) -> Iterator[Image.Image]:
    """The image of a file's bytes, decoded to its end; see `opened`."""
    with opened(data, formats) as image:
        image.load()
        yield image


def _check_size(image: Image.Image) -> None:
    if not image.width * image.height:
        raise BadImageError(f"it has no pixels ({image.width}x{image.height})")
    if image.width * image.height > MAX_PIXELS:
        megapixels = image.width * image.height / 1e6
        raise BadImageError(f"it has {megapixels:.0f} megapixels; the limit is {MAX_PIXELS / 1e6:.0f}")
