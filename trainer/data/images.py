"""Images by reference: `a/b.jpg` names a file, `images/00000.tar:1024:20480` a stretch of a large one (first byte and
length); so millions of images lie in few files, and are read without unpacking."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.images import image_size, open_image

if TYPE_CHECKING:
    from armor_model.processing import ArmorProcessor

_STRETCH = re.compile(r"(.+):([0-9]{1,18}):([0-9]{1,18})")


def read_bytes(reference: Path | bytes) -> bytes:
    """The encoded image; what came as bytes, as it is. Raises UserError."""
    if isinstance(reference, bytes):
        return reference
    path, first, length = _split(reference)
    try:
        if length is None:
            return path.read_bytes()
        with path.open("rb") as file:
            file.seek(first)
            data = file.read(length)
    except OSError as error:
        raise UserError(f"no image at {reference}: {error.strerror}") from error
    if len(data) != length:
        raise UserError(f"{reference} reaches behind the file's end")
    return data


def exists(reference: Path) -> bool:
    """Whether the file is there, and long enough."""
    path, first, length = _split(reference)
    return path.is_file() and (length is None or first + length <= path.stat().st_size)


def _split(reference: Path) -> tuple[Path, int, int | None]:
    match = _STRETCH.fullmatch(str(reference))
    if match is None or reference.is_file():  # a file may be called so
        return reference, 0, None
    return Path(match[1]), int(match[2]), int(match[3])


def append(tar: tarfile.TarFile, name: str, data: bytes) -> str:
    """Add a member to a tar that is being written; where its bytes stand: `first:length`."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    return f"{tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE}:{len(data)}"


def describe(data: bytes) -> JsonObject:
    """What a shard keeps of an image to look at: width, height, sha256 of the file. Raises UserError."""
    width, height = image_size(data)
    return {"width": width, "height": height, "sha256": hashlib.sha256(data).hexdigest()}


def cut_tiles(images: Sequence[tuple[Path, str | None]], count: int, processor: ArmorProcessor) -> list[Tensor]:
    """Images as the processor cuts them, each a reference and the sha256 that it had (None: not known). Raises
    UserError for one that cannot be read, is another than it was, or makes other than `count` placeholders in all."""
    tiles = []
    for reference, sha256 in images:
        data = read_bytes(reference)
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise UserError(f"{reference} has changed since it was tokenised")
        tiles.append(processor.base.preprocess(open_image(data), processor.settings, None))
    found = sum(sum(processor.base.image_text(one, processor.settings)[1]) for one in tiles)
    if found != count:
        names = ", ".join(str(reference) for reference, _ in images)
        raise UserError(f"{names}: {found} positions, and {count} when it was tokenised")
    return tiles
