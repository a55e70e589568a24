"""Several short questions about one picture in one conversation: three times the answers for each token that training
reads.

The world samples a question together with a scene that fits it. Here a question's text is asked of another scene, so
its answer is worked out anew, by `answer`; that function is held by test against the world's own answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from trainer.shapes.questions import (
    QUESTION_TYPES,
    SIDES,
    WORD_SUFFIX,
    YES_NO,
    YES_NO_SUFFIX,
    multiple_choice,
    options_for,
    plural,
    sample_question,
)
from trainer.shapes.world import CELL_NAMES, CELLS, COLOR_NAMES, SHAPES, Scene, Thing, holds, pick, sample_scene

_COLOR = "|".join(COLOR_NAMES)
_SHAPE = "|".join(SHAPES)
_PLURALS = {plural(shape): shape for shape in SHAPES}
_PLURAL = "|".join(_PLURALS)
_RELATION = "left of|right of|above|below"


def _only(things: list[Thing]) -> Thing | None:
    return things[0] if len(things) == 1 else None


def _named(scene: Scene, name: str) -> list[Thing]:
    """Things that a name means: `circle`, `circles`, `red`, `shapes`."""
    name = _PLURALS.get(name, name)
    if name in ("shape", "shapes"):
        return list(scene.things)
    return [thing for thing in scene.things if name in (thing.color, thing.shape)]


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _color(scene: Scene, shape: str) -> str | None:
    thing = _only(_named(scene, shape))
    return thing and thing.color


def _shape(scene: Scene, color: str) -> str | None:
    thing = _only(_named(scene, color))
    return thing and thing.shape


def _exists(scene: Scene, color: str | None, shape: str | None) -> str:
    return _yes(any(color in (None, t.color) and shape in (None, "shape", t.shape) for t in scene.things))


def _relation(scene: Scene, a: str, relation: str, b: str) -> str | None:
    first, second = _only(_named(scene, a)), _only(_named(scene, b))
    return None if first is None or second is None else _yes(holds(first, relation, second))


def _beside(scene: Scene, relation: str, b: str) -> str | None:
    anchor = _only(_named(scene, b))
    if anchor is None:
        return None
    thing = _only([t for t in scene.things if t is not anchor and holds(t, relation, anchor)])
    return thing and thing.shape


def _location(scene: Scene, shape: str) -> str | None:
    thing = _only(_named(scene, shape))
    return thing and CELL_NAMES[thing.cell]


def _at(scene: Scene, cell: str) -> str:
    thing = scene.at(CELL_NAMES.index(cell))
    return thing.shape if thing else "nothing"


def _sides(scene: Scene, color: str) -> str | None:
    thing = _only(_named(scene, color))
    return thing and SIDES[thing.shape]


def _has_sides(scene: Scene, color: str, number: str) -> str | None:
    sides = _sides(scene, color)
    return sides and _yes(sides == number)


def _same(scene: Scene, name: str) -> str | None:
    return _yes(len(_named(scene, name)) == len(scene.things)) if len(scene.things) > 1 else None


_RULES: tuple[tuple[str, Callable[..., str | None]], ...] = (
    (rf"what (?:color is the|is the color of the) ({_SHAPE})", _color),
    (rf"(?:what|which) shape is ({_COLOR})", _shape),
    (rf"what is the ({_COLOR}) shape", _shape),
    (rf"how many ({_PLURAL}|shapes) are (?:there|in the picture)", lambda s, n: str(len(_named(s, n)))),
    (rf"how many ({_COLOR}) shapes are there", lambda s, n: str(len(_named(s, n)))),
    (rf"how many shapes are ({_COLOR})", lambda s, n: str(len(_named(s, n)))),
    (r"how many corners are empty", lambda s: str(CELLS - len(s.things))),
    (rf"is there a (?:({_COLOR}) )?({_SHAPE}|shape) in (?:the picture|the image|this image)", _exists),
    (rf"is the ({_SHAPE}) ({_RELATION}) the ({_SHAPE})", _relation),
    (rf"which shape is ({_RELATION}) the ({_SHAPE})", _beside),
    (rf"where is the ({_SHAPE})", _location),
    (rf"which shape is at the ({'|'.join(CELL_NAMES)})", _at),
    (rf"how many sides does the ({_COLOR}) shape have", _sides),
    (rf"does the ({_COLOR}) shape have (\d+) sides", _has_sides),
    (
        rf"are there more ({_PLURAL}) than ({_PLURAL})",
        lambda s, a, b: _yes(len(_named(s, a)) > len(_named(s, b))),
    ),
    (rf"are all shapes ({_COLOR}|{_PLURAL})", _same),
    (r"is the number of empty corners (\d)", lambda s, m: _yes(CELLS - len(s.things) == int(m))),
    (rf"is the number of ({_PLURAL}|shapes) (\d)", lambda s, n, m: _yes(len(_named(s, n)) == int(m))),
    (rf"is the number of ({_COLOR}) shapes (\d)", lambda s, n, m: _yes(len(_named(s, n)) == int(m))),
)


def answer(text: str, scene: Scene) -> str | None:
    """The answer to one of the world's questions about any scene; None where it presumes what is not there."""
    for pattern, rule in _RULES:
        found = re.fullmatch(pattern + r"\?", text)
        if found:
            return rule(scene, *found.groups())
    return None


def sample_dialogue(rng: np.random.Generator, turns: int, number: int = 0) -> dict[str, Any]:
    """A ti2t conversation of at least `turns` answers about one training scene.

    Types are drawn evenly, and each question up to eight times until it fits the scene and its answer is a new one:
    else
    questions that fit every scene (counts, mostly zero) would crowd out the rest. A multiple choice often repeats the
    question just answered: matching an answer to its letter is learned apart from finding the answer.
    """
    scene = sample_scene(rng)
    messages: list[dict[str, str]] = []
    given: list[str] = []
    while len(messages) < 2 * turns:
        kind = pick(rng, QUESTION_TYPES)
        said = None
        for _ in range(8):
            question = sample_question(rng, kind, training=False)[1]
            said = answer(question.text, scene)
            if said is not None and said not in given[-2:]:
                break
        if said is None or said not in question.choices:
            continue
        given.append(said)
        question = question._replace(answer=said)
        style = rng.random()
        if style < 0.7:
            ending = ""
            if rng.random() < 0.3:
                ending = f" {YES_NO_SUFFIX}" if question.choices == YES_NO else f" {WORD_SUFFIX}"
            messages += _turn(question.text + ending, said)
        if style > 0.4:
            options, letter = options_for(rng, question)
            messages += _turn(multiple_choice(question.text, options), letter)
    messages[0]["value"] = f"<image>\n{messages[0]['value']}"
    return {"id": f"dialogue-{number:08d}", "type": "ti2t", "conversations": messages, "images": [scene]}


def _turn(asked: str, said: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
