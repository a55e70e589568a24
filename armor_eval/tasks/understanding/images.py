"""The image column of a TSV, left on disk: SEED-Bench's images alone would fill the memory that a model needs.

Cells are read one at a time, from any thread: from the file itself, or, where it does not hold their text as it is,
from an unnamed temporary one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from PIL import Image

from armor_model.base.images import BadImageError, decoded
from armor_model.base.parsing import literal_of

HEAD = 65_536
"""Characters of a cell that are read to learn an image's size."""


@dataclass(frozen=True)
class ImageCell:
    """One cell of the image column."""

    digest: str
    """Of the cell's text: equal for equal images, which is what clusters by image go by."""
    length: int
    _texts: Texts
    _offset: int

    def cell(self) -> str:
        """The base64 text, or the list of them."""
        return self._texts.read(self._offset, self.length)

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of its images as far as the beginnings of their files tell; for planning only."""
        head = self._texts.read(self._offset, min(self.length, HEAD))
        try:
            whole = image_cells(head) if self.length <= HEAD else [head.removeprefix("['")]
        except BadImageError:
            return []
        return [size for text in whole if (size := size_of(text)) is not None]


class Texts:
    """Texts in a file, which stays open as long as something reads from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._end = file, 0

    @classmethod
    def temporary(cls) -> Texts:
        """In a file without a name: it goes with the process, however that ends."""
        return cls(tempfile.TemporaryFile(prefix="armor-eval-pictures-"))

    def add(self, text: str) -> ImageCell:
        """Write a text behind those that are there; for a temporary file."""
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._file.flush()
        cell = ImageCell(hashlib.sha256(data).hexdigest()[:16], len(data), self, self._end)
        self._end += len(data)
        return cell

    def read(self, offset: int, length: int) -> str:
        return os.pread(self._file.fileno(), length, offset).decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Gallery:
    """Where the images of a file's rows are found: in cells of their own, in other rows' cells, in files beside it."""

    folder: Path
    """Of the TSV: relative paths are read below it."""
    cells: dict[str, ImageCell]
    """Index -> cell, which a short cell of another row may name."""

    def follow(self, cell: ImageCell) -> ImageCell:
        """The cell itself, or the one that it refers to, over any number of rows. BadImageError for a ring."""
        seen: set[str] = set()
        while cell.length <= REFERENCE_LENGTH and (named := self.cells.get(cell.cell())) is not None:
            if cell.cell() in seen:
                raise BadImageError(f"refers to row {cell.cell()}, which refers back")
            seen.add(cell.cell())
            cell = named
        return cell

    def open(self, cell: ImageCell, saved_as: Sequence[str] = ()) -> list[Image.Image]:
        """The images of a cell, RGB. `saved_as`: the file names they are written to before they are shown."""
        parts = image_cells(cell.cell())
        names = [*saved_as, *[None] * (len(parts) - len(saved_as))]
        return [decode(self._resolved(part), self.folder, name) for part, name in zip(parts, names, strict=False)]

    def _resolved(self, part: str) -> str:
        named = self.cells.get(part) if len(part) <= REFERENCE_LENGTH else None
        return part if named is None else self.follow(named).cell()


# --- images, decoded in memory to the pixels that VLMEvalKit would show: nothing is cached ---------------------------


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
