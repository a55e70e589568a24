"""Image folders made by other programs, matched with prompts: what is clear is read, the rest is named and left out.

The official layout is `DIR/00000/metadata.jsonl` and `DIR/00000/samples/00000.png`. Also read: folders below folders of
processes (`DIR/rank0/00000`), images beside the metadata, other formats than PNG, `img_000.png`, rewritten prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.base.images import read_image
from armor_eval.tasks.geneval.prompts import PromptSet, Vocabulary, check_metadata, constraints, own_prompts, prompt_set
from armor_model.base.errors import UserError
from armor_model.base.files import write_file
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    from PIL import Image

LAYOUT = "expected NNNNN/metadata.jsonl and NNNNN/samples/NNNNN.png"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""What is taken for an image. PNG first: it is the only one that the official script reads."""


@dataclass(frozen=True)
class ImageFolder:
    """Existing images matched to prompts."""

    root: Path
    prompts: PromptSet
    """In the words that the folders' metadata give; a prompt without a folder keeps those that were expected."""
    files: dict[tuple[int, int], Path]
    """(prompt, sample) -> file; a pair without one is missing."""
    notes: list[str] = field(default_factory=list)
    """What did not fit and why, one line each."""
    lost: str | None = None
    """Why the prompts may be fewer than the folder was made for: they are its own, and some could not be read."""

    def read(self, index: int, sample: int) -> tuple[Image.Image, str | None]:
        """RGB, and what had to be done to read it. BadImageError where it is missing, or no image."""
        if (file := self.files.get((index, sample))) is None:
            raise BadImageError("the image is missing")
        return read_image(file, self.root)


class _Notes:
    """Reasons with the folders they hold for: one line a reason, however many folders."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, None]] = {}

    def add(self, name: str, reason: str) -> None:
        self.folders.setdefault(reason, {})[name] = None

    def lines(self) -> list[str]:
        return [f"{_listed([*names])}: {reason}" for reason, names in self.folders.items()]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def scan_folder(root: Path, vocabulary: Vocabulary, given: PromptSet | None, samples: int) -> ImageFolder:
    """Match a folder's images with `given` prompts, or with the profile's own, or with those its metadata names.

    A prompt is known by what its image must show, not by its words: rewritten prompts are the same items under another
    protocol. Raises UserError where nothing can be read.
    """
    notes = _Notes()
    records, broken = _records(root, vocabulary, notes)
    own = own_prompts(vocabulary)
    known = {constraints(record) for record in own.records}
    foreign = given is None and any(constraints(record) not in known for record in records.values())
    if foreign:
        found = {json.dumps(record, sort_keys=True): record for record in records.values()}
        expected = prompt_set("custom", list(found.values()))
    else:
        expected = given or own
    words = [record["prompt"] for record in expected.records]
    files: dict[tuple[int, int], Path] = {}
    for folder, index in _places(records, expected, notes, root):
        name = str(folder.relative_to(root))
        if records[folder]["prompt"] != words[index]:
            notes.add(name, "its prompt is in other words than expected: the same item, another protocol")
            words[index] = records[folder]["prompt"]
        for sample, file in enumerate(_images(folder, name, samples, notes)):
            files[index, sample] = file
    if not files:
        raise UserError(f"{root} holds no image that belongs to a prompt: {LAYOUT}", "; ".join(notes.lines()) or None)
    if words != [record["prompt"] for record in expected.records]:
        rewritten = [{**r, "prompt": text} for r, text in zip(expected.records, words, strict=True)]
        expected = prompt_set(f"{expected.name}-rewritten", rewritten)
    lost = f"{broken} folders could not be read, and the prompts are the folder's own" if foreign and broken else None
    return ImageFolder(root, expected, files, notes.lines(), lost)


def _records(root: Path, vocabulary: Vocabulary, notes: _Notes) -> tuple[dict[Path, JsonObject], int]:
    """Each prompt's folder with its metadata record, and how many were left out. Raises UserError if all were."""
    if not root.is_dir():
        raise UserError(f"--images {root} is not a folder", hint=LAYOUT)
    records: dict[Path, JsonObject] = {}
    errors = []
    for folder in _numbered(root, notes):
        try:
            records[folder] = _folder_record(folder, root, vocabulary)
        except UserError as error:
            errors.append(error)
            notes.add(str(folder.relative_to(root)), f"left out: {str(error).removeprefix(f'{folder}/')}")
    if errors and not records:
        raise errors[0]
    return records, len(errors)


def _numbered(root: Path, notes: _Notes) -> list[Path]:
    """Folders named by a number, those below folders of processes (`rank0/00000`) where only they have metadata."""
    inner = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    found = [d for d in inner if _number(d.name) is not None]
    if not any((d / "metadata.jsonl").exists() for d in found):
        below = [d for shard in inner for d in shard.iterdir() if (d / "metadata.jsonl").is_file()]
        if below := [d for d in below if _number(d.name) is not None]:
            return sorted(below, key=lambda d: (int(d.name), str(d)))
    if not found:
        raise UserError(
            f"{root} holds no numbered folders", f"{LAYOUT}; a file's name alone does not say which prompt was drawn"
        )
    for folder in inner:
        if folder not in found:
            notes.add(folder.name, "left out: its name is no number")
    return sorted(found, key=lambda d: (int(d.name), d.name))


