"""Questions about scenes with their answers: every type is balanced over its answers by construction.

A question is sampled together with its scene: the answer is drawn first, then a scene that makes it true, so that no
type can be answered by a constant (facts: one such type hides inside a good mean).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trainer.shapes.world import (
    CELL_NAMES,
    CELLS,
    COLOR_NAMES,
    NUMBERS,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    arrange,
    holds,
    is_held_out,
    pick,
    sample_scene,
)

YES_NO = ("yes", "no")
DIGITS = ("0", "1", "2", "3", "4")
SIDES = {"circle": "0", "square": "4", "triangle": "3", "cross": "12"}
"""Straight sides of each outline; the world's piece of knowledge that no image says."""
LETTERS = "ABCD"

MCQ_SUFFIX = "Answer with the option's letter from the given choices directly."
WORD_SUFFIX = "Answer the question using a single word or phrase."
YES_NO_SUFFIX = "Please answer yes or no."
OPEN_SUFFIX = "Answer the question directly."
DETAIL_SUFFIX = "Answer this question in detail."
"""InternVL's prompts in VLMEvalKit, word for word (facts/vlmeval.md)."""


class Question(NamedTuple):
    """One question about one scene."""

    type: str
    text: str
    answer: str
    choices: tuple[str, ...]
    """Every answer that the type can have for this wording: what a multiple choice draws its options from."""


Content = tuple[str, str]
Made = tuple[Scene, Question]


def plural(shape: str) -> str:
    return "crosses" if shape == "cross" else shape + "s"


def counted(count: int, shape: str) -> str:
    """`a circle`, `two circles`."""
    return f"a {shape}" if count == 1 else f"{NUMBERS[count]} {plural(shape)}"


