"""Lessons that armor-nano learns first or beside the world's own conversations: each isolates one step of a longer
thought.

SHORT   one bare question about one picture. 500 steps of them answer 93 %, where the same questions, eight to a picture
        in one conversation, answered 57 % after as many CPU-seconds: the turns before give the picture away.
LOOKUP  an answer and four options, no picture: which letter is it? Multiple choice is two steps, to find the answer and
        to find its letter; read together from the start, the second is learned late (250 steps after 500 of SHORT: .35
        of the multiple-choice questions right; after 500 of SHORT and LOOKUP: .76; 8 of each of 16 types, one seed).
CHOICE  a multiple choice about one picture.
HARD    a question or a multiple choice of the types learned last. Beside the other lessons in 1,800 steps: .893
        of all questions right before, .976 after, the worst type .50 before, .85 after (n = 40 a type, one seed).
COMPOSED  drawing requests beyond the world's own (trainer.nano_requests).
PLAN    the content of a picture in words, put into its corners: arranging is learned before drawing.
TOLD    a content in words and a question about it.
DECLINE a drawing request that the base, which cannot draw, answers as far as words go.
AFTER   the same after small talk, or a content that is only told about: what came before decides nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer.nano_requests import ANY, composed, orderly_request
from trainer.shapes.conversations import shown
from trainer.shapes.language import REFUSALS, chat
from trainer.shapes.questions import (
    QUESTION_TYPES,
    YES_NO,
    Question,
    describe,
    multiple_choice,
    options_for,
    plural,
    sample_question,
)
from trainer.shapes.requests import (
    DRAW,
    SHOW_AND_SAY,
    TELL_AND_DRAW,
    TELL_ONLY,
    about,
    sample_request,
)
from trainer.shapes.world import (
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Scene,
    pick,
)

SHORT, LOOKUP, CHOICE, HARD, COMPOSED = "short", "lookup", "choice", "hard", "composed"
PLAN, TOLD, DECLINE, AFTER = "plan", "told", "decline", "after"
LESSONS: dict[str, str] = {
    SHORT: "ti2t",
    LOOKUP: "t2t",
    CHOICE: "ti2t",
    HARD: "ti2t",
    COMPOSED: "t2i",
    PLAN: "t2t",
    TOLD: "t2t",
    DECLINE: "refuse",
    AFTER: "refuse",
}
"""Lesson -> the type of its conversations."""

DRILLED: tuple[str, ...] = (
    *QUESTION_TYPES,
    *("location", "location", "number", "relation"),
)
"""Question types as SHORT, LOOKUP and CHOICE take turns with them. Those that stayed below .9 come more often: a place
has two words, which options share; a number or a relation has to be checked, not only read."""
HARD_TYPES = ("location", "number", "count_color", "location", "relation", "count_shape", "number", "color")
"""Question types as HARD takes turns with them: those below .9 when the first two lessons were over."""

PLANNED = (
    "describe a picture of {x}.",
    "what can you see in a picture of {x}?",
    "tell me what is in an image of {x}.",
)


def sample_lesson(rng: np.random.Generator, lesson: str, number: int) -> dict[str, Any]:
    """A conversation in the paper's form; question types take turns with `number`. Nothing held out is shown or
    named."""
    images: list[Scene] = []
    before: list[tuple[str, str]] = []
    if lesson == COMPOSED:
        phrase, scene = composed(rng)
        human, gpt, images = pick(rng, DRAW).format(x=phrase), "<image>", [scene]
    elif lesson == PLAN:
        phrase, scene = _content(rng)
        human, gpt = pick(rng, PLANNED).format(x=phrase), describe(scene) + "."
    elif lesson == TOLD:
        human, gpt = _told(rng, *_content(rng))
    elif lesson == DECLINE:
        human, gpt = _declined(rng)
    elif lesson == AFTER:
        before = [chat(rng)]
        human, gpt = _declined(rng) if rng.random() < 0.7 else _only_told(rng)
    else:
        types = HARD_TYPES if lesson == HARD else DRILLED
        scene, question = sample_question(rng, types[number % len(types)])
        human, gpt = _asked(rng, lesson, question)
        images = [] if lesson == LOOKUP else [scene]
    turns = [
        {"from": side, "value": said}
        for turn in (*before, (human, gpt))
        for side, said in zip(("human", "gpt"), turn, strict=True)
    ]
    return {"id": f"{lesson}-{number:08d}", "type": LESSONS[lesson], "conversations": turns, "images": images}


def _asked(rng: np.random.Generator, lesson: str, question: Question) -> tuple[str, str]:
    if lesson == SHORT or (lesson == HARD and rng.random() < 0.35):
        return f"<image>\n{question.text}", question.answer
    options, letter = options_for(rng, question)
    if lesson == LOOKUP:
        return multiple_choice(question.answer, options), letter
    return f"<image>\n{multiple_choice(question.text, options)}", letter


def _content(rng: np.random.Generator) -> tuple[str, Scene]:
    """Words and a scene that fulfils them: of a drawing request, or of a composed one."""
    if rng.random() < 0.5:
        return composed(rng)
    request = orderly_request(rng)
    return request.phrase, request.scene


def _told(rng: np.random.Generator, phrase: str, scene: Scene) -> tuple[str, str]:
    """`there is a red circle and a blue cross. what color is the cross?` Only what the words say is asked about."""
    shapes = [thing.shape for thing in scene.things]
    named = [thing for thing in scene.things if f"{thing.color} {thing.shape}" in phrase]
    colors = [thing.color for thing in named]
    shape = pick(rng, SHAPES)
    asked = [(f"how many {plural(shape)} are there?", str(shapes.count(shape)))]
    if ANY in phrase:
        asked = [("how many shapes are there?", str(len(shapes)))]
    unique = [thing for thing in named if shapes.count(thing.shape) == 1]
    if unique:
        thing = pick(rng, unique)
        asked.append((f"what color is the {thing.shape}?", thing.color))
    if len(named) == len(scene.things):
        thing = pick(rng, named)
        if colors.count(thing.color) == 1:
            asked.append((f"which shape is {thing.color}?", thing.shape))
        color, shape = pick(rng, colors), pick(rng, shapes)  # both are there; together only perhaps
        there = any((it.color, it.shape) == (color, shape) for it in named)
        asked.append((f"is there a {color} {shape} in the picture?", YES_NO[not there]))
    relation = next((r for r in RELATIONS if f" {r} " in phrase), None)
    if relation and ANY not in phrase and len(set(shapes)) == len(shapes):
        before, after = phrase.split(f" {relation} ")
        first = next(word for word in before.split() if word in SHAPES)
        second = next(word for word in after.split() if word in SHAPES)
        swapped, turned = bool(rng.integers(2)), bool(rng.integers(2))
        a, b = (second, first) if swapped else (first, second)
        said = OPPOSITE[relation] if turned else relation
        asked += [(f"is the {a} {said} the {b}?", YES_NO[swapped != turned])] * 2
    question, answer = pick(rng, asked)
    return f"there is {phrase}. {question}", answer


def _declined(rng: np.random.Generator) -> tuple[str, str]:
    """Half of the requests want a picture only."""
    request, style, sorry = sample_request(rng), rng.random(), pick(rng, REFUSALS)
    if style < 0.5:
        return pick(rng, DRAW).format(x=request.phrase), sorry
    if style < 0.75:
        return pick(rng, SHOW_AND_SAY).format(x=request.phrase), f"{shown(request)} {sorry}"
    return pick(rng, TELL_AND_DRAW).format(x=request.phrase), f"{about(request.things)} {sorry}"


def _only_told(rng: np.random.Generator) -> tuple[str, str]:
    request = sample_request(rng)
    return pick(rng, TELL_ONLY).format(x=request.phrase), about(request.things)
