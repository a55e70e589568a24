"""Drawing requests of the shapes world: what is asked for, in which words, and a scene that fulfils it exactly.

Wordings are templates over a content phrase `{x}`. TRAINING wordings are what the model learns; HELD_OUT wordings use
the same words in sentences that training never contains (the modality benchmark of armor_eval asks those).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.shapes.questions import SIDES, counted, join
from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    HELD_OUT,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    arrange,
    attr_key,
    color_key,
    count_key,
    holds,
    is_held_out,
    pair_key,
    pick,
    position_key,
    single_key,
)

TASKS: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""GenEval's six."""
EXTRA_TASKS: tuple[str, ...] = ("color_position", "several")
"""Training only: relations between coloured things, and three or four things."""

DRAW = (
    "a photo of {x}",
    "a picture of {x}",
    "an image of {x}",
    "draw {x}.",
    "please draw {x}.",
    "can you draw {x}?",
    "can you draw {x} for me?",
    "draw a picture of {x}.",
    "please draw an image of {x} for me.",
    "make a picture of {x}.",
    "make an image with {x}.",
    "create an image of {x}.",
    "generate an image of {x}.",
    "paint {x} for me.",
    "show me {x}.",
    "show me a picture with {x}.",
    "i want a picture of {x}.",
    "i want to see {x}.",
    "only draw {x}, do not say anything.",
    "draw {x} without text.",
)
DRAW_HELD_OUT = (
    "could you please paint a picture of {x}?",
    "please show me an image of {x}.",
    "generate a photo with {x} for me.",
    "i want you to draw {x}.",
    "can you create a picture with {x}?",
    "i want an image, please draw {x}.",
    "do not describe it, only paint {x}.",
    "do not say anything, make an image of {x}.",
    "without any text, please show me {x}.",
    "draw {x}, do not tell me about it.",
)
TELL_AND_DRAW = (
    "tell me about {x} and draw it.",
    "describe {x} and draw a picture.",
    "what is {x}? please draw it too.",
    "describe {x} and show me an image.",
    "say something about {x} and make a picture of it.",
    "what is {x}? can you draw an image of it for me?",
    "tell me about {x} with text and a picture.",
    "could you tell me about {x} and also draw it?",
)
SHOW_AND_SAY = (
    "draw {x} and say what it is.",
    "draw {x} and tell me what you draw.",
    "show me {x} with text and an image.",
    "make a picture of {x} and describe it.",
    "generate an image of {x} and also describe it.",
)
OPEN_MIXED = (
    "draw something and say what it is.",
    "make any picture and describe it.",
    "show me something and tell me about it.",
    "can you draw anything for me and describe it?",
)
MIXED_HELD_OUT = (
    "please describe {x} and also paint it for me.",
    "i want text and a picture, tell me about {x}.",
    "can you say what {x} is and draw it too?",
    "tell me about {x}, and also show me an image of it.",
    "generate a picture of {x} and say something about it.",
    "do not only draw {x}, also describe it.",
    "do not only tell me about {x}, draw it too.",
    "could you describe {x} with an image?",
)
TELL_ONLY = (
    "tell me about {x}.",
    "what is {x}?",
    "describe {x}.",
    "say something about {x}.",
    "describe {x}, do not draw.",
    "tell me about {x} without a picture.",
    "do not draw {x}, only tell me about it.",
    "could you tell me about {x}?",
)
TELL_ONLY_HELD_OUT = (
    "please tell me something about {x}.",
    "do not draw anything, describe {x}.",
    "only describe {x} for me, without an image.",
    "can you say what {x} is? do not draw it.",
    "i do not want a picture, tell me about {x}.",
    "please describe {x}, do not make an image.",
    "could you describe {x} only with text?",
    "say what {x} is, do not show me a picture.",
)


class Request(NamedTuple):
    """What a drawing request asks for, and one image that fulfils it exactly."""

    task: str
    phrase: str
    """The content in words, e.g. `two circles`."""
    scene: Scene
    keys: frozenset[str]
    """Combinations the phrase names."""
    things: tuple[tuple[str | None, str, int], ...]
    """(colour or None, shape, count) in the order of the phrase."""
    relation: str | None = None
    """Of the first thing to the second."""


def about(things: tuple[tuple[str | None, str, int], ...]) -> str:
    """What is known about the shapes of a request: the text answer to `tell me about ...`."""
    said = []
    for _, shape, _ in things:
        sentence = f"a {shape} is round." if shape == "circle" else f"a {shape} has {SIDES[shape]} sides."
        if sentence not in said:
            said.append(sentence)
    return " ".join(said)


def phrase_for(things: tuple[tuple[str | None, str, int], ...], relation: str | None = None) -> str:
    """`a red circle`, `three crosses`, `a circle left of a square`, `two circles and a square`."""
    parts = [counted(count, shape) if color is None else f"a {color} {shape}" for color, shape, count in things]
    return f" {relation} ".join(parts) if relation else join(parts)