def join(parts: Sequence[str]) -> str:
    """`x`, `x and y`, `x, y and z`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def describe(scene: Scene) -> str:
    """Every thing with its cell, in reading order: `a red circle at the top left and a blue square at ...`."""
    return join([f"a {thing.color} {thing.shape} at the {CELL_NAMES[thing.cell]}" for thing in scene.things])


def _others(
    rng: np.random.Generator, keep: Callable[[Content], bool], least: int = 0, most: int = CELLS - 1
) -> list[Content]:
    """A random number of random contents that satisfy `keep`."""
    found: list[Content] = []
    wanted = int(rng.integers(least, most + 1))
    while len(found) < wanted:
        content = (pick(rng, COLOR_NAMES), pick(rng, SHAPES))
        if keep(content):
            found.append(content)
    return found


def _content(rng: np.random.Generator) -> Content:
    return pick(rng, COLOR_NAMES), pick(rng, SHAPES)


def _color(rng: np.random.Generator) -> Made:
    color, shape = _content(rng)
    scene = arrange(rng, [(color, shape), *_others(rng, lambda it: it[1] != shape)])
    text = pick(rng, (f"what color is the {shape}?", f"what is the color of the {shape}?"))
    return scene, Question("color", text, color, COLOR_NAMES)


def _shape(rng: np.random.Generator) -> Made:
    color, shape = _content(rng)
    scene = arrange(rng, [(color, shape), *_others(rng, lambda it: it[0] != color)])
    text = pick(rng, (f"what shape is {color}?", f"which shape is {color}?", f"what is the {color} shape?"))
    return scene, Question("shape", text, shape, SHAPES)


def _count_shape(rng: np.random.Generator) -> Made:
    shape, count = pick(rng, SHAPES), int(rng.integers(0, CELLS + 1))
    same = [(pick(rng, COLOR_NAMES), shape) for _ in range(count)]
    rest = _others(rng, lambda it: it[1] != shape, least=int(count == 0), most=CELLS - count)
    text = pick(rng, (f"how many {plural(shape)} are there?", f"how many {plural(shape)} are in the picture?"))
    return arrange(rng, same + rest), Question("count_shape", text, DIGITS[count], DIGITS)


def _count_color(rng: np.random.Generator) -> Made:
    color, count = pick(rng, COLOR_NAMES), int(rng.integers(0, CELLS + 1))
    same = [(color, pick(rng, SHAPES)) for _ in range(count)]
    rest = _others(rng, lambda it: it[0] != color, least=int(count == 0), most=CELLS - count)
    text = pick(rng, (f"how many {color} shapes are there?", f"how many shapes are {color}?"))
    return arrange(rng, same + rest), Question("count_color", text, DIGITS[count], DIGITS)


def _count_all(rng: np.random.Generator) -> Made:
    count = int(rng.integers(1, CELLS + 1))
    text = pick(rng, ("how many shapes are there?", "how many shapes are in the picture?"))
    return sample_scene(rng, count, training=False), Question("count_all", text, DIGITS[count], DIGITS[1:])


def _empty(rng: np.random.Generator) -> Made:
    count = int(rng.integers(1, CELLS + 1))
    scene = sample_scene(rng, count, training=False)
    return scene, Question("empty", "how many corners are empty?", DIGITS[CELLS - count], DIGITS[:4])


def _exists(rng: np.random.Generator) -> Made:
    color, shape = _content(rng)
    name, absent = pick(
        rng,
        (
            (f"a {color} {shape}", lambda it: it != (color, shape)),
            (f"a {shape}", lambda it: it[1] != shape),
            (f"a {color} shape", lambda it: it[0] != color),
        ),
    )
    answer = pick(rng, YES_NO)
    if answer == "yes":
        contents = [(color, shape), *_others(rng, lambda it: True)]
    else:
        contents = _others(rng, absent, least=1, most=CELLS)
        if "a " + color + " " + shape == name and rng.random() < 0.6:
            # a near miss: the colour or the shape alone is there
            near = pick(
                rng, [(color, s) for s in SHAPES if s != shape] + [(c, shape) for c in COLOR_NAMES if c != color]
            )
            contents[0] = near
    text = pick(
        rng, (f"is there {name} in the picture?", f"is there {name} in the image?", f"is there {name} in this image?")
    )
    return arrange(rng, contents), Question("exists", text, answer, YES_NO)


def _distinct(rng: np.random.Generator, least: int) -> Scene:
    """A scene of `least` to 4 things of different shapes."""
    shapes = rng.permutation(len(SHAPES))[: int(rng.integers(least, len(SHAPES) + 1))]
    return arrange(rng, [(pick(rng, COLOR_NAMES), SHAPES[int(i)]) for i in shapes])


def _relation(rng: np.random.Generator) -> Made:
    scene = _distinct(rng, 2)
    answer = pick(rng, YES_NO)
    order = rng.permutation(len(scene.things))
    a, b = scene.things[int(order[0])], scene.things[int(order[1])]
    relation = pick(rng, [r for r in RELATIONS if holds(a, r, b) == (answer == "yes")])
    return scene, Question("relation", f"is the {a.shape} {relation} the {b.shape}?", answer, YES_NO)


def _beside(rng: np.random.Generator) -> Made:
    while True:
        scene = _distinct(rng, 3)
        b, relation = pick(rng, scene.things), pick(rng, RELATIONS)
        found = [thing for thing in scene.things if thing is not b and holds(thing, relation, b)]
        if len(found) == 1:
            text = f"which shape is {relation} the {b.shape}?"
            choices = tuple(shape for shape in SHAPES if shape != b.shape)
            return scene, Question("beside", text, found[0].shape, choices)


def _location(rng: np.random.Generator) -> Made:
    color, shape = _content(rng)
    scene = arrange(rng, [(color, shape), *_others(rng, lambda it: it[1] != shape)])
    thing = next(thing for thing in scene.things if thing.shape == shape)
    return scene, Question("location", f"where is the {shape}?", CELL_NAMES[thing.cell], CELL_NAMES)


def _at(rng: np.random.Generator) -> Made:
    wanted = pick(rng, (*SHAPES, "nothing"))
    cell = int(rng.integers(CELLS))
    cells = [int(c) for c in rng.permutation(CELLS) if c != cell][: int(rng.integers(1, CELLS))]
    things = [Thing(*_content(rng), c) for c in cells]
    if wanted != "nothing":
        things.append(Thing(pick(rng, COLOR_NAMES), wanted, cell))
    text = f"which shape is at the {CELL_NAMES[cell]}?"
    return Scene(tuple(things)), Question("at", text, wanted, (*SHAPES, "nothing"))


def _sides(rng: np.random.Generator) -> Made:
    color, shape = _content(rng)
    scene = arrange(rng, [(color, shape), *_others(rng, lambda it: it[0] != color)])
    text = f"how many sides does the {color} shape have?"
    return scene, Question("sides", text, SIDES[shape], tuple(SIDES.values()))


def _more(rng: np.random.Generator) -> Made:
    order = rng.permutation(len(SHAPES))
    a, b = SHAPES[int(order[0])], SHAPES[int(order[1])]
    answer = pick(rng, YES_NO)
    while True:
        scene = arrange(
            rng, [(pick(rng, COLOR_NAMES), pick(rng, (a, b))) for _ in range(int(rng.integers(1, CELLS + 1)))]
        )
        shapes = [thing.shape for thing in scene.things]
        if (shapes.count(a) > shapes.count(b)) == (answer == "yes"):
            return scene, Question("more", f"are there more {plural(a)} than {plural(b)}?", answer, YES_NO)


def _same(rng: np.random.Generator) -> Made:
    """`are all shapes red?`: half of the no's miss it by one thing."""
    answer, by_color = pick(rng, YES_NO), bool(rng.integers(2))
    color, shape = _content(rng)
    n = int(rng.integers(2, CELLS + 1))
    right = (lambda it: it[0] == color) if by_color else (lambda it: it[1] == shape)
    if answer == "yes":
        contents = _others(rng, right, least=n, most=n)
    else:
        wrong = 1 if rng.random() < 0.5 else int(rng.integers(1, n + 1))
        contents = _others(rng, right, n - wrong, n - wrong) + _others(rng, lambda it: not right(it), wrong, wrong)
    text = f"are all shapes {color if by_color else plural(shape)}?"
    return arrange(rng, contents), Question("same", text, answer, YES_NO)


