"""Lessons that armor-nano learns first or beside the world's own conversations: each isolates one step of a longer
thought.

SHORT   one bare question about one image. 500 steps of them answer 93 %, where the same questions, eight to an image
        in one conversation, answered 57 % after as many CPU-seconds: the turns before give the image away.
LOOKUP  an answer and four options, no image: which letter is it? Multiple choice is two steps, to find the answer and
        to find its letter; read together from the start, the second is learned late (250 steps after 500 of SHORT: .35
        of the multiple-choice questions right; after 500 of SHORT and LOOKUP: .76; 8 of each of 16 types, one seed).
CHOICE  a multiple choice about one image.
HARD    a question or a multiple choice of the types learned last. Beside the other lessons in 1,800 steps: .893
        of all questions right before, .976 after, the worst type .50 before, .85 after (n = 40 a type, one seed).
COMPOSED  drawing requests beyond the world's own (trainer.shapes.lessons).
PLAN    the content of an image in words, put into its corners: arranging is learned before drawing.
TOLD    a content in words and a question about it.
DECLINE a drawing request that the base, which cannot draw, answers as far as words go.
AFTER   the same after small talk, or a content that is only told about: what came before decides nothing.
APART   a colour and a shape that are both there, together or in two things (POPE's hardest questions).
WORDED  drawing requests in many wordings (trainer.shapes.wordings); WORDED_TEXT and WORDED_BOTH the same for text alone
        and for both; WORDED_BASE all three as the base answers them, which cannot draw.
OUTSIDE a request for something that no one here can draw.
CHANGE  an image, and a change of it drawn; CHANGE_BOTH told and drawn; CHANGE_TOLD told only, for the base.
TALK    a conversation of several turns about drawings (trainer.shapes.talk); TALK_BASE as the base has it; REWORDED in
        many wordings (trainer.shapes.reworded); REVISED so too, of changes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes import talk
from trainer.shapes.conversations import IMAGE, Turns, shown
from trainer.shapes.interleaved import repeats
from trainer.shapes.language import REFUSALS, chat
from trainer.shapes.questions import (
    QUESTION_TYPES,
    YES_NO,
    Question,
    describe,
    join,
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
    Request,
    about,
    fulfil,
    phrase_for,
    place,
    sample_request,
)
from trainer.shapes.wordings import wordings
from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    NUMBERS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    is_held_out,
    pick,
)

SHORT, LOOKUP, CHOICE, HARD, COMPOSED = "short", "lookup", "choice", "hard", "composed"
PLAN, TOLD, DECLINE, AFTER = "plan", "told", "decline", "after"
APART, OUTSIDE = "apart", "outside"
WORDED, WORDED_TEXT, WORDED_BOTH, WORDED_BASE = "worded", "worded text", "worded both", "worded base"
CHANGE, CHANGE_TOLD, CHANGE_BOTH, TALK, TALK_BASE = "change", "change told", "change both", "talk", "talk base"
REWORDED, REVISED = "reworded talk", "revised"
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
    APART: "ti2t",
    OUTSIDE: "t2t",
    WORDED: "t2i",
    WORDED_TEXT: "t2t",
    WORDED_BOTH: "t2ti",
    WORDED_BASE: "refuse",
    CHANGE: "ti2ti",
    CHANGE_TOLD: "refuse",
    CHANGE_BOTH: "ti2ti",
    TALK: "ti2ti",
    TALK_BASE: "refuse",
    REWORDED: "ti2ti",
    REVISED: "ti2ti",
}
"""Lesson -> the type of its conversations."""
DIALOGUES = (CHANGE, CHANGE_TOLD, CHANGE_BOTH, TALK, TALK_BASE, REWORDED, REVISED)
"""Lessons that show drawings and their changes."""

DRILLED: tuple[str, ...] = (*QUESTION_TYPES, *("location", "location", "number", "relation"))
"""Question types as SHORT, LOOKUP and CHOICE take turns with them. Those that stayed below .9 come more often: a place
has two words, which options share; a number or a relation has to be checked, not only read."""
HARD_TYPES = ("location", "number", "count_color", "location", "relation", "count_shape", "number", "color")
"""Question types as HARD takes turns with them: those below .9 when the first two lessons were over."""

PLANNED = ("describe a picture of {x}.", "what can you see in a picture of {x}?", "tell me what is in an image of {x}.")


def sample_lesson(rng: np.random.Generator, lesson: str, number: int) -> JsonObject:
    """A conversation in the paper's form; question types take turns with `number`. Nothing held out is shown or
    named, and no conversation about drawings repeats a frozen request (trainer.shapes.interleaved)."""
    if lesson in _TURNS:
        turns, images = _TURNS[lesson](rng)
    elif lesson == APART:
        scene, text, answer = talk.apart(rng)
        turns, images = [_asked(rng, SHORT, Question("exists", text, answer, YES_NO))], [scene]
    else:
        types = HARD_TYPES if lesson == HARD else DRILLED
        scene, question = sample_question(rng, types[number % len(types)])
        turns, images = [_asked(rng, lesson, question)], [] if lesson == LOOKUP else [scene]
    spoken = [
        {"from": side, "value": text} for turn in turns for side, text in zip(("human", "gpt"), turn, strict=True)
    ]
    record = {"id": f"{lesson}-{number:08d}", "type": LESSONS[lesson], "conversations": spoken, "images": images}
    return sample_lesson(rng, lesson, number) if lesson in DIALOGUES and repeats(record) else record


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
    """Half of the requests want an image only."""
    request, style, sorry = sample_request(rng), rng.random(), pick(rng, REFUSALS)
    if style < 0.5:
        return pick(rng, DRAW).format(x=request.phrase), sorry
    if style < 0.75:
        return pick(rng, SHOW_AND_SAY).format(x=request.phrase), f"{shown(request)} {sorry}"
    return pick(rng, TELL_AND_DRAW).format(x=request.phrase), f"{about(request.things)} {sorry}"


def _only_told(rng: np.random.Generator) -> tuple[str, str]:
    request = sample_request(rng)
    return pick(rng, TELL_ONLY).format(x=request.phrase), about(request.things)


ANY = "shape"
"""What a thing is called whose shape is left open."""


def composed(rng: np.random.Generator) -> tuple[str, Scene]:
    """A request's words and a scene that fulfils it exactly; never a held-out one."""
    while True:
        a, b = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:2])
        phrase, scene = pick(rng, COMPOSITIONS)(rng, a, b)
        if not is_held_out(scene):
            return phrase, scene


