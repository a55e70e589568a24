"""Modality requests: a guest profile's own, a JSON-lines file for any other model, or the paper's section 6.2.

A line of a file is `{"id", "kind", "messages": [{"role", "content"}], "expect": {"text": bool, "image": bool}}` with
optional `images` (paths beside the file, one for each `<image>` in the messages), `form`, `cluster` and `turns`; or a
question in another's layout (armor_eval.tasks.modality.layouts).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.schema import Subset
from armor_eval.tasks.modality import LINE, SECTION
from armor_eval.tasks.modality.layouts import IMAGE, as_request
from armor_eval.tasks.suites.rows import json_values
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.images import BadImageError, decoded
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL import Image

R = TypeVar("R")


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system"]
    content: str


class Expect(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: bool
    image: bool


class Record(BaseModel):
    """One request, the last message being the user's."""

    model_config = ConfigDict(extra="forbid")

    id: str
    kind: str
    """t2t, ti2t, t2i, t2ti, ti2ti, or a name of the file's own."""
    messages: list[Message] = Field(min_length=1)
    images: list[str] = Field(default_factory=list)
    """Paths beside the file; of a guest profile's own requests, what it renders."""
    expect: Expect
    form: str = "plain"
    """`plain` or `negation`."""
    turns: int = Field(default=1, ge=1)
    cluster: str | None = None
    """What is resampled together (the wording); the record itself by default."""
    content: JsonObject | None = None
    """What an image must show, for the guest profile's reader."""
    held_out: bool = False

    @model_validator(mode="after")
    def _hangs_together(self) -> Record:
        asked = sum(m.content.count(IMAGE) for m in self.messages)
        if asked != len(self.images):
            raise ValueError(f"{asked} {IMAGE} in the messages, {len(self.images)} images")
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        if not (self.expect.text or self.expect.image):
            raise ValueError("a request must want something")
        return self

    @property
    def wants(self) -> str:
        return modality(self.expect.text, self.expect.image)

    @property
    def prompt(self) -> str:
        """The whole conversation as one text."""
        return "\n".join(f"{m.role}: {m.content}" if len(self.messages) > 1 else m.content for m in self.messages)


def modality(text: bool, image: bool) -> str:
    """`text`, `image`, `both` or `none`."""
    return "both" if text and image else "text" if text else "image" if image else "none"


@dataclass(frozen=True)
class Requests:
    """Records with what a run says of them."""

    name: str
    records: list[Record]
    sha256: str
    image: Callable[[str], object]
    """Opens the image of a name in `images`."""


def own_records(profile: ProfileSpec) -> tuple[list[Record], str]:
    """A guest profile's requests and the sha256 of their JSON lines."""
    return from_lines(profile.part("modality").jsonl())


def from_lines(text: str) -> tuple[list[Record], str]:
    """Records of JSON lines, and their sha256."""
    return [Record.model_validate_json(line) for line in text.splitlines()], hashlib.sha256(text.encode()).hexdigest()


def read_records(path: Path) -> tuple[list[Record], str]:
    """Requests of a file: JSON lines or a list, of ours or in one of the layouts of others. UserError naming the
    line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read prompts {path}: {error}") from error
    found: dict[str, Record] = {}
    for where, value in json_values(str(path), raw):
        try:
            record = Record.model_validate(as_request(value, where))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise UserError(f"{where}: {place} {first['msg']}", f"expected a line like {LINE}") from error
        if record.id in found:
            raise UserError(f"{where}: id {record.id!r} occurs twice")
        refuse_outside(path, record.images, f"{where}: request {record.id}")
        missing = [name for name in record.images if not (path.parent / name).is_file()]
        if missing:
            raise UserError(f"{where}: no image {missing[0]} beside the file")
        found[record.id] = record
    if not found:
        raise UserError(f"{path} holds no requests")
    return list(found.values()), hashlib.sha256(raw).hexdigest()


def refuse_outside(file: Path, names: Iterable[str], what: str) -> None:
    """UserError for an image that does not lie in the file's folder: a data file names no other file of the machine."""
    root = file.parent.resolve()
    for name in names:
        if not (root / name).resolve().is_relative_to(root):
            raise UserError(f"{what}: the image {name} lies outside of the file's folder")


def image_in(folder: Path) -> Callable[[str], Image.Image]:
    """Opens the image of a name in the folder, as RGB."""

    def opened(name: str) -> Image.Image:
        with decoded((folder / name).read_bytes()) as image:
            return image.convert("RGB")

    return opened


def conversation(record: Record, image: Callable[[str], object]) -> list[JsonObject]:
    """Messages as adapters take them; `image` gives the PIL image of a name in `record.images`."""
    names = iter(record.images)
    made = []
    for message in record.messages:
        parts: list[JsonObject] = []
        for i, piece in enumerate(message.content.split(IMAGE)):
            if i:
                parts.append({"type": "image", "image": image(next(names))})
            if piece.strip():
                parts.append({"type": "text", "text": piece.strip("\n")})
        made.append({"role": message.role, "content": parts})
    return made


def choose(records: list[R], limit: int | None, seed: int, kind: Callable[[R], str]) -> tuple[list[R], Subset | None]:
    """At most `limit` records of each kind, seeded, in their order; the subset that it makes, if it leaves any out."""
    if limit is None:
        return records, None
    by_kind: dict[str, list[int]] = defaultdict(list)
    for at, record in enumerate(records):
        by_kind[kind(record)].append(at)
    kept: set[int] = set()
    for number, places in enumerate(by_kind.values()):
        order = np.random.default_rng([seed, number]).permutation(len(places))[:limit]
        kept.update(places[int(i)] for i in order)
    if len(kept) == len(records):
        return records, None
    subset = Subset(rule="requests of a kind", limit=limit, seed=seed, items=len(kept), of_items=len(records))
    return [r for at, r in enumerate(records) if at in kept], subset


def side_by_side(profile: ProfileSpec, image: Path | None) -> tuple[Requests, list[str]]:
    """The requests, and remarks on what is left out: the paper's image of cookies is not published, official runs
    bring one of their own (`image`). UserError where it cannot be read."""
    declared = json.loads((benchmarks_dir() / "paper" / "side_by_side.json").read_text(encoding="utf-8"))[profile.name]
    records, remarks = [], []
    for entry in declared:
        shown = entry.get("scene") or (image.name if entry.get("image") and image is not None else None)
        if entry.get("image") and image is None:
            remarks.append("the first prompt needs an image (--image) and is left out")
            continue
        text = f"{IMAGE}\n{entry['text']}" if shown else entry["text"]
        record = {"id": entry["id"], "kind": "ti2ti" if shown else "t2ti", "images": [shown] if shown else []}
        record |= {"messages": [{"role": "user", "content": text}], "expect": {"text": True, "image": True}}
        records.append(Record.model_validate(record))
    if image is not None:
        try:
            image_in(image.parent)(image.name)
        except (OSError, BadImageError) as error:
            raise UserError(f"cannot read --image {image}: {error}") from None
    own = sha256_file(image) if image is not None else None
    opened = profile.part("reader").render if profile.guest is not None else image_in((image or Path()).parent)
    return Requests(SECTION, records, sha256_json([[r.model_dump() for r in records], own]), opened), remarks
