"""Judges a free response: which modalities it is made of, and what a reader sees in its first image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from armor_eval.tasks.modality.records import Record, modality
from armor_model.base.jsons import JsonObject


@dataclass(frozen=True)
class Reading:
    """What was read off an answer's first image; all None where there is no image or nobody can read it."""

    shown: bool | None = None
    """Whether it shows what was asked for; None where the request does not say."""
    agrees: bool | None = None
    """Whether the text tells of things that are in it and of nothing else; None without text."""
    seen: str | None = None
    """What it shows, in words."""


Reader = Callable[[object, "JsonObject | None", str], Reading]
"""(PIL image, the record's content, the answer's text) -> Reading."""


@dataclass(frozen=True)
class Judged:
    """One answer, judged."""

    given: str
    """text, image, both or none."""
    right: bool
    """Exactly what was wanted."""
    reading: Reading = Reading()


def judge(record: Record, parts: Sequence[object], read: Reader | None) -> Judged:
    """`parts`: texts and PIL images in order."""
    text = " ".join(p for p in parts if isinstance(p, str)).strip()
    images = [p for p in parts if not isinstance(p, str)]
    given = modality(bool(text), bool(images))
    reading = read(images[0], record.content, text) if images and read is not None else Reading()
    return Judged(given, given == record.wants, reading)
