"""Lessons that armor-nano learns first or beside the world's own conversations: each isolates one step of a longer
thought.

SHORT   one bare question about one picture. 500 steps of them answer 93 %, where the same questions, eight to a picture
        in one conversation, answered 57 % after as many CPU-seconds: the turns before give the picture away.
LOOKUP  an answer and four options, no picture: which letter is it? Multiple choice is two steps, to find the answer and
        to find its letter; read together from the start, the second is learned late (250 steps after 500 of SHORT: .35
        of the multiple-choice questions right; after 500 of SHORT and LOOKUP: .76; 8 of each of 16 types, one seed).
CHOICE  a multiple choice about one picture.
COMPOSED  drawing requests of three and four things: numbers, relations and colours beside each other. No hold-out names
        them: it lists whole contents of one and two things and of one shape. Learned from two things only, every number
        and every relation is tied to the shapes it was seen with.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.shapes.questions import QUESTION_TYPES, Question, multiple_choice, options_for, sample_question
from trainer.shapes.requests import DRAW, fulfil, phrase_for, place
from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    is_held_out,
    pick,
)

SHORT, LOOKUP, CHOICE, COMPOSED = "short", "lookup", "choice", "composed"
LESSONS: dict[str, str] = {SHORT: "ti2t", LOOKUP: "t2t", CHOICE: "ti2t", COMPOSED: "t2i"}
"""Lesson -> the type of its conversations."""


def sample_lesson(rng: np.random.Generator, lesson: str, number: int) -> dict[str, Any]:
    """A conversation in the paper's form; question types take turns with `number`. Nothing held out is shown."""
    if lesson == COMPOSED:
        phrase, scene = composed(rng)
        human, gpt, images = pick(rng, DRAW).format(x=phrase), "<image>", [scene]
    else:
        scene, question = sample_question(rng, QUESTION_TYPES[number % len(QUESTION_TYPES)])
        human, gpt = _asked(rng, lesson, question)
        images = [] if lesson == LOOKUP else [scene]
    turns = [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": f"{lesson}-{number:08d}", "type": LESSONS[lesson], "conversations": turns, "images": images}


def _asked(rng: np.random.Generator, lesson: str, question: Question) -> tuple[str, str]:
    if lesson == SHORT:
        return f"<image>\n{question.text}", question.answer
    options, letter = options_for(rng, question)
    if lesson == LOOKUP:
        return multiple_choice(question.answer, options), letter
    return f"<image>\n{multiple_choice(question.text, options)}", letter


def composed(rng: np.random.Generator) -> tuple[str, Scene]:
    """A request's words and a scene that fulfils it exactly; never a held-out one."""
    while True:
        a, b = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:2])
        phrase, scene = pick(rng, (_two_numbers, _rows_or_columns, _relation_and_more, _several_colors))(rng, a, b)
        if not is_held_out(scene):
            return phrase, scene


def _two_numbers(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`two circles and a cross`"""
    first = int(rng.integers(1, CELLS))
    second = int(rng.integers(2 if first == 1 else 1, CELLS - first + 1))
    things = ((None, a, first), (None, b, second))
    return phrase_for(things), fulfil(rng, things)


def _rows_or_columns(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`two circles above a cross`: each side has a row or a column to itself."""
    relation = pick(rng, RELATIONS)
    counts = pick(rng, ((1, 2), (2, 1), (2, 2)))
    sides = [(a, counts[0]), (b, counts[1])]
    reverse = relation in ("right of", "below")
    axis = OPPOSITE[relation] if reverse else relation
    cells = [[0, 2], [1, 3]] if axis == "left of" else [[0, 1], [2, 3]]
    things = []
    for (shape, count), line in zip(sides[::-1] if reverse else sides, cells, strict=True):
        taken = line if count == 2 else [pick(rng, line)]
        things += [Thing(pick(rng, COLOR_NAMES), shape, cell) for cell in taken]
    return phrase_for(((None, a, counts[0]), (None, b, counts[1])), relation), Scene(tuple(things))


def _relation_and_more(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`a red circle left of a blue square and a green cross`; the first two with or without their colours."""
    relation, named = pick(rng, RELATIONS), rng.random() < 0.6
    colors = [pick(rng, COLOR_NAMES) for _ in range(3)]
    third = pick(rng, [shape for shape in SHAPES if shape not in (a, b)])
    two = place(rng, (colors[0], a), relation, (colors[1], b))
    cell = pick(rng, [cell for cell in range(CELLS) if two.at(cell) is None])
    asked = ((colors[0] if named else None, a, 1), (colors[1] if named else None, b, 1))
    phrase = f"{phrase_for(asked, relation)} and a {colors[2]} {third}"
    return phrase, Scene((*two.things, Thing(colors[2], third, cell)))


def _several_colors(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`a red circle, a blue cross and a green cross`: three or four things of at least two shapes."""
    shapes = [a, b, *(pick(rng, SHAPES) for _ in range(int(rng.integers(1, 3))))]
    order = rng.permutation(len(shapes))
    things = tuple((pick(rng, COLOR_NAMES), shapes[int(i)], 1) for i in order)
    return phrase_for(things), fulfil(rng, things)
