"""Lessons of conversations: a drawing is asked about, changed, and drawn anew; what no one here can draw is declined.

A drawing stands in its turn by its codes and before the next message as an image to look at, as `armor-model chat` has
it (armor_model.chat). Names of things outside of the world are one word to the tokenizer, <unk>: those that training
names stand for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trainer.shapes import reworded
from trainer.shapes.changes import change
from trainer.shapes.conversations import IMAGE, Turns
from trainer.shapes.language import DESCRIBE_IMAGE, chat
from trainer.shapes.questions import YES_NO, describe, join, plural
from trainer.shapes.requests import DRAW
from trainer.shapes.wordings import wordings
from trainer.shapes.world import (
    CELL_NAMES,
    CELLS,
    COLOR_NAMES,
    RELATIONS,
    SHAPES,
    Scene,
    arrange,
    holds,
    is_held_out,
    pick,
    sample_scene,
)

UNKNOWN = "sorry, i only know shapes."
"""What is said of a request that names something outside of the world."""
OUTSIDE = ("dog", "cat", "house", "tree", "car", "bird", "boat", "flower", "horse", "mountain", "person", "robot")
"""Things that no one here can draw; <unk>, all of them."""
ODD_COLORS = ("orange", "pink", "brown", "silver")
"""<unk> too."""
TOO_MANY = ("5", "6", "7", "8")

RECOLOR = (
    "make it {color}.",
    "now make it {color}.",
    "please make it {color}.",
    "can you make it {color}?",
    "change it to {color}.",
    "change the color to {color}.",
    "turn it {color}.",
    "draw it in {color}.",
    "draw it again in {color}.",
    "the same in {color}.",
    "i want it in {color}.",
)
ANOTHER = (
    "now draw a {color} one.",
    "now a {color} one.",
    "draw a {color} one.",
    "draw another one in {color}.",
    "please draw a {color} one now.",
    "can you draw a {color} one too?",
    "show me a {color} one.",
)
RESHAPE = (
    "make it a {shape}.",
    "now make it a {shape}.",
    "change it to a {shape}.",
    "draw a {shape} in the same color.",
    "the same color, but a {shape}.",
    "please draw a {shape} instead of it.",
)
RECOLOR_OF = (
    "make the {it} {color}.",
    "now make the {it} {color}.",
    "change the {it} to {color}.",
    "please draw the {it} in {color}.",
    "can you draw it again with the {it} in {color}?",
    "the same with a {color} {it}.",
    "turn the {it} {color}.",
)
RESHAPE_OF = ("make the {it} a {shape}.", "now change the {it} to a {shape}.", "draw a {shape} instead of the {it}.")
REMOVE = (
    "remove the {it}.",
    "now remove the {it}.",
    "draw it without the {it}.",
    "the same without the {it}.",
    "please draw it again, but without the {it}.",
    "do not draw the {it}, the same again.",
)
ADD = (
    "add a {color} {shape} at the {cell}.",
    "now add a {color} {shape} at the {cell}.",
    "draw it with a {color} {shape} at the {cell} too.",
    "please put a {color} {shape} at the {cell}.",
    "the same and a {color} {shape} at the {cell}.",
)
MOVE = (
    "put the {it} at the {cell}.",
    "now put the {it} at the {cell}.",
    "draw it again with the {it} at the {cell}.",
    "please draw the {it} at the {cell}, not at the {old}.",
)
AGAIN = ("draw it again.", "now draw it again.", "please draw the same again.", "can you draw it again?")
OF_ONE: dict[str, tuple[str, ...]] = {"recolor": (*RECOLOR, *ANOTHER), "reshape": RESHAPE}
"""Changes to a drawing of one thing, which `it` and `one` stand for."""
OF_SEVERAL: dict[str, tuple[str, ...]] = {
    "recolor": RECOLOR_OF,
    "reshape": RESHAPE_OF,
    "remove": REMOVE,
    "add": ADD,
    "move": MOVE,
}
"""Changes to one thing, named."""
IN_IT = ("the picture", "the image", "this image")
AND_SAY = (" and say what it is.", " and tell me what is in it.", ", and describe it.", " with text.")


def named(scene: Scene) -> str:
    """`a red circle and a blue cross`: the things in reading order."""
    return join([f"a {thing.color} {thing.shape}" for thing in scene.things])


def drawable(rng: np.random.Generator, single: float = 0.5) -> Scene:
    """A scene of one to three things, no two alike in shape, that words name in full; a share has one thing alone."""
    while True:
        count = 1 if rng.random() < single else int(rng.integers(2, 4))
        scene = sample_scene(rng, count)
        if len({thing.shape for thing in scene.things}) == count:
            return scene


def follow_up(rng: np.random.Generator, scene: Scene, many: bool = False) -> tuple[str, Scene]:
    """A request that changes a drawing, and what it makes of it; nothing held out. `many` takes the wordings by parts
    (trainer.shapes.reworded)."""
    while True:
        if rng.random() < 0.08:
            return reworded.change_wording(rng, "again") if many else pick(rng, AGAIN), scene
        one = len(scene.things) == 1 and rng.random() < 0.7
        asked = OF_ONE if one else OF_SEVERAL
        kind = pick(rng, list(asked))
        made = change(rng, kind, scene)
        if made is None or is_held_out(made[0]) or len({t.shape for t in made[0].things}) < len(made[0].things):
            continue
        wording = reworded.change_wording(rng, kind, one) if many else pick(rng, asked[kind])
        return wording.format(**made[1]), made[0]


def question_about(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """A question about a scene whose shapes are all different, and its answer."""
    things = scene.things
    thing = pick(rng, things)
    colors = [each.color for each in things]
    asked: list[tuple[str, str]] = [
        (pick(rng, (f"what color is the {thing.shape}?", f"what is the color of the {thing.shape}?")), thing.color),
        (f"where is the {thing.shape}?", CELL_NAMES[thing.cell]),
        (pick(rng, ("how many shapes are there?", "how many shapes are in the picture?")), str(len(things))),
        (pick(rng, DESCRIBE_IMAGE[:-1]), f"{describe(scene)}."),
        _is_there(rng, scene),
    ]
    if colors.count(thing.color) == 1:
        asked.append((f"which shape is {thing.color}?", thing.shape))
    shape = pick(rng, SHAPES)
    asked.append((f"how many {plural(shape)} are there?", str(sum(each.shape == shape for each in things))))
    if len(things) == 1:
        asked += [
            ("what color is it?", thing.color),
            ("what shape is it?", thing.shape),
            ("what is it?", f"a {thing.color} {thing.shape}."),
        ]
    else:
        a, b = (things[int(i)] for i in rng.permutation(len(things))[:2])
        relation = pick(rng, RELATIONS)
        asked += [(f"is the {a.shape} {relation} the {b.shape}?", YES_NO[not holds(a, relation, b)])] * 2
    return pick(rng, asked)


def _is_there(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    thing = pick(rng, scene.things)
    color = thing.color if rng.random() < 0.7 else pick(rng, COLOR_NAMES)
    shape = thing.shape if rng.random() < 0.7 else pick(rng, SHAPES)
    there = any((each.color, each.shape) == (color, shape) for each in scene.things)
    return f"is there a {color} {shape} in the picture?", YES_NO[not there]


def outside(rng: np.random.Generator) -> str:
    """Words for something that no one here can draw: a thing, a colour or a number beyond the world."""
    color, shape, thing = pick(rng, COLOR_NAMES), pick(rng, SHAPES), pick(rng, OUTSIDE)
    return pick(
        rng,
        (
            *(f"a {thing}", f"a {thing}", f"a {color} {thing}", f"{thing}", f"two {thing}", f"the {thing}"),
            *(f"a {color} {shape} and a {thing}", f"a {thing} and a {shape}", f"a {thing} and a {pick(rng, OUTSIDE)}"),
            *(f"a {pick(rng, ODD_COLORS)} {shape}", f"{pick(rng, TOO_MANY)} {plural(shape)}"),
            *(f"a {thing} left of a {shape}", f"my {thing}", f"a {color} {shape} in a {thing}"),
        ),
    )


def declined(rng: np.random.Generator) -> tuple[str, str]:
    """A request for something outside of the world, and the answer."""
    wish = pick(rng, ("draw", "draw", "draw", "tell_and_draw", "show_and_say"))
    wording = pick(rng, DRAW) if rng.random() < 0.4 else pick(rng, wordings()[wish])
    return wording.format(x=outside(rng)), UNKNOWN


def requested(rng: np.random.Generator, scene: Scene) -> str:
    """A request to draw a scene, nothing to be said."""
    wording = pick(rng, DRAW) if rng.random() < 0.5 else pick(rng, wordings()["draw"])
    return wording.format(x=named(scene))


STEPS = ("draw", *("question",) * 4, *("change",) * 5, "outside", "chat")
"""What a turn is about once something was drawn, evenly."""


def talk(
    rng: np.random.Generator,
    draws: bool,
    sorry: Callable[[], str],
    many: bool = False,
    steps: Sequence[str] = STEPS,
    single: float = 0.5,
) -> tuple[Turns, list[Scene]]:
    """Two turns to four: drawings asked for and asked about, changed, declined; small talk between. `many` takes
    wordings by parts (trainer.shapes.reworded), and three turns or four; a `single` thing is in that share of the
    drawings asked for.

    Without `draws`, as the base has it, that cannot draw: a request for a drawing gets `sorry`, and an image of it is
    shown before the next message all the same, so that what was drawn is read off the newest image.
    """
    turns: Turns = []
    images: list[Scene] = []
    scene: Scene | None = None
    waiting = False  # whether the newest drawing is shown before the next message
    for _ in range(int(rng.integers(3 if many else 2, 5))):
        before = ""
        if scene is None:
            step = "draw" if rng.random() < 0.9 else pick(rng, ("outside", "chat"))
        else:
            step = pick(rng, steps)
            if waiting:
                before = f"{IMAGE}\n"
                images.append(scene)
        if step == "draw" or (step == "change" and scene is not None):
            if step == "draw" or scene is None:
                scene = drawable(rng, single)
                human = requested(rng, scene)
            else:
                human, scene = follow_up(rng, scene, many)
            gpt, waiting = IMAGE if draws else sorry(), True
            images += [scene] if draws else []
        else:
            if step == "question" and scene is not None:
                human, gpt = reworded.question_about(rng, scene) if many else question_about(rng, scene)
            else:
                human, gpt = declined(rng) if step == "outside" else chat(rng)
            waiting = False
        turns.append((before + human, gpt))
    return turns, images


def changed(rng: np.random.Generator) -> tuple[Turns, list[Scene]]:
    """An image and a change to it: the one step of a follow-up, apart from how the image came about."""
    scene = drawable(rng)
    asked, target = follow_up(rng, scene)
    return [(f"{IMAGE}\n{asked}", IMAGE)], [scene, target]


def told_change(rng: np.random.Generator, sorry: str = "") -> tuple[Turns, list[Scene]]:
    """An image, a change to it, and what comes of it in words and drawn; with `sorry` in words alone, as the base has
    it."""
    scene = drawable(rng)
    asked, target = follow_up(rng, scene)
    asked = f"{IMAGE}\n{asked[:-1]}{pick(rng, AND_SAY)}"
    if sorry:
        return [(asked, f"{describe(target)}. {sorry}")], [scene]
    return [(asked, f"{describe(target)}.\n{IMAGE}")], [scene, target]


def apart(rng: np.random.Generator) -> tuple[Scene, str, str]:
    """`is there a red circle?` of a scene that has the colour and the shape; in half of them, in two things only."""
    color, shape = pick(rng, COLOR_NAMES), pick(rng, SHAPES)
    beside = [
        (color, pick(rng, [s for s in SHAPES if s != shape])),
        (pick(rng, [c for c in COLOR_NAMES if c != color]), shape),
    ]
    answer = pick(rng, YES_NO)
    contents = [(color, shape), *beside[: int(rng.integers(3))]] if answer == "yes" else beside
    while True:
        more = [
            (pick(rng, COLOR_NAMES), pick(rng, SHAPES)) for _ in range(int(rng.integers(CELLS + 1 - len(contents))))
        ]
        if answer == "no" and (color, shape) in more:
            continue
        scene = arrange(rng, [*contents, *more])
        if not is_held_out(scene):
            return scene, f"is there a {color} {shape} in {pick(rng, IN_IT)}?", answer
