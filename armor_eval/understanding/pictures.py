"""The image column of a TSV, kept on disk: SEED-Bench's pictures alone would fill the memory that a model needs.

The cells are streamed once into an unnamed temporary file and read back one at a time, from any thread.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHUNK = 256
"""Rows read at a time."""


@dataclass(frozen=True)
class Picture:
    """One cell of the image column."""

    digest: str
    """Of the cell's text: equal for equal pictures, which is what clusters by picture go by."""
    length: int
    _spool: Spool
    _offset: int

    def cell(self) -> str:
        """The base64 text, or the list of them."""
        return self._spool.read(self._offset, self.length)


class Spool:
    """Texts in a file without a name: it goes with the process, however that ends."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="armor-eval-pictures-")  # noqa: SIM115 - lives as long as its rows
        self._end = 0

    def add(self, text: str) -> Picture:
        data = text.encode("utf-8", "surrogatepass")
        self._file.write(data)
        picture = Picture(hashlib.sha256(data).hexdigest()[:16], len(data), self, self._end)
        self._end += len(data)
        return picture

    def flush(self) -> None:
        self._file.flush()

    def read(self, offset: int, length: int) -> str:
        return os.pread(self._file.fileno(), length, offset).decode("utf-8", "surrogatepass")


def read_pictures(path: Path) -> list[Picture | None]:
    """The image column in file order; None where a cell is missing. Raises what pandas raises for a broken file."""
    import pandas as pd

    spool = Spool()
    found: list[Picture | None] = []
    with pd.read_csv(path, sep="\t", usecols=["image"], chunksize=CHUNK) as chunks:
        for chunk in chunks:
            found += [spool.add(str(cell)) if cell == cell and cell is not None else None for cell in chunk["image"]]
    spool.flush()
    return found
