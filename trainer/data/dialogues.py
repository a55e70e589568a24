"""Dialogues for `armor-train build-data`: of files (InterSyn's, or any conversations), and those that a world makes."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.images import image_size
from trainer.data.contamination import Prompts
from trainer.data.images import append, read_bytes
from trainer.data.records import Tally, read_conversations

WORLD = "shapes-v1"


def read_dialogues(sources: Iterable[str], seed: int, tally: Tally) -> Iterator[JsonObject]:
    """Normalised records of files, and of `shapes-v1=N`; images as paths or encoded bytes. Raises UserError."""
    for source in sources:
        count = world_count(source)
        if count is None:
            yield from read_conversations(Path(source), tally)
            continue
        from trainer.shapes.dialogues import rendered, stream

        for record in islice(stream(seed), count):
            tally.read += 1
            tally.kept += 1
            yield rendered(record)


def world_count(source: str) -> int | None:
    """N of `shapes-v1=N`; None for a file. Raises UserError for a world's name that is not known, or no number."""
    name, equals, number = source.partition("=")
    if Path(source).exists() or not equals:
        return None
    if name != WORLD or not re.fullmatch(r"[0-9]{1,8}", number) or not int(number):
        raise UserError(f"--dialogues {source} is neither a file nor {WORLD}=N", f"e.g. {WORLD}=20000")
    return int(number)


def pack(
    records: Iterable[JsonObject],
    images: tarfile.TarFile,
    place: str,
    tally: Tally,
    prompts: Prompts | None,
    drop: bool,
) -> Iterator[JsonObject]:
    """Records whose images are copied into a tar that is called `place` from where the records will lie. One whose
    image cannot be read is left out and counted; so is, with `drop`, one that asks what a prompt asks."""

    def leave_out(rule: str, why: str) -> None:
        tally.kept -= 1
        tally.drop(rule, why)

    for record in records:
        asked = [turn["value"] for turn in record["conversations"] if turn["from"] == "human"]
        found = [match for text in asked if prompts is not None and (match := prompts.find(text))]
        degree = f"contaminated_{min(found)[0]}" if found else ""  # `exact` stands before `near`
        if degree and drop:
            leave_out(degree, f"{record['id']}: {found[0][1]}")
            continue
        try:
            encoded = [read_bytes(image) for image in record["images"]]
            for data in encoded:
                image_size(data)
        except UserError as error:
            leave_out("bad_image", f"{record['id']}: {error}")
            continue
        if degree:
            tally.noted[degree] += 1
        stretches = [append(images, hashlib.sha256(data).hexdigest()[:24], data) for data in encoded]
        yield {**record, "images": [f"{place}:{stretch}" for stretch in stretches]}
