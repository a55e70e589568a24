"""The image column of a TSV, kept on disk: SEED-Bench's images alone would fill the memory that a model needs.

The cells are streamed once into an unnamed temporary file and read back one at a time, from any thread.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.tasks.understanding import images
from armor_eval.tasks.understanding.images import image_cells, size_of
from armor_model.base.images import BadImageError
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 256
"""Rows read at a time."""


HEAD = 65_536
"""Characters of a cell that are read to learn an image's size."""


@dataclass(frozen=True)
class ImageCell:
    """One cell of the image column."""

    digest: str
    """Of the cell's text: equal for equal images, which is what clusters by image go by."""
    length: int
    _spool: Spool
    _offset: int

    def cell(self) -> str:
        """The base64 text, or the list of them."""
        return self._spool.read(self._offset, self.length)

    def sizes(self) -> list[tuple[int, int]]:
        """(width, height) of its images as far as the beginnings of their files tell; for planning only."""
        head = self._spool.read(self._offset, min(self.length, HEAD))
        try:
            whole = image_cells(head) if self.length <= HEAD else [head.removeprefix("['")]
        except BadImageError:
            return []
        return [size for text in whole if (size := size_of(text)) is not None]


class Spool:
    """Texts in a file without a name: it goes with the process, however that ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="armor-eval-pictures-")  # noqa: SIM115 - lives as long as its rows
        self._end = 0

    def add(self, text: str) -> ImageCell:
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        cell = ImageCell(hashlib.sha256(data).hexdigest()[:16], len(data), self, self._end)
        self._end += len(data)
        return cell

    def flush(self) -> None:
        self._file.flush()

    def read(self, offset: int, length: int) -> str:
        return os.pread(self._file.fileno(), length, offset).decode("utf-8", "surrogatepass")


def read_image_cells(path: Path) -> list[ImageCell | None]:
    """The image column in file order; None where a cell is missing. Raises what pandas raises for a broken file."""
    cells = _read_cells(path, as_text=False)
    return not_none(_read_cells(path, as_text=True)) if cells is None else cells


def _read_cells(path: Path, as_text: bool) -> list[ImageCell | None] | None:
    """The cells; None where pandas made numbers of a whole chunk (references `007`), which lose their spelling.

    Asking for text from the start would read every other file 1.4 times as long.
    """
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    spool = Spool()
    found: list[ImageCell | None] = []
    with pd.read_csv(
        path,
        sep="\t",
        usecols=["image"],
        chunksize=CHUNK,
        dtype=object if as_text else None,
        keep_default_na=False,
        na_values=[""],
    ) as chunks:
        for chunk in chunks:
            if is_numeric_dtype(chunk["image"]):
                return None
            found += [spool.add(cell) if cell == cell else None for cell in chunk["image"]]
    spool.flush()
    return found


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
