"""Pictures on disk in GenEval's layout: `DIR/00000/metadata.jsonl` and `DIR/00000/samples/00000.png`, four a prompt.

Every other GenEval tool reads this layout; so do we (`--images DIR`), and we write it into each run's folder.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from armor_eval.errors import UserError
from armor_eval.geneval.prompts import PromptSet, check_metadata, official_prompts, to_jsonl
from armor_eval.geneval.vocabulary import Vocabulary

if TYPE_CHECKING:
    from PIL import Image

SAMPLES = 4
"""Pictures a prompt."""


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


def write_metadata(root: Path, prompt: int, record: dict[str, Any]) -> None:
    path = root / folder_name(prompt) / "metadata.jsonl"
    if not path.exists():
        write_bytes(path, (json.dumps(record) + "\n").encode())


def as_array(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


@dataclass(frozen=True)
class ImageFolder:
    """Existing pictures matched to prompts."""

    root: Path
    prompts: PromptSet
    files: dict[tuple[int, int], Path]
    """(prompt, sample) -> file; a pair without one is missing."""
    notes: list[str] = field(default_factory=list)
    """What did not fit, one line each."""


def scan_folder(root: Path, vocabulary: Vocabulary, given: PromptSet | None, samples: int) -> ImageFolder:
    """Match a folder's pictures with `given` prompts, or with the official ones, or with those its metadata names.

    A folder whose metadata is none of the expected prompts makes the set its own, which is never the headline.
    """
    if not root.is_dir():
        raise UserError(
            f"--images {root} is not a folder", hint="expected NNNNN/metadata.jsonl and NNNNN/samples/*.png"
        )
    numbered = sorted(
        (d for d in root.iterdir() if d.is_dir() and d.name.isdigit()), key=lambda d: (int(d.name), d.name)
    )
    if not numbered:
        raise UserError(
            f"{root} holds no numbered folders", hint="expected 00000/metadata.jsonl and 00000/samples/*.png"
        )
    records = {d: _folder_record(d, root, vocabulary) for d in numbered}
    prompts = given or _expected(records, vocabulary)
    index_of: dict[str, list[int]] = {}
    for i, record in enumerate(prompts.records):
        index_of.setdefault(json.dumps(record, sort_keys=True), []).append(i)
    files: dict[tuple[int, int], Path] = {}
    notes: list[str] = []
    for d, record in records.items():
        candidates = index_of.get(json.dumps(record, sort_keys=True), [])
        if not candidates:
            notes.append(f"{d.name}: its prompt {record['prompt']!r} is not asked for; left out")
            continue
        index = int(d.name) if int(d.name) in candidates else candidates[0]
        pictures = sorted(
            (p for p in (d / "samples").glob("*") if p.stem.isdigit() and not p.name.startswith(".")),
            key=lambda p: (int(p.stem), p.name),
        )
        if any((index, s) in files for s in range(samples)):
            notes.append(f"{d.name}: the prompt {record['prompt']!r} has a folder already; left out")
            continue
        if len(pictures) > samples:
            notes.append(f"{d.name}: {len(pictures) - samples} pictures more than {samples}; left out")
        for sample, path in enumerate(pictures[:samples]):
            files[index, sample] = path
    return ImageFolder(root, prompts, files, notes)


def _folder_record(folder: Path, root: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing", hint="each numbered folder needs its prompt's metadata")
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root}")
    try:
        record = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not one JSON object: {error}") from None
    check_metadata(record, vocabulary, str(path))
    for key in ("image", "filename", "file", "path"):
        value = record.get(key)
        if isinstance(value, str) and not (folder / value).resolve().is_relative_to(root.resolve()):
            raise UserError(f"{path}: {key} {value!r} leads out of {root}")
    return record


def _expected(records: dict[Path, dict[str, Any]], vocabulary: Vocabulary) -> PromptSet:
    """The vocabulary's own prompt set if every folder is one of it, else what the folders say."""
    own = official_prompts() if vocabulary.name == "geneval" else shapes_prompts()
    known = {json.dumps(record, sort_keys=True) for record in own.records}
    if all(json.dumps(record, sort_keys=True) in known for record in records.values()):
        return own
    found = list(records.values())
    return PromptSet("custom", found, hashlib.sha256(to_jsonl(found).encode()).hexdigest(), official=False)


def shapes_prompts() -> PromptSet:
    """The embedded profile's 144 prompts; the combinations that training never saw carry `held_out`."""
    from armor_eval.shapes.geneval import records

    found = records()
    return PromptSet("shapes-geneval", found, hashlib.sha256(to_jsonl(found).encode()).hexdigest(), official=False)
