"""What an answer is made of, and - in the shapes world - what its pictures show and whether text agrees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from armor_eval.tasks.modality.records import Record, modality


@dataclass(frozen=True)
class Judged:
    """One answer, judged."""

    given: str
    """text, image, both or none."""
    right: bool
    """Exactly what was wanted."""
    shown: bool | None = None
    """Whether the first picture shows what was asked; None where nothing was drawn or nobody can read it."""
    agrees: bool | None = None
    """Whether the text tells of things that are in the picture and of nothing else; None unless both are there."""
    seen: str | None = None
    """What was read off the picture, in words."""


def judge(record: Record, parts: Sequence[Any], *, readable: bool) -> Judged:
    """`parts`: texts and PIL pictures in order. `readable`: the world's tile reader applies to the pictures."""
    text = " ".join(p for p in parts if isinstance(p, str)).strip()
    pictures = [p for p in parts if not isinstance(p, str)]
    given = modality(bool(text), bool(pictures))
    right = given == record.wants
    if not pictures or not readable:
        return Judged(given, right)
    from trainer.shapes.evaluation import read_pictures

    scene = read_pictures(pictures[:1])[0]
    shown = None if record.content is None else scene is not None and _shows(scene, record.content)
    agrees = None if not text else scene is not None and agrees_with(text, scene)
    return Judged(given, right, shown, agrees, "nothing readable" if scene is None else str(scene))


def _shows(scene: Any, content: dict[str, Any]) -> bool:
    """A request: exactly these things, in this relation. A given picture to redraw: that scene."""
    from trainer.shapes.requests import matches

    if "scene" in content:
        return str(scene) == content["scene"]
    return matches(scene, tuple(tuple(t) for t in content["things"]), content["relation"])


def agrees_with(text: str, scene: Any) -> bool:
    """Every shape that the text names is in the picture, in the colour it is given there, and at least one is named."""
    told = things_told(text)
    there = {(t.color, t.shape) for t in scene.things}
    shapes = {t.shape for t in scene.things}
    return bool(told) and all((c, s) in there if c else s in shapes for c, s in told)


def things_told(text: str) -> set[tuple[str | None, str]]:
    """(colour or None, shape) for every shape named in a text, singular or plural."""
    from trainer.shapes.questions import plural
    from trainer.shapes.world import COLOR_NAMES, SHAPES

    forms = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
    longest = "|".join(sorted(forms, key=len, reverse=True))
    pattern = rf"\b(?:({'|'.join(COLOR_NAMES)}) )?({longest})\b"
    return {(color or None, forms[name]) for color, name in re.findall(pattern, text.lower())}