def _number(text: str) -> int | None:
    """`00012` -> 12; None for anything but ASCII digits (`\u00b2` is a digit to Python, and no number)."""
    return int(text) if text.isascii() and text.isdigit() else None


def _folder_record(folder: Path, root: Path, vocabulary: Vocabulary) -> JsonObject:
    """metadata.jsonl's one record: a byte-order mark and repeated equal lines are read over."""
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise UserError(f"{path} is missing", hint="each numbered folder needs its prompt's metadata")
    if not path.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{path} is a link that leads out of {root}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            found = [json_of(text)]  # also an object that is spread over lines
        except ValueError:
            found = [json_of(line) for line in text.splitlines() if line.strip()]
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not one JSON object: {error}") from None
    if any(record != found[0] for record in found[1:]):
        raise UserError(f"{path}: {len(found)} records that differ: which was drawn is not clear")
    record: JsonObject = found[0] if found else {}
    check_metadata(record, vocabulary, str(path))
    for key in ("image", "filename", "file", "path"):
        value = record.get(key)
        if isinstance(value, str) and not (folder / value).resolve().is_relative_to(root.resolve()):
            raise UserError(f"{path}: {key} {value!r} leads out of {root}")
    return record


def _places(
    records: dict[Path, JsonObject], expected: PromptSet, notes: _Notes, root: Path
) -> Iterator[tuple[Path, int]]:
    """(folder, index of its prompt), each prompt once: by words and constraints, else by constraints where one fits."""
    exact: dict[tuple[str, str], list[int]] = {}
    loose: dict[str, list[int]] = {}
    for i, record in enumerate(expected.records):
        exact.setdefault((constraints(record), record["prompt"]), []).append(i)
        loose.setdefault(constraints(record), []).append(i)
    taken: set[int] = set()
    for folder, record in records.items():
        name, key = str(folder.relative_to(root)), constraints(record)
        fitting = exact.get((key, record["prompt"])) or loose.get(key, [])
        if not fitting:
            notes.add(name, f"left out: its prompt {record['prompt']!r} is not asked for")
            continue
        index = int(folder.name) if int(folder.name) in fitting else fitting[0]
        if index in taken:
            notes.add(name, f"left out: the prompt {record['prompt']!r} has a folder already")
            continue
        taken.add(index)
        yield folder, index


def _images(folder: Path, name: str, samples: int, notes: _Notes) -> list[Path]:
    """At most `samples` image files by falling clarity of their names: `00000.png`, else `img_000.png`; PNG wins."""
    place = folder / "samples" if (folder / "samples").is_dir() else folder
    named: dict[str, dict[int, list[Path]]] = {}
    for entry in sorted(place.iterdir()):
        if entry.name.startswith(".") or (place == folder and entry.name == "metadata.jsonl"):
            continue
        match = re.fullmatch(r"(.*?)([0-9]+)", entry.stem)
        if entry.is_dir():
            notes.add(name, f"left out: {entry.name} is a folder")
        elif entry.suffix.lower() not in SUFFIXES:
            notes.add(name, f"left out: {entry.suffix or entry.name} files are no images")
        elif match is None:
            notes.add(name, f"left out: {entry.name} has no number")
        else:
            named.setdefault(match[1], {}).setdefault(int(match[2]), []).append(entry)
    prefix = "" if "" in named else next(iter(named), "")
    others = sorted(set(named) - {prefix})
    if others and prefix:
        notes.add(
            name, f"left out: files named {_listed([f'{p}N' for p in named])}: which are the samples is not clear"
        )
        return []
    if others:
        notes.add(name, f"left out: files named {_listed([f'{p}N' for p in others])} beside those named N")
    chosen = []
    for _, same in sorted(named.get(prefix, {}).items()):
        chosen.append(min(same, key=lambda file: SUFFIXES.index(file.suffix.lower())))
        for file in same:
            if file != chosen[-1]:
                notes.add(name, f"left out: a {file.suffix} beside the {chosen[-1].suffix} of one number")
    if len(chosen) > samples:
        notes.add(name, f"left out: {len(chosen) - samples} images more than {samples}")
    return chosen[:samples]


# --- the layout that is written --------------------------------------------------------------------------------------
# Every other GenEval tool reads this layout; so do we (`--images DIR`), and we write it into
# each run's folder.


SAMPLES = 4
"""Images a prompt."""


def folder_name(prompt: int) -> str:
    return f"{prompt:05d}"


def sample_path(prompt: int, sample: int) -> str:
    """Path inside an images folder."""
    return f"{folder_name(prompt)}/samples/{sample:05d}.png"


def write_metadata(root: Path, prompt: int, record: JsonObject) -> None:
    """A prompt's record beside its images, unless it is there."""
    path = root / folder_name(prompt) / "metadata.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(record) + "\n", sync=False)
