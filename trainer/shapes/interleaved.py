"""Frozen interleaved requests of the shapes world: what `armor-eval interleaved` asks, and what no training may repeat.

Kinds: single (one image with text), edit (an image is given and changed), follow-up (changes to images drawn in
earlier turns, which are given as a right answer has them), story (two to four images, each with its text). A version is
a seed and its wordings; its lines are frozen by the hash in `benchmarks/shapes/interleaved_v1.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.changes import change, colored, next_content, swap
from trainer.shapes.conversations import IMAGE
from trainer.shapes.questions import describe, join
from trainer.shapes.requests import form_of, phrase_for, sample_request
from trainer.shapes.world import COLOR_NAMES, HELD_OUT, NUMBERS, SHAPES, Scene, is_held_out, pick, sample_scene

VERSION = 1
SEEDS = {1: 27_001}
"""Version -> seed."""
EACH = 100
"""Dialogues a kind."""

SINGLE = (
    "draw {x} and say what is in the picture.",
    "please show me {x} with text and a picture of it.",
    "do not only draw {x}, also say what is in the picture.",
    "draw {x} without {y}, and say what is in the picture.",
    "show me an image of {x}, do not draw {y}, and describe it.",
)
"""`y` is a shape that `x` does not name."""
FRAMES = (
    "draw {edit}, and say what is in it.",
    "please show me {edit} and tell me what you draw.",
    "do not only draw {edit}, also describe it.",
    "generate {edit}, with text.",
)
EDITS = {
    "recolor": "{what} again with the {it} in {color}",
    "remove": "{what} again without the {it}",
    "add": "{what} again with a {color} {shape} at the {cell} too",
    "move": "{what} again with the {it} at the {cell}, not at the {old}",
    "swap": "{what} again with the {it} where the {other} is and the {other} where the {it} is",
}
STORY = (
    "show me {n} pictures with text. {steps}",
    "draw {n} pictures and say what is in the pictures. {steps}",
    "do not only tell me, draw {n} pictures with text. {steps}",
)


def records(version: int = VERSION) -> list[JsonObject]:
    """500 requests of 400 dialogues, 100 a kind, equal for equal versions."""
    makers = {"single": _single, "edit": _edit, "follow-up": _follow_up, "story": _story}
    found: list[JsonObject] = []
    for at, (kind, make) in enumerate(makers.items()):
        rng = np.random.default_rng([SEEDS[version], at])
        seen: set[str] = set()
        number = 0
        while number < EACH:
            try:
                turns = list(make(rng, number))
            except NoChangeError:
                continue
            asked = json.dumps([(t["messages"], t["images"]) for t in turns])
            if asked in seen:
                continue
            seen.add(asked)
            for turn in turns:
                turns_before = len(turn["messages"]) // 2
                found.append(
                    {
                        "id": f"{kind}-{number:03d}" + (f"-{turns_before + 1}" if turns_before else ""),
                        "cluster": f"{kind}-{number:03d}",
                        "kind": kind,
                        "turns": turns_before + 1,
                        "expect": {"text": True, "image": True},
                        **turn,
                    }
                )
            number += 1
    return found


def _record(
    messages: Sequence[str], given: Sequence[Scene], wording: str, targets: list[JsonObject], held_out: bool
) -> JsonObject:
    said = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(messages)]
    return {
        "messages": said,
        "images": [str(scene) for scene in given],
        "form": form_of(wording),
        "content": {"images": targets},
        "held_out": held_out,
    }


def _single(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    request = sample_request(rng, training=False)
    other = pick(rng, [shape for shape in SHAPES if shape not in {shape for _, shape, _ in request.things}])
    wording = SINGLE[number % len(SINGLE)]
    text = wording.format(x=request.phrase, y=f"a {pick(rng, COLOR_NAMES)} {other}")
    target = {"things": [list(thing) for thing in request.things], "relation": request.relation}
    yield _record([text], [], wording, [target], not HELD_OUT.isdisjoint(request.keys))


class NoChangeError(Exception):
    """The scene allows no change in plain words (four things alike)."""


def changed(
    rng: np.random.Generator, source: Scene, number: int, what: str, frames: Sequence[str] = FRAMES
) -> tuple[str, str, Scene]:
    """(wording, filled, target) of a change to a scene; kinds take turns, one that the scene does not allow is passed
    over."""
    kinds = list(EDITS)
    for turn in range(len(kinds)):
        kind = kinds[(number + turn) % len(kinds)]
        made = swap(rng, source) if kind == "swap" else change(rng, kind, source)
        if made is not None:
            wording = frames[number // len(kinds) % len(frames)].replace("{edit}", EDITS[kind])
            return wording, wording.format(**made[1], what=what), made[0]
    raise NoChangeError


def _edit(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    source = sample_scene(rng, int(rng.integers(2, 4)), training=False)
    wording, text, target = changed(rng, source, number, "this picture")
    yield _record([f"{IMAGE}\n{text}"], [source], wording, [{"scene": str(target)}], is_held_out(target))


def _follow_up(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    """Two turns that are asked, behind a first one that is given; half of the last ones go back to the first image."""
    first = sample_scene(rng, int(rng.integers(2, 4)), training=False)
    names = join([f"a {thing.color} {thing.shape}" for thing in first.things])
    messages = [f"draw {names} and say what is in the picture.", f"{describe(first)}.\n{IMAGE}"]
    wording, text, second = changed(rng, first, number, "it")
    messages.append(text)
    yield _record(messages, [first], wording, [{"scene": str(second)}], is_held_out(second))
    messages.append(f"{describe(second)}.\n{IMAGE}")
    back = bool(number % 2)
    wording, text, third = changed(rng, first if back else second, number + 1, "picture one" if back else "picture two")
    messages.append(text)
    yield _record(messages, [first, second], wording, [{"scene": str(third)}], is_held_out(third))


def _story(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    """Two to four images; in every second story each goes on from the one before."""
    count = 2 + number % 3
    things, told = colored(rng, int(rng.integers(1, 4))), []
    targets = []
    for step in range(count):
        phrase = phrase_for(things)
        if step and number % 2:
            things, phrase = next_content(rng, things, NUMBERS[step])
        elif step:
            things = colored(rng, int(rng.integers(1, 4)))
            phrase = phrase_for(things)
        told.append(f"picture {NUMBERS[step + 1]} is of {phrase}.")
        targets.append({"things": [list(thing) for thing in things], "relation": None})
    wording = STORY[number // 3 % len(STORY)]
    text = wording.format(n=NUMBERS[count], steps=" ".join(told))
    yield _record([text], [], text, targets, False)


class _Frozen(NamedTuple):
    requests: frozenset[str]
    scenes: frozenset[str]


@lru_cache(maxsize=1)
def _frozen() -> _Frozen:
    """Last messages of requests that give no image, and the images that requests give, of every frozen version."""
    asked = records()
    requests = {record["messages"][-1]["content"] for record in asked if not record["images"]}
    return _Frozen(frozenset(requests), frozenset(scene for record in asked for scene in record["images"]))


def repeats(record: JsonObject) -> bool:
    """Whether a dialogue shows an image that a frozen request gives, or asks what one asks without an image."""
    frozen = _frozen()
    asked = {turn["value"] for turn in record["conversations"] if turn["from"] == "human"}
    return not frozen.requests.isdisjoint(asked) or not frozen.scenes.isdisjoint(map(str, record["images"]))
