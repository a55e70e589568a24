"""Image files: opened in one place, under one limit, with one error for all that Pillow's decoders raise. And
InternVL's dynamic tiling by arithmetic, without torch, so that who only plans can ask: the grid of tiles that an image
is cut into."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
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


@lru_cache(maxsize=65_536)
def tile_grid(width: int, height: int, max_tiles: int, tile: int, min_tiles: int = 1) -> tuple[int, int]:
    """Columns and rows of tiles for an image: the grid whose aspect ratio is nearest; among equals, a larger grid is
    taken only while the image has more than half the grid's pixels."""
    aspect = width / height
    grids = [
        (c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if min_tiles <= c * r <= max_tiles
    ]
    best, best_distance = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(aspect - columns / rows)
        if distance < best_distance or (
            distance == best_distance and width * height > 0.5 * tile * tile * columns * rows
        ):
            best, best_distance = (columns, rows), distance
    return best


def tile_count(width: int, height: int, max_tiles: int, tile: int, thumbnail: bool = True) -> int:
    """How many tiles an image of this size is cut into, the thumbnail included."""
    columns, rows = tile_grid(width, height, max_tiles, tile)
    return columns * rows + (thumbnail and columns * rows > 1)
