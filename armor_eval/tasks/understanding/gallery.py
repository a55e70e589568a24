"""The image column of a TSV, left on disk: SEED-Bench's images alone would fill the memory that a model needs.

Cells are read one at a time, from any thread: from the file itself, or, where it does not hold their text as it is,
from an unnamed temporary one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from armor_eval.tasks.understanding import images
from armor_eval.tasks.understanding.images import image_cells, size_of
from armor_model.base.images import BadImageError

if TYPE_CHECKING:
    from PIL import Image

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
        while cell.length <= images.REFERENCE_LENGTH and (named := self.cells.get(cell.cell())) is not None:
            if cell.cell() in seen:
                raise images.BadImageError(f"refers to row {cell.cell()}, which refers back")
            seen.add(cell.cell())
            cell = named
        return cell

    def open(self, cell: ImageCell, saved_as: Sequence[str] = ()) -> list[Image.Image]:
        """The images of a cell, RGB. `saved_as`: the file names they are written to before they are shown."""
        parts = images.image_cells(cell.cell())
        names = [*saved_as, *[None] * (len(parts) - len(saved_as))]
        return [
            images.decode(self._resolved(part), self.folder, name) for part, name in zip(parts, names, strict=False)
        ]

    def _resolved(self, part: str) -> str:
        named = self.cells.get(part) if len(part) <= images.REFERENCE_LENGTH else None
        return part if named is None else self.follow(named).cell()
