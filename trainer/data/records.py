"""Conversation records (the paper's appendix) read from JSON lines, JSON or parquet; a bad one is skipped and counted.

    {"id": "...", "type": "ti2t", "conversations": [{"from": "human", "value": "<image>..."}, {"from": "gpt", ...}],
     "images": ["a.jpg", ...]}

`images` holds one path (or stretch of a file, see trainer.data.images) for each `<image>`, in order of appearance,
relative to the file. ShareGPT4V's `image` (one path, no type) is read as well, and so are chat messages: `messages` of
`role` and `content`, a text or parts, and InterSyn's dialogues. A dialogue may have any number of turns, each with
images (type ti2ti).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from armor_model.base.errors import UserError, reason_of
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of
from armor_model.template import template_tokens
from trainer.batches import Example
from trainer.data.images import exists
from trainer.stages import KINDS

if TYPE_CHECKING:
    from PIL import Image

    from armor_model.processing import ArmorProcessor

RULES = {
    "not_json": "a line that is no JSON object",
    "no_turns": "no conversation, or one that does not alternate human and gpt, human first",
    "unknown_role": "a turn from somebody else than human, gpt or system",
    "too_many_image_marks": "more <image> marks than images, or one in a system turn, which can show none",
    "too_few_image_marks": "more images than <image> marks",
    "missing_image": "an image that is not on disk, or whose name is no path",
    "unknown_type": "a declared type that does not exist, or that the turns contradict",
    "empty_answer": "an answer without a word or an image: it would teach to say nothing",
    "too_long": "more positions than the limit",
    "bad_image": "an image that cannot be decoded",
    "bad_text": "text that is no valid Unicode or holds a reserved token",
}
"""Why a record is left out: the names in the counts, and what they mean to whoever reads the report."""


NOTES = {
    "template_tokens": "words that hold a token of the chat template or of images, read as plain text",
    "turns_left_out": "turns left out that have no image, no caption or no text (InterSyn)",
    "contaminated_exact": "a caption that is one of the --prompts",
    "contaminated_near": "a caption that is nearly one of the --prompts",
}
"""Why a kept record is counted."""


class Rejected(Exception):  # noqa: N818 - a verdict about one record, not an error of the run
    """One record is left out under a rule."""

    def __init__(self, rule: str, why: str) -> None:
        super().__init__(why)
        self.rule = rule


@dataclass
class Tally:
    """What was read, kept and left out, by rule; the first example of each rule is kept for the report."""

    read: int = 0
    kept: int = 0
    dropped: Counter = field(default_factory=Counter)
    unknown: Counter = field(default_factory=Counter)
    """Records that a screen could not judge, since the metadata lacks the field; they pass."""
    noted: Counter = field(default_factory=Counter)
    """Records that are kept, and that somebody should know of: NOTES."""
    examples: dict[str, str] = field(default_factory=dict)

    def drop(self, rule: str, what: str) -> None:
        self.dropped[rule] += 1
        self.examples.setdefault(rule, what[:200])

    def add(self, other: Tally) -> None:
        """Count what another one counted, behind one's own."""
        self.read, self.kept = self.read + other.read, self.kept + other.kept
        for mine, its in ((self.dropped, other.dropped), (self.unknown, other.unknown), (self.noted, other.noted)):
            mine.update(its)
        self.examples = {**other.examples, **self.examples}

    @classmethod
    def of(cls, entry: JsonView) -> Tally:
        """Of what `to_json` gave, or of a part of it."""
        dropped, unknown, noted = (Counter[str](entry.get(name, {})) for name in ("dropped", "passed_unknown", "noted"))
        return cls(entry["read"], entry["kept"], dropped, unknown, noted, dict(entry.get("examples", {})))

    def to_json(self) -> JsonObject:
        return {
            "read": self.read,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "passed_unknown": dict(sorted(self.unknown.items())),
            "noted": dict(sorted(self.noted.items())),
            "examples": self.examples,
        }


def losses(dropped: Mapping[str, int]) -> str:
    """Counts by rule, for a line of text."""
    return ", ".join(f"{rule} {n:,}" for rule, n in sorted(dropped.items())) or "nothing"