def _number(rng: np.random.Generator) -> Made:
    """`is the number of circles 2?`: a count to be checked, half of the no's off by one."""
    made = pick(rng, (_count_shape, _count_color, _count_all, _empty))
    scene, counted_ = made(rng)
    shape = next((s for s in SHAPES if plural(s) in counted_.text), None)
    color = next((c for c in COLOR_NAMES if c in counted_.text), None)
    name = "empty corners" if made is _empty else plural(shape) if shape else f"{color} shapes" if color else "shapes"
    answer, true = pick(rng, YES_NO), int(counted_.answer)
    said = true
    if answer == "no":
        wrong = [n for n in map(int, counted_.choices) if n != true]
        near = [n for n in wrong if abs(n - true) == 1]
        said = pick(rng, near if rng.random() < 0.5 else wrong)
    return scene, Question("number", f"is the number of {name} {said}?", answer, YES_NO)


def _has_sides(rng: np.random.Generator) -> Made:
    scene, asked = _sides(rng)
    color = next(c for c in COLOR_NAMES if c in asked.text)
    answer = pick(rng, YES_NO)
    said = asked.answer if answer == "yes" else pick(rng, [n for n in asked.choices if n != asked.answer])
    return scene, Question("has_sides", f"does the {color} shape have {said} sides?", answer, YES_NO)


_MAKERS: dict[str, Callable[[np.random.Generator], Made]] = {
    "color": _color,
    "shape": _shape,
    "count_shape": _count_shape,
    "count_color": _count_color,
    "count_all": _count_all,
    "empty": _empty,
    "exists": _exists,
    "relation": _relation,
    "beside": _beside,
    "location": _location,
    "at": _at,
    "sides": _sides,
    "more": _more,
    "same": _same,
    "number": _number,
    "has_sides": _has_sides,
}
QUESTION_TYPES: tuple[str, ...] = tuple(_MAKERS)


def sample_question(rng: np.random.Generator, type: str | None = None, training: bool = True) -> Made:
    """A scene and a question about it, answers of each type evenly spread; with `training`, no held-out scene."""
    type = type or pick(rng, QUESTION_TYPES)
    if type not in _MAKERS:
        raise ValueError(f"unknown question type {type!r}; known: {', '.join(QUESTION_TYPES)}")
    while True:
        scene, question = _MAKERS[type](rng)
        if not (training and is_held_out(scene)):
            return scene, question


def options_for(rng: np.random.Generator, question: Question, count: int = 4) -> tuple[tuple[str, ...], str]:
    """Up to `count` options in random order, the right one among them, and the right letter."""
    wrong = [choice for choice in question.choices if choice != question.answer]
    kept = [wrong[int(i)] for i in rng.permutation(len(wrong))[: count - 1]]
    options = [question.answer, *kept]
    options = [options[int(i)] for i in rng.permutation(len(options))]
    return tuple(options), LETTERS[options.index(question.answer)]


def multiple_choice(text: str, options: Sequence[str], hint: str | None = None) -> str:
    """A question with options in InternVL's wording for VLMEvalKit's multiple choice."""
    lines = [hint] if hint else []
    lines += [text, *(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)), MCQ_SUFFIX]
    return "\n".join(lines)
