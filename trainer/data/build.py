"""`armor-train build-data`: captioned images to t2i and t2ti conversations, text pairs to t2t; every screen reports.

Out come `conversations.jsonl`, `images/` (content-addressed) and `report.json`. Everything is seeded by the sample's
key, so the same input gives the same files whatever the number of workers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from armor_model.base.errors import UserError
from armor_model.base.files import check_in_place, locked, write_file, writing
from armor_model.base.hashing import sha256_file
from trainer.data.records import IMAGE, Tally, is_unicode, losses, raw_records
from trainer.data.screens import Pair, ScreenSettings, rules, screen


def _rng(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, *hashlib.blake2b(key.encode(), digest_size=8).digest()])


def drawing_record(pair: Pair, image: str, seed: int, mixed_share: float) -> dict[str, Any]:
    """A t2i or, with probability `mixed_share`, a t2ti conversation about one captioned image."""
    rng = _rng(seed, pair.key)
    mixed = bool(rng.random() < mixed_share)
    request = fill(choose(rng, DRAW_AND_TELL if mixed else DRAW), pair.caption)
    answer = f"{fill(choose(rng, TELL), pair.caption)}\n{IMAGE}" if mixed else IMAGE
    return _record(pair.key, "t2ti" if mixed else "t2i", request, answer, [image])


def text_record(number: int, question: str, answer: str) -> dict[str, Any]:
    return _record(f"t2t-{number:09d}", "t2t", question, answer, [])


def _record(key: str, kind: str, request: str, answer: str, images: list[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": request}, {"from": "gpt", "value": answer}]
    return {"id": key, "type": kind, "conversations": turns, "images": images}


def read_text_pairs(path: Path, tally: Tally) -> Iterator[tuple[str, str]]:
    """(question, answer) of a JSON-lines file with `question`/`answer`, `instruction`/`output` or
    `prompt`/`response`."""
    names = (("question", "answer"), ("instruction", "output"), ("prompt", "response"))
    for where, row in raw_records(path):
        tally.read += 1
        pair = next(((row[a], row[b]) for a, b in names if isinstance(row, dict) and row.get(a) and row.get(b)), None)
        if pair is None or not all(isinstance(text, str) for text in pair):
            tally.drop("not_a_pair", where)
        elif not all(map(is_unicode, pair)):
            tally.drop("bad_text", f"{where}: half a surrogate pair")
        elif IMAGE in pair[0] + pair[1]:
            tally.drop("image_mark_in_text", where)
        else:
            tally.kept += 1
            yield pair


def build(
    out: Path,
    pairs: Iterable[Pair],
    texts: Iterable[tuple[str, str]],
    tallies: dict[str, Tally],
    settings: ScreenSettings,
    seed: int = 0,
    mixed_share: float = 0.5,
    limit: int | None = None,
    part: str = "0/1",
) -> dict[str, Any]:
    """Write the data set; returns the report. tallies: what the readers count into, by source name.

    Duplicates are found within one call, so not between parts. The conversations file is renamed into place last, so a
    killed build leaves none that looks whole. Raises UserError, also where nothing is kept.
    """
    with locked(out, "armor-train build-data"):
        return _build(out, pairs, texts, tallies, settings, seed, mixed_share, limit, part)


def _build(
    out: Path,
    pairs: Iterable[Pair],
    texts: Iterable[tuple[str, str]],
    tallies: dict[str, Tally],
    settings: ScreenSettings,
    seed: int,
    mixed_share: float,
    limit: int | None,
    part: str,
) -> dict[str, Any]:
    if (out / "conversations.jsonl").exists():
        raise UserError(f"{out} already holds conversations.jsonl; choose another directory")
    (out / "images").mkdir(parents=True, exist_ok=True)
    active, screened = rules(settings), Tally()
    kinds: dict[str, int] = {}
    draft = out / ".conversations.draft"
    with draft.open("w", encoding="utf-8") as file:

        def put(record: dict[str, Any]) -> None:
            kinds[record["type"]] = kinds.get(record["type"], 0) + 1
            check_in_place(draft, file.fileno())
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

        for pair in pairs:
            if screen(pair, active, screened):
                put(drawing_record(pair, store_image(out, pair), seed, mixed_share))
            if screened.kept == limit:
                break
        for number, (question, answer) in enumerate(texts):
            put(text_record(number, question, answer))
    if not kinds:
        draft.unlink()
        each = (f"{name} dropped {losses(tally.dropped)}" for name, tally in {**tallies, "screens": screened}.items())
        raise UserError(f"nothing was kept for {out}: {'; '.join(each)}")
    report = {
        "conversations": kinds,
        "screens": screened.to_json(),
        "rules": {rule.name: rule.why for rule in active},
        "readers": {name: tally.to_json() for name, tally in tallies.items()},
        "settings": asdict(settings),
        "seed": seed,
        "mixed_share": mixed_share,
        "part": part,
        "sha256": sha256_file(draft),
    }
    with writing(out):
        write_file(out / "report.json", json.dumps(report, indent=1) + "\n")
        draft.replace(out / "conversations.jsonl")
    return report


def store_image(out: Path, pair: Pair) -> str:
    """Keep an image under the hash of its bytes; returns its path inside `out`."""
    name = hashlib.sha256(pair.image).hexdigest()
    path = out / "images" / name[:2] / f"{name}.{pair.extension}"
    if not path.exists():
        with writing(out):
            path.parent.mkdir(exist_ok=True)
            write_file(path, pair.image, sync=False)
    return str(path.relative_to(out))


DRAW = (
    "Please draw an image of {x} for me.",
    "Draw {x}.",
    "Generate an image of {x}.",
    "Could you generate an image of {x} for me?",
    "Please help me draw a picture of {x}.",
    "Can you draw {x}?",
    "I would like a picture of {x}.",
    "Show me {x}.",
    "Create an image that shows {x}.",
    "Make a picture of {x}, please.",
    "Paint {x} for me.",
    "I want to see {x}. Can you draw it?",
    "Give me an illustration of {x}.",
    "Produce an image: {x}.",
    "{X}. Draw this.",
    "Draw the following: {x}.",
    "Only draw, no text: {x}.",
    "An image of {x}, please.",
    "Visualize {x}.",
    "{X}.",
)
"""Asks for an image alone."""

DRAW_AND_TELL = (
    "Draw {x} and describe what you drew.",
    "Can you draw {x} and tell me about it?",
    "Please make an image of {x}, with a short description.",
    "Show me {x} and explain what can be seen.",
    "Generate a picture of {x} and write a caption for it.",
    "I would like a picture of {x} together with a few words about it.",
    "Illustrate {x} and describe the picture in one sentence.",
    "Describe {x} and draw it.",
    "Tell me what {x} looks like, and draw a picture.",
    "What would {x} look like? Can you draw an image to depict it for me?",
)
"""Asks for words and an image."""

TELL = ("{X}.", "Here is the picture: {x}.", "This image shows {x}.", "The picture depicts {x}.", "You can see {x}.")
"""The words of an answer that also draws; the image follows."""


def fill(template: str, caption: str) -> str:
    """Put a caption into a template: `{x}` inside a sentence, `{X}` at its start."""
    bare = caption.strip().rstrip(".").strip()
    inside = bare if bare[1:2].isupper() else bare[:1].lower() + bare[1:]  # an acronym keeps its capitals
    return template.replace("{X}", bare[:1].upper() + bare[1:]).replace("{x}", inside)


def choose(rng: np.random.Generator, templates: tuple[str, ...]) -> str:
    return templates[int(rng.integers(len(templates)))]