def keys_for(things: tuple[tuple[str | None, str, int], ...], relation: str | None = None) -> frozenset[str]:
    """The combinations that a request's words name as its whole content."""
    keys = set()
    if len(things) == 1:
        color, shape, count = things[0]
        keys.add(color_key(color, shape) if color else single_key(shape) if count == 1 else count_key(count, shape))
    elif len(things) == 2 and {count for _, _, count in things} == {1} and things[0][1] != things[1][1]:
        (color_a, a, _), (color_b, b, _) = things
        if relation:
            keys.add(position_key(a, relation, b))
        if color_a and color_b:
            keys.add(attr_key((color_a, a), (color_b, b)))
        elif not relation:
            keys.add(pair_key(a, b))
    if len(things) > 1 and len({shape for _, shape, _ in things}) == 1:
        keys.add(count_key(sum(count for _, _, count in things), things[0][1]))
    return frozenset(keys)


def place(rng: np.random.Generator, a: tuple[str, str], relation: str, b: tuple[str, str]) -> Scene:
    """Two contents in one row or one column, so that GenEval's rule sees this relation and no other."""
    if relation in ("right of", "below"):
        a, b, relation = b, a, OPPOSITE[relation]
    line = int(rng.integers(2))
    cells = (2 * line, 2 * line + 1) if relation == "left of" else (line, line + 2)
    return Scene((Thing(*a, cells[0]), Thing(*b, cells[1])))


def fulfil(
    rng: np.random.Generator, things: tuple[tuple[str | None, str, int], ...], relation: str | None = None
) -> Scene:
    """A random scene that shows exactly what is asked for; unnamed colours are free, alike in half of the counts."""
    contents = []
    for color, shape, count in things:
        alike = pick(rng, COLOR_NAMES) if count > 1 and rng.random() < 0.5 else None
        contents += [(color or alike or pick(rng, COLOR_NAMES), shape) for _ in range(count)]
    if relation:
        return place(rng, contents[0], relation, contents[1])
    return arrange(rng, contents)


def matches(scene: Scene, things: tuple[tuple[str | None, str, int], ...], relation: str | None = None) -> bool:
    """Whether a scene shows exactly what is asked for: nothing missing, nothing more, the relation held."""
    left = [(thing.color, thing.shape) for thing in scene.things]
    for color, shape, count in sorted(things, key=lambda thing: thing[0] is None):
        for _ in range(count):
            found = next((it for it in left if it[1] == shape and color in (None, it[0])), None)
            if found is None:
                return False
            left.remove(found)
    if left:
        return False
    if relation is None:
        return True
    (color_a, a, _), (color_b, b, _) = things
    firsts = [t for t in scene.things if t.shape == a and color_a in (None, t.color)]
    return any(
        holds(first, relation, second)
        for first in firsts
        for second in scene.things
        if second is not first and second.shape == b and color_b in (None, second.color)
    )


def _two_shapes(rng: np.random.Generator) -> tuple[str, str]:
    a = int(rng.integers(len(SHAPES)))
    b = (a + 1 + int(rng.integers(len(SHAPES) - 1))) % len(SHAPES)
    return SHAPES[a], SHAPES[b]


def _things(rng: np.random.Generator, task: str) -> tuple[tuple[tuple[str | None, str, int], ...], str | None]:
    if task == "single_object":
        return ((None, pick(rng, SHAPES), 1),), None
    if task == "colors":
        return ((pick(rng, COLOR_NAMES), pick(rng, SHAPES), 1),), None
    if task == "counting":
        return ((None, pick(rng, SHAPES), int(rng.integers(2, CELLS + 1))),), None
    a, b = _two_shapes(rng)
    if task == "two_object":
        return ((None, a, 1), (None, b, 1)), None
    if task == "position":
        return ((None, a, 1), (None, b, 1)), pick(rng, RELATIONS)
    c, d = pick(rng, COLOR_NAMES), pick(rng, COLOR_NAMES)
    if task == "color_attr":
        while c == d:
            d = pick(rng, COLOR_NAMES)
        return ((c, a, 1), (d, b, 1)), None
    if task == "color_position":
        return ((c, a, 1), (d, b, 1)), pick(rng, RELATIONS)
    if task == "several":
        if rng.random() < 0.5:
            first = int(rng.integers(1, CELLS))
            second = int(rng.integers(1, CELLS - first + 1)) if first > 1 else int(rng.integers(2, CELLS))
            return ((None, a, first), (None, b, second)), None
        return tuple((pick(rng, COLOR_NAMES), pick(rng, SHAPES), 1) for _ in range(3)), None
    raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS + EXTRA_TASKS)}")


_WEIGHTED_TASKS = (*TASKS, *TASKS, "color_attr", "position", *EXTRA_TASKS)


def make_request(
    rng: np.random.Generator,
    task: str,
    things: tuple[tuple[str | None, str, int], ...],
    relation: str | None = None,
    training: bool = False,
) -> Request:
    """A request for given contents; with `training`, its scene is not a held-out one."""
    while True:
        scene = fulfil(rng, things, relation)
        if not (training and is_held_out(scene)):
            return Request(task, phrase_for(things, relation), scene, keys_for(things, relation), things, relation)


def sample_request(rng: np.random.Generator, task: str | None = None, training: bool = True) -> Request:
    """A random request; with `training`, neither its words nor its scene hold a held-out combination."""
    task = task or pick(rng, _WEIGHTED_TASKS)
    while True:
        things, relation = _things(rng, task)
        if not (training and not HELD_OUT.isdisjoint(keys_for(things, relation))):
            return make_request(rng, task, things, relation, training)


def form_of(wording: str) -> str:
    """`negation` where a wording also says what is not wanted."""
    return "negation" if any(word in f" {wording} " for word in (" not ", "without", "only")) else "plain"