def counted(noted: Mapping[str, int]) -> list[str]:
    """Lines on kept records, for a terminal."""
    return [f"kept {n:,} with {NOTES[name]}" for name, n in noted.items()]


def read_conversations(path: Path, tally: Tally) -> Iterator[JsonObject]:
    """Records of a JSON-lines file (or a JSON array, as ShareGPT4V's), normalised; `images` become absolute paths."""
    for where, raw in raw_records(path):
        record = checked(raw, where, path.parent, tally)
        if record is not None:
            tally.kept += 1
            yield record


def checked(raw: object, where: str, root: Path, tally: Tally) -> JsonObject | None:
    """The normalised record, or None for a bad one; counts it as read, and why it is left out."""
    tally.read += 1
    try:
        if isinstance(raw, Exception) or not isinstance(raw, dict):
            raise Rejected("not_json", f"{where}: {raw if isinstance(raw, Exception) else type(raw).__name__}")
        raw, left_out = _from_intersyn(raw)
        record = normalise(raw, root, where)
        note(record["conversations"], tally)
        if left_out:
            tally.noted["turns_left_out"] += 1
        return record
    except Rejected as rejected:
        tally.drop(rejected.rule, str(rejected))
        return None


def note(turns: Sequence[JsonView], tally: Tally) -> None:
    """Count a record that is kept, by NOTES."""
    if any(template_tokens(turn["value"]) for turn in turns):
        tally.noted["template_tokens"] += 1


def raw_records(path: Path) -> Iterator[tuple[str, object]]:
    """(where, value) of every line of a file, item of a JSON array, or row of a parquet file; the value of a broken
    line is its exception. Raises UserError for a file that cannot be read."""
    if path.suffix == ".parquet":
        yield from _rows(path)
        return
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.read(1)
            file.seek(0)
            if first == "[":
                try:
                    records = json_of(file.read())
                except ValueError as error:
                    raise UserError(f"{path} is not readable JSON: {error}") from error
                yield from ((f"{path}#{i}", record) for i, record in enumerate(records))
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _parse(line)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _rows(path: Path) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = (batch.to_pylist() for batch in file.iter_batches(batch_size=1_024))
            yield from ((f"{path}#{i}", row) for i, row in enumerate(row for batch in batches for row in batch))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is not readable parquet: {reason_of(error)}") from error