def orderly_request(rng: np.random.Generator) -> Request:
    """A drawing request of the world's, its things laid out in reading order as they are named (where no relation
    says otherwise): the next thing to draw is then the next one in the words, and no order has to be guessed."""
    while True:
        request = sample_request(rng)
        if request.relation or len(request.scene.things) == 1:
            return request
        for _ in range(20):  # some pairs have a held-out relation in all but a few places
            scene = in_order(rng, request.things)
            if not is_held_out(scene):
                return request._replace(scene=scene)


def in_order(rng: np.random.Generator, things: tuple[tuple[str | None, str, int], ...]) -> Scene:
    """As the world's `fulfil`, but the k-th thing named is the k-th in reading order."""
    found = fulfil(rng, things).things
    taken: list[Thing] = []
    for color, shape, count in things:
        fits = (it for it in found if it not in taken and it.shape == shape and color in (None, it.color))
        taken += list(islice(fits, count))
    return Scene(tuple(it._replace(cell=at.cell) for it, at in zip(taken, found, strict=True)))


def _two_numbers(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`two circles and a cross`"""
    first = int(rng.integers(1, CELLS))
    second = int(rng.integers(2 if first == 1 else 1, CELLS - first + 1))
    things = ((None, a, first), (None, b, second))
    return phrase_for(things), in_order(rng, things)


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
    return phrase_for(things), in_order(rng, things)


def _numbers_of_colors(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`two red crosses and a blue cross`: a number counts what its words say, not everything that is there."""
    while True:
        total = int(rng.integers(2, CELLS + 1))
        groups = int(rng.integers(1, min(3, total) + 1))
        one_shape = rng.random() < 0.5
        kinds = [(pick(rng, COLOR_NAMES), a if one_shape else pick(rng, (a, b))) for _ in range(groups)]
        counts = [1] * groups
        for _ in range(total - groups):
            counts[int(rng.integers(groups))] += 1
        if len(set(kinds)) == groups and max(counts) > 1:
            break
    things = tuple((color, shape, count) for (color, shape), count in zip(kinds, counts, strict=True))
    names = [
        f"a {color} {shape}" if count == 1 else f"{NUMBERS[count]} {color} {plural(shape)}"
        for color, shape, count in things
    ]
    return join(names), in_order(rng, things)


def _any_shapes(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`three shapes`, `two red shapes`: a number without a shape to learn it by. Always at least two shapes."""
    count = int(rng.integers(2, CELLS + 1))
    color = pick(rng, COLOR_NAMES) if rng.random() < 0.5 else None
    shapes = [a, b, *(pick(rng, SHAPES) for _ in range(count - 2))]
    things = tuple((color, shapes[int(i)], 1) for i in rng.permutation(count))
    return f"{NUMBERS[count]} {color + ' ' if color else ''}{ANY}s", in_order(rng, things)


def _relation_of_any(rng: np.random.Generator, a: str, b: str) -> tuple[str, Scene]:
    """`a red shape above a cross`: a relation without two shapes to learn it by."""
    relation, unnamed = pick(rng, RELATIONS), pick(rng, ((0,), (1,), (0, 1)))
    colors = pick(rng, COLOR_NAMES), pick(rng, COLOR_NAMES)
    nouns = [ANY if i in unnamed else shape for i, shape in enumerate((a, b))]
    said = [f"a {color + ' ' if rng.random() < 0.5 else ''}{noun}" for color, noun in zip(colors, nouns, strict=True)]
    return f" {relation} ".join(said), place(rng, (colors[0], a), relation, (colors[1], b))


COMPOSITIONS = (
    *(_two_numbers, _rows_or_columns, _relation_and_more, _several_colors),
    *(_numbers_of_colors, _numbers_of_colors, _numbers_of_colors),
    *(_any_shapes, _any_shapes, _relation_of_any, _relation_of_any),
)
"""How COMPOSED requests are made, evenly. The last two lines untie numbers and relations from the shapes they are shown
with: held-out numbers were drawn right .37, .28 and .12 of the time without them (reports/armor-nano/release-1)."""


def _drawn(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    phrase, scene = composed(rng)
    return [(pick(rng, DRAW).format(x=phrase), IMAGE)], [scene]


def _planned(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    phrase, scene = _content(rng)
    return [(pick(rng, PLANNED).format(x=phrase), describe(scene) + ".")], []


def _after(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    before = chat(rng)
    return [before, _declined(rng) if rng.random() < 0.7 else _only_told(rng)], []


def _worded(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    phrase, scene = _content(rng)
    return [(pick(rng, wordings()["draw"]).format(x=phrase), IMAGE)], [scene]


def _worded_text(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    request = sample_request(rng)
    return [(pick(rng, wordings()["tell"]).format(x=request.phrase), about(request.things))], []


def _worded_both(rng: np.random.Generator, sorry: str = IMAGE) -> tuple[Turns, list[Scene]]:
    request, wish = orderly_request(rng), pick(rng, ("tell_and_draw", "show_and_say"))
    text = shown(request) if wish == "show_and_say" else about(request.things)
    human = pick(rng, wordings()[wish]).format(x=request.phrase)
    return [(human, f"{text}\n{IMAGE}" if sorry == IMAGE else f"{text} {sorry}")], [request.scene]


def _worded_base(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    chance = rng.random()
    if chance < 0.35:
        return _worded_text(rng)
    if chance < 0.65:
        return _worded_both(rng, pick(rng, REFUSALS))[0], []
    return [(pick(rng, wordings()["draw"]).format(x=sample_request(rng).phrase), pick(rng, REFUSALS))], []


_TURNS: dict[str, Callable[[np.random.Generator], tuple[Turns, list[Scene]]]] = {
    COMPOSED: _drawn,
    PLAN: _planned,
    TOLD: lambda rng: ([_told(rng, *_content(rng))], []),
    DECLINE: lambda rng: ([_declined(rng)], []),
    AFTER: _after,
    OUTSIDE: lambda rng: ([talk.declined(rng)], []),
    WORDED: _worded,
    WORDED_TEXT: _worded_text,
    WORDED_BOTH: _worded_both,
    WORDED_BASE: _worded_base,
    CHANGE: talk.changed,
    CHANGE_TOLD: lambda rng: talk.told_change(rng, pick(rng, REFUSALS)),
    CHANGE_BOTH: talk.told_change,
    TALK: lambda rng: talk.talk(rng, draws=True, sorry=lambda: ""),
    TALK_BASE: lambda rng: talk.talk(rng, draws=False, sorry=lambda: pick(rng, REFUSALS)),
    REWORDED: lambda rng: talk.talk(rng, draws=True, sorry=lambda: "", many=True, single=0.4),
    REVISED: lambda rng: talk.talk(rng, draws=True, sorry=lambda: "", many=True, single=0.15, steps=("change",)),
}
"""Lesson -> what makes its turns, and the scenes of their images; the others are made of questions."""
