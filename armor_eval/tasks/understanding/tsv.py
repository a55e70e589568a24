"""A published TSV in one pass: its hashes, where its images lie, and every other cell as text.

The cells of the `image` column, nearly all of a file, are neither parsed nor copied: a mark takes the place of each,
the rest is pandas' to read, and an image is read from the file itself when it is shown. What was found in a large file
is kept in the cache, so that a second process, or a second command, does not read it whole again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import tempfile
import time
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from armor_eval.tasks.understanding.images import ImageCell, Texts
from armor_model.base.cache import cache_dir
from armor_model.base.files import make_folder, write_file
from armor_model.base.hashing import sha256_json
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

IN_PLACE = 64
"""Bytes from which on a cell stays in the file; shorter ones are references and names."""
KEPT = 32 << 20
"""Bytes of a file from which on what was found in it is kept."""
CHUNK = 1024
"""Rows read at a time."""
SETTLED_SECONDS = 2.0
"""A file that was written this recently could be written again without its times telling."""


@dataclass
class Found:
    """What one pass over a file finds."""

    sha256: str
    md5: str
    mark: str = field(default_factory=lambda: f"cell-{secrets.token_hex(8)}-")
    """What the marks begin with: no file can hold it."""
    cells: list[tuple[int, int, str]] = field(default_factory=list)
    """Of each mark: the cell's place and length in the file, and its digest."""


@dataclass(frozen=True)
class Content:
    """A file's cells."""

    columns: list[str]
    """`image` last, where there is one."""
    text: pd.DataFrame
    """Every column but `image`, each cell as its text, empty ones missing."""
    images: list[ImageCell | None]
    """The image column; None where a cell is missing."""


@dataclass(frozen=True)
class Tsv:
    """A file that was gone through; its hashes are there whether or not it is a TSV."""

    found: Found
    _file: IO[bytes]
    _rest: IO[bytes]

    @classmethod
    def open(cls, path: Path) -> Tsv:
        """Go through the file, unless a process before has. OSError where it cannot be read."""
        file, stand, sidecar = path.open("rb"), stand_of(path), _sidecar(path)
        if sidecar is not None and (recalled := _kept(sidecar)) is not None:
            return cls(recalled[0], file, BytesIO(recalled[1]))
        rest = tempfile.SpooledTemporaryFile(max_size=KEPT)  # noqa: SIM115 - as long as its rows
        scan = _scan(file, rest)
        if sidecar is not None and stand_of(path) == stand and rest.tell() <= KEPT:
            rest.seek(0)
            _keep(sidecar, scan, rest.read())
        return cls(scan, file, rest)

    def content(self) -> Content:
        """Its cells. Raises what pandas raises for a broken file."""
        import pandas as pd

        in_file, short = Texts(self._file), Texts.temporary()
        columns, marks = _columns(self._rest), 0
        images: list[ImageCell | None] = []
        parts: list[pd.DataFrame] = []
        reader = pd.read_csv(self._rest, sep="\t", dtype=str, keep_default_na=False, na_values=[""], chunksize=CHUNK)
        for chunk in reader:
            for cell in chunk.pop("image") if "image" in chunk else ():
                if cell != cell:
                    images.append(None)
                elif cell.startswith(self.found.mark):
                    place, length, digest = self.found.cells[int(cell.removeprefix(self.found.mark))]
                    images.append(ImageCell(digest, length, in_file, place))
                    marks += 1
                else:
                    images.append(short.add(cell))
            # pandas makes an index of the first cell of rows that have one too many, and shifts the rest.
            if not isinstance(chunk.index, pd.RangeIndex):
                raise ValueError("rows have more cells than the header")
            parts.append(chunk)
        if marks != len(self.found.cells):
            raise ValueError(f"{len(self.found.cells) - marks} images are not in the column `image`")
        text = pd.concat(parts, ignore_index=True)
        return Content([*text.columns, *(["image"] if "image" in columns else [])], text, images)


