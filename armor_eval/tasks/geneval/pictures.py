"""Pictures on disk in GenEval's layout: `DIR/00000/metadata.jsonl` and `DIR/00000/samples/00000.png`, four a prompt.

Every other GenEval tool reads this layout; so do we (`--images DIR`, folders.py beside this), and we write it into each
run's folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from armor_eval.tasks.geneval.prompts import PromptSet, prompt_set

if TYPE_CHECKING:
    from PIL import Image

SAMPLES = 4
"""Pictures a prompt."""
PNG_END = bytes.fromhex("0000000049454e44ae426082")


def folder_name(prompt: int) -> str:
    return f"{prompt:05d}"


def sample_path(prompt: int, sample: int) -> str:
    """Path inside an images folder."""
    return f"{folder_name(prompt)}/samples/{sample:05d}.png"


def seed_of(base: int, prompt: int, sample: int) -> int:
    """A picture's own seed, 31 bits: the same in any batch, subset or process."""
    digest = hashlib.sha256(f"{base}:{prompt}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class UnreadablePictureError(Exception):
    """One line on why a file is no picture; the item counts as an error."""


def read_picture(path: Path, root: Path) -> tuple[Image.Image, str | None]:
    """RGB, upright; and what had to be done to it, if anything. Raises UnreadablePictureError.

    Grey pictures get three equal channels, alpha is dropped, EXIF rotation is applied: what OpenCV does when the
    official script reads the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.resolve().is_relative_to(root.resolve()):
        raise UnreadablePictureError("it is a link that leads out of the folder")
    try:
        raw = path.read_bytes()
        if not raw:
            raise UnreadablePictureError("the file is empty")
        with Image.open(io.BytesIO(raw)) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            notes = [] if opened.format == "PNG" else [f"{opened.format}, not PNG"]
            if upright.size != opened.size or opened.getexif().get(0x0112, 1) != 1:
                notes.append("rotated by EXIF")
            if upright.mode.startswith(("I", "F")):
                raise UnreadablePictureError(f"{upright.mode} pixels are not 8-bit")
            if upright.mode != "RGB":
                notes.append(f"{upright.mode} read as RGB")
            return upright.convert("RGB"), "; ".join(notes) or None
    except UnidentifiedImageError:
        raise UnreadablePictureError("it is not a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadablePictureError(" ".join(f"it cannot be decoded: {error}".split())) from None


def write_picture(path: Path, image: Image.Image) -> None:
    """A PNG under its final name only once it is whole."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def write_bytes(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(raw)
    temporary.replace(path)


def make_durable(files: Iterable[Path]) -> None:
    """Files and the folders that name them reach the disk before this returns.

    Side by side: a disk that takes 6 ms a file one by one takes 0.9 ms so.
    """
    files = set(files)
    folders = {folder for file in files for folder in list(file.parents)[:3]}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(_sync, [*sorted(files), *sorted(folders)]))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_whole(path: Path, root: Path) -> bool:
    """Whether an image file can be read to its end; our own PNGs are known by their last chunk."""
    try:
        with path.open("rb") as file:
            file.seek(-len(PNG_END), os.SEEK_END)
            if file.read() == PNG_END:
                return True
        read_picture(path, root)
    except (OSError, UnreadablePictureError):
        return False
    return True


def write_metadata(root: Path, prompt: int, record: dict[str, Any]) -> None:
    path = root / folder_name(prompt) / "metadata.jsonl"
    if not path.exists():
        write_bytes(path, (json.dumps(record) + "\n").encode())


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def shapes_prompts() -> PromptSet:
    """The embedded profile's 144 prompts; the combinations that training never saw carry `held_out`."""
    from armor_eval.shapes.geneval import records

    return prompt_set("shapes-geneval", records())