def _parse(line: str) -> object:
    try:
        return json_of(line)
    except ValueError as error:
        return error


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell half a surrogate pair, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def normalise(record: JsonObject, root: Path, where: str = "record") -> JsonObject:
    """A checked copy with `type`, and `images` as absolute paths or, from a parquet file, bytes. Raises Rejected with
    the rule that it breaks."""
    if isinstance(record.get("messages"), list):
        record = _from_messages(record, where)
    turns = record.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise Rejected("no_turns", f"{where}: no list of turns with texts")
    roles = [t.get("from") for t in turns]
    strange = [r if isinstance(r, str) else type(r).__name__ for r in roles if not isinstance(r, str) or r not in ROLES]
    if strange:
        raise Rejected("unknown_role", f"{where}: role {strange[0]}")
    spoken = [r for r in roles if r != "system"]
    if not spoken or spoken != ["human", "gpt"] * (len(spoken) // 2):
        raise Rejected("no_turns", f"{where}: turns are {', '.join(roles) or 'missing'}")
    name = record.get("id")
    name = str(name) if isinstance(name, str | int) else where
    if not all(map(is_unicode, (name, *(t["value"] for t in turns)))):
        raise Rejected("bad_text", f"{where}: half a surrogate pair")
    if not all(t["value"].strip() for t in turns if t["from"] == "gpt"):
        raise Rejected("empty_answer", where)
    if any(IMAGE in t["value"] for t in turns if t["from"] == "system"):
        raise Rejected("too_many_image_marks", f"{where}: {IMAGE} in a system turn")
    images = [_bare(image) for image in _images(record)]
    if not all(isinstance(image, str | bytes) for image in images):
        raise Rejected("missing_image", f"{where}: its images are no list of paths")
    marks = sum(t["value"].count(IMAGE) for t in turns)
    if marks != len(images):
        rule = "too_many_image_marks" if marks > len(images) else "too_few_image_marks"
        raise Rejected(rule, f"{where}: {marks} {IMAGE} for {len(images)} images")
    paths = [image if isinstance(image, bytes) else _on_disk(root, image, where) for image in images]
    kind, declared = kind_of(turns), record.get("type")
    if declared is not None and (declared not in KINDS or (declared != kind and declared != "refuse")):
        says = declared if isinstance(declared, str) else type(declared).__name__
        raise Rejected("unknown_type", f"{where}: says {says}, its turns are {kind}")
    return {"id": name, "type": declared or kind, "conversations": turns, "images": paths}


TURN_COLUMN = "human1"
"""Tells a row of InterSyn's published table: `human1`, `gpt1`, `caption1`, `image1` to the fifth turn."""
TURNS = 5


def _from_intersyn(record: JsonObject) -> tuple[JsonObject, bool]:
    """A dialogue of InterSyn as one of conversations, each answer its text and then its image, and whether turns were
    left out that lack the text, the image or the caption from which it was drawn; any other record as it is. Its
    generator writes `caption` and `image` into the gpt turns, its published table a column for each."""
    if TURN_COLUMN in record:
        names = ("human", "gpt", "caption", "image")
        turns = [tuple(record.get(f"{name}{k}") for name in names) for k in range(1, TURNS + 1)]
        turns = [turn for turn in turns if any(turn)]
    else:
        said = record.get("conversations")
        if not isinstance(said, list) or not all(isinstance(turn, dict) for turn in said):
            return record, False
        answers = said[1::2]
        if not any("caption" in turn for turn in answers) or [t.get("from") for t in said] != ["human", "gpt"] * len(
            answers
        ):
            return record, False
        turns = [
            (human.get("value"), gpt.get("value"), gpt.get("caption"), gpt.get("image"))
            for human, gpt in zip(said[::2], answers, strict=True)
        ]
    kept = [turn for turn in turns if all(turn) and all(isinstance(text, str) and text.strip() for text in turn[:3])]
    made: list[JsonObject] = []
    for human, gpt, _, _ in kept:
        made += [{"from": "human", "value": human}, {"from": "gpt", "value": f"{str(gpt).strip()}\n{IMAGE}"}]
    return {"id": record.get("id"), "conversations": made, "images": [turn[3] for turn in kept]}, len(kept) < len(turns)


def _from_messages(record: JsonObject, where: str) -> JsonObject:
    """A record of chat messages as one of conversations; its images stand in its parts, or beside it."""
    turns, images = [], []
    for message in record["messages"]:
        if not isinstance(message, dict):
            raise Rejected("no_turns", f"{where}: a message that is a {type(message).__name__}")
        role, content = message.get("role"), message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise Rejected("no_turns", f"{where}: a message whose content is neither text nor parts")
        text = ""
        for part in parts:
            if part.get("type") == "text":
                text += str(part.get("text") or "")
            elif part.get("type") in ("image", "image_url"):
                text += IMAGE
                images += [image for name in ("image", "path", "url", "image_url") if (image := part.get(name))][:1]
            else:
                raise Rejected("no_turns", f"{where}: a part that is neither text nor an image")
        turns.append({"from": SPEAKERS.get(role, role) if isinstance(role, str) else role, "value": text})
    kept = {name: record[name] for name in ("id", "type") if record.get(name) is not None}
    return {**kept, "conversations": turns, "images": images or _images(record)}


def _images(record: JsonObject) -> list[Any]:
    """What stands beside the turns: `images`, or ShareGPT4V's one `image`."""
    images = record.get("images", record.get("image"))
    return [] if images is None else images if isinstance(images, list) else [images]


def _bare(image: Image.Image) -> Any:
    """Parquet columns of images wrap their bytes or a path, OpenAI's parts an address."""
    if not isinstance(image, dict):
        return image
    data = image.get("bytes")
    return data if isinstance(data, bytes) else image.get("path") or image.get("url")


def _on_disk(root: Path, image: str, where: str) -> Path:
    for folder in (root, root / "images"):  # InterSyn's generator gives bare names of files in `images`
        try:
            path = (folder / image).resolve()
            if exists(path) and is_unicode(str(path)):
                return path
        except (OSError, ValueError, RuntimeError):  # too long or not to be reached; a NUL byte; a loop of links
            continue
    raise Rejected("missing_image", f"{where}: {image}")


def kind_of(turns: list[JsonObject]) -> str:
    """t2t, ti2t, t2i, t2ti or ti2ti, by what goes in and what comes out (ti2i counts as ti2ti: no type of its own)."""
    human = [t["value"] for t in turns if t["from"] == "human"]
    gpt = [t["value"] for t in turns if t["from"] == "gpt"]
    sees, draws = any(IMAGE in v for v in human), any(IMAGE in v for v in gpt)
    drawing = [v for v in gpt if IMAGE in v]
    says = any(v.replace(IMAGE, "").strip() for v in drawing)
    if not draws:
        return "ti2t" if sees else "t2t"
    return "ti2ti" if sees else "t2ti" if says else "t2i"


def sides(record: JsonObject) -> tuple[list[Any], list[Any]]:
    """A record's images, split into those of the human turns and those of the gpt turns."""
    images = iter(record["images"])
    by_role: dict[str, list[Any]] = {"human": [], "gpt": [], "system": []}
    for turn in record["conversations"]:
        by_role[turn["from"]] += [next(images) for _ in range(turn["value"].count(IMAGE))]
    return by_role["human"], by_role["gpt"]


IMAGE = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
SPEAKERS = {role: speaker for speaker, role in ROLES.items()}


def to_messages(record: JsonObject, seen: Sequence[object], drawn: Sequence[Tensor]) -> list[JsonObject]:
    """The record as chat messages. seen: images (PIL, paths or tiles) of the human turns in order; drawn: codes (h, w)
    or (n,) of the gpt turns. Raises UserError where roles or the number of images are off."""
    name = record.get("id", "?")
    to_see, to_draw = iter(seen), iter(drawn)
    messages = []
    for turn in record["conversations"]:
        role = ROLES.get(turn.get("from"))
        if role is None:
            raise UserError(f"record {name}: unknown role {turn.get('from')!r}; known: {', '.join(ROLES)}")
        parts: list[JsonObject] = []
        for i, piece in enumerate(turn["value"].split(IMAGE)):
            if i:
                try:
                    if role == "assistant":
                        parts.append({"type": "image", "codes": torch.as_tensor(next(to_draw)).flatten()})
                    else:
                        image = next(to_see)
                        parts.append({"type": "image", "tiles" if isinstance(image, Tensor) else "image": image})
                except StopIteration:
                    raise UserError(f"record {name}: more {IMAGE} in {turn['from']} turns than images") from None
            if piece.strip("\n"):
                parts.append({"type": "text", "text": piece.strip("\n")})
        messages.append({"role": role, "content": parts})
    if next(to_see, None) is not None or next(to_draw, None) is not None:
        raise UserError(f"record {name}: more images than {IMAGE}")
    return messages


def encode(processor: ArmorProcessor, kind: str, messages: list[JsonObject]) -> Example:
    """One conversation as an Example: every assistant turn supervised, both heads' labels already shifted."""
    row = processor.encode_one(messages)
    return Example(
        kind,
        torch.tensor(row.ids),
        torch.tensor(row.labels("t")),
        torch.tensor(row.labels("v")),
        row.tiles or None,
        _prompt_span(processor, messages, row.ids) if kind == "t2i" and len(messages) == 2 else None,
    )


def _prompt_span(processor: ArmorProcessor, messages: list[JsonObject], ids: list[int]) -> tuple[int, int] | None:
    """Where the request's words stand: what an empty request in the same template lacks. Conversations with earlier
    turns have context left when the last request is emptied, so they are never asked about."""
    bare = processor.encode_one([{"role": "user", "content": ""}], add_generation_prompt=True).ids
    full = processor.encode_one(messages[:1], add_generation_prompt=True).ids
    start = next((i for i, (a, b) in enumerate(zip(full, bare, strict=False)) if a != b), len(bare))
    cut = len(full) - len(bare)
    return (start, start + cut) if cut > 0 and full == ids[: len(full)] else None