def stand_of(path: Path) -> list[int]:
    """What changes with the file: its number, size and times."""
    s = path.stat()
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


# --- one pass --------------------------------------------------------------------------------------------------------


def _scan(file: IO[bytes], rest: IO[bytes]) -> Found:
    """Hash the file, and write it into `rest` with a mark for each long image cell that is plainly one."""
    try:
        wanted = _columns(file).index("image")
    except ValueError:  # there is none, or this is no TSV, which pandas then says
        wanted = -1
    file.seek(0)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    scan, quoted, column, at = Found("", ""), False, 0, 0
    for line in file:
        sha256.update(line)
        md5.update(line)
        span = None
        if b"\r" in line[:-2]:  # pandas ends a row there as well: from here on nothing is plain
            wanted = -1
        if wanted >= 0:
            span, column, quoted = _image_span(line, wanted, column, quoted)
        if span is not None and span[1] - span[0] > IN_PLACE and line.isascii():
            start, end = span
            digest = hashlib.sha256(memoryview(line)[start:end]).hexdigest()[:16]
            rest.write(line[:start] + f"{scan.mark}{len(scan.cells)}".encode() + line[end:])
            scan.cells.append((at + start, end - start, digest))
        else:
            rest.write(line)
        at += len(line)
    scan.sha256, scan.md5 = sha256.hexdigest(), md5.hexdigest()
    return scan


def _image_span(line: bytes, wanted: int, column: int, quoted: bool) -> tuple[tuple[int, int] | None, int, bool]:
    """(where the unquoted cell of the wanted column lies, the column that the next line begins in, whether inside of
    quotes), by the rules of pandas' tokenizer: a quote counts at the beginning of a cell, and doubled inside of one."""
    at, span, last = 0, None, len(line.rstrip(b"\r\n"))
    while True:
        begin = at
        inside = quoted or line[at : at + 1] == b'"'
        if inside:
            at = _behind_quote(line, at if quoted else at + 1)
            if at < 0:
                return span, column, True
            quoted = False
        tab = line.find(b"\t", at)
        end = last if tab < 0 else tab
        if column == wanted and not inside:
            span = begin, end
        if tab < 0:
            return span, 0, False
        at, column = tab + 1, column + 1


def _behind_quote(line: bytes, at: int) -> int:
    """Behind the quote that closes; -1 where the line has none."""
    while (close := line.find(b'"', at)) >= 0:
        if line[close + 1 : close + 2] != b'"':
            return close + 1
        at = close + 2
    return -1


def _columns(file: IO[bytes]) -> list[str]:
    import pandas as pd

    file.seek(0)
    columns = list(pd.read_csv(file, sep="\t", nrows=0).columns)
    file.seek(0)
    return columns


# --- what is kept ----------------------------------------------------------------------------------------------------


def _sidecar(path: Path) -> Path | None:
    """Where what was found in a file is kept; None for a small one, and for one that was just written."""
    stand = stand_of(path)
    if stand[2] < KEPT or time.time() - stand[4] / 1e9 < SETTLED_SECONDS:
        return None
    return cache_dir() / "tables" / f"{sha256_json([str(path.resolve()), stand])[:32]}.found"


def _keep(sidecar: Path, scan: Found, rest: bytes) -> None:
    try:
        make_folder(sidecar.parent)
        write_file(sidecar, json.dumps(asdict(scan)).encode() + b"\n" + rest, sync=False)
    except OSError as error:  # a convenience: the next process reads the file itself
        log.debug("%s cannot be kept: %s", sidecar, error)


def _kept(sidecar: Path) -> tuple[Found, bytes] | None:
    """What was found before; None where there is nothing, or nothing whole."""
    try:
        head, _, rest = sidecar.read_bytes().partition(b"\n")
        scan = Found(**json_of(head))
        scan.cells = [(int(place), int(length), str(digest)) for place, length, digest in scan.cells]
        return scan, rest
    except (OSError, ValueError, TypeError):
        return None
