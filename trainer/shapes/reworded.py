"""Questions about a drawing and changes to it in many wordings by parts, and the wordings that no lesson may hold.

`could you` + `tell me` + `what color the circle is` + `?`. As with requests (trainer.shapes.wordings): a model that met
five sentences for a question answers those five; of fifty it learns the question. Sentences that come near a held-out
wording, its words but for one, are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import product

import numpy as np

from trainer.shapes.questions import YES_NO, describe, plural
from trainer.shapes.wordings import HELD_OUT, apart
from trainer.shapes.world import CELL_NAMES, COLOR_NAMES, RELATIONS, SHAPES, Scene, holds, pick

CHANGES_HELD_OUT: dict[str, tuple[str, ...]] = {
    "it": (
        "could you make it {color} now?",
        "please change the color of it to {color}.",
        "now i want the same one in {color}.",
        "can you draw it in {color} for me?",
    ),
    "one": ("now show me one in {color}.", "i want to see a {color} one now.", "please make another {color} one."),
    "shape": (
        "could you make it a {shape} now?",
        "please turn it to a {shape}.",
        "i want a {shape} now instead of it.",
    ),
    "color of": (
        "could you make the {it} {color} for me?",
        "i want the {it} in {color} now.",
        "please change the color of the {it} to {color}.",
    ),
    "shape of": ("could you make the {it} a {shape}?", "please put a {shape} where the {it} is."),
    "remove": ("could you draw it without the {it} now?", "i do not want the {it}.", "please remove the {it} for me."),
}
"""Changes by what they change, in the frozen conversations' new words (armor_eval.shapes.conversation)."""
QUESTIONS_HELD_OUT: dict[str, tuple[str, ...]] = {
    "what color is the {shape}?": ("please tell me the color of the {shape}.", "which color does the {shape} have?"),
    "which shape is {color}?": ("which shape is the {color} one?", "tell me what shape is {color}."),
    "how many shapes are there?": ("how many shapes can you see in the picture?", "tell me the number of shapes."),
    "is there a {color} {shape} in the picture?": (
        "can you see a {color} {shape} in it?",
        "do you see a {color} {shape} in your picture?",
    ),
    "is the {shape} {relation} the {other}?": ("please tell me, is the {shape} {relation} the {other}?",),
    "where is the {shape}?": ("where can i see the {shape}?", "tell me where the {shape} is."),
    "": ("what is in the picture?", "please say what you see."),
}
"""A question as armor_eval.shapes.truth reads it (empty: tell all) -> their new words for it."""

ASKING = ("", "please ", "now ", "can you ", "could you ", "can you please ", "i want you to ")
BEHIND = ("", " now", " for me", " please")
TELLING = ("tell me ", "say ", "please tell me ", "please say ", "now tell me ", "can you tell me ", "could you say ")
IN_IT = ("in the picture", "in it", "in your picture", "in the image", "in this picture", "there")
IMAGE_NAMES = ("the picture", "the image", "this picture", "your picture", "your image", "it", "this photo")

ORDERS: dict[str, tuple[str, ...]] = {
    "it": (
        *("make it {color}", "change it to {color}", "change the color to {color}", "turn it {color}"),
        *("turn it to {color}", "draw it in {color}", "draw it again in {color}", "paint it {color}"),
        *("paint it in {color}", "draw the same in {color}", "show me the same in {color}", "make the color {color}"),
        *("draw the same one again in {color}", "change the color of the picture to {color}"),
    ),
    "one": (
        *("draw a {color} one", "draw one in {color}", "draw another one in {color}", "paint a {color} one"),
        *("show me a {color} one", "make a {color} one", "create another one in {color}", "draw another {color} one"),
    ),
    "shape": (
        *("make it a {shape}", "change it to a {shape}", "draw a {shape} instead", "draw a {shape} instead of it"),
        *("draw a {shape} in the same color", "make a {shape} instead of it", "change the shape to a {shape}"),
        *("show me a {shape} instead", "paint a {shape} in the same color", "turn the shape to a {shape}"),
    ),
    "color of": (
        *("make the {it} {color}", "change the {it} to {color}", "turn the {it} {color}", "turn the {it} to {color}"),
        *("paint the {it} {color}", "paint the {it} in {color}", "draw the {it} in {color}", "draw a {color} {it} now"),
        *("draw it again with the {it} in {color}", "draw it again with a {color} {it}", "show me the {it} in {color}"),
        *("draw the same with a {color} {it}", "draw the same again, but the {it} in {color}"),
        *("change the {it} to a {color} one", "make the color of the {it} {color}"),
    ),
    "shape of": (
        *("make the {it} a {shape}", "change the {it} to a {shape}", "turn the {it} to a {shape}"),
        *(
            "draw a {shape} instead of the {it}",
            "put a {shape} instead of the {it}",
            "draw a {shape} where the {it} is",
        ),
        *("draw it again with a {shape} instead of the {it}", "draw the same with a {shape}, not a {it}"),
        *("show me a {shape} where the {it} is now", "make a {shape} of the {it}"),
    ),
    "remove": (
        *("remove the {it}", "draw it without the {it}", "draw the same without the {it}", "draw it with no {it}"),
        *("draw it again without the {it}", "draw the picture again without the {it}", "show it without the {it}"),
        *("make the same picture, but without the {it}", "paint it again, but with no {it}"),
    ),
    "add": (
        *("add a {color} {shape} at the {cell}", "put a {color} {shape} at the {cell}"),
        *("draw it with a {color} {shape} at the {cell} too", "draw a {color} {shape} at the {cell} too"),
        *(
            "draw it again and add a {color} {shape} at the {cell}",
            "show me the same and a {color} {shape} at the {cell}",
        ),
    ),
    "move": (
        *("put the {it} at the {cell}", "draw it again with the {it} at the {cell}", "draw the {it} at the {cell}"),
        *("draw the same, but the {it} at the {cell}", "put the {it} at the {cell}, not at the {old}"),
    ),
    "again": ("draw it again", "draw the same again", "show me the same again", "draw the same picture"),
}
"""What is ordered, by the kind of change: `it`, `one` and `shape` of one thing alone, the others of a thing named."""
WISHES: dict[str, tuple[str, ...]] = {
    "it": (
        "i want it in {color}.",
        "i want it {color}.",
        "the same in {color}, please.",
        "i want to see it in {color}.",
    ),
    "one": ("a {color} one, please.", "now a {color} one.", "i want a {color} one.", "i want another one in {color}."),
    "shape": ("i want a {shape} instead.", "the same color, but a {shape}.", "i want to see a {shape} instead."),
    "color of": (
        *("the same with a {color} {it}.", "i want a {color} {it} there.", "i want to see the {it} in {color}."),
        "the {it} in {color}, please.",
    ),
    "shape of": ("a {shape} instead of the {it}, please.", "i want a {shape} where the {it} is."),
    "remove": (
        *("do not draw the {it}, the same again.", "i do not want to see the {it}.", "the same without the {it}."),
        *("no {it}, please.", "i want it without the {it}."),
    ),
    "add": ("the same and a {color} {shape} at the {cell}.", "i want a {color} {shape} at the {cell} too."),
    "move": ("i want the {it} at the {cell}.",),
    "again": ("the same again, please.",),
}
"""Changes that are no order."""


def _sentence(parts: Iterable[str]) -> str:
    text = "".join(parts)
    return text + ("?" if text.startswith(("can you", "could you")) else ".")


def _direct(questions: Iterable[str]) -> list[str]:
    return [f"{before}{question}?" for before in ("", "tell me, ", "can you tell me, ") for question in questions]


def _questions() -> dict[str, list[str]]:
    """By kind; `which {color}` asks for the shape of a colour, `is it` questions are of one thing alone."""
    indirect = {
        "color": ("what color the {shape} is", "the color of the {shape}", "what color the {shape} has"),
        "where": ("where the {shape} is", "where you see the {shape}", "at what corner the {shape} is"),
        "which": ("which shape is {color}", "what the {color} shape is", "what shape the {color} one is"),
        "number": (
            *(
                "how many shapes there are",
                "how many shapes you see",
                "how many shapes are in it",
                "how many there are",
            ),
            *("the number of shapes", *(f"the number of shapes {where}" for where in IN_IT)),
        ),
        "number of": ("how many {shapes} there are", "how many {shapes} you see", "the number of {shapes} in it"),
        "is there": (),
        "relation": (),
        "all": (
            *(
                "what you see",
                "what is in the picture",
                "what is in it",
                "what this picture is about",
                "what you can see",
            ),
            *("what is in your image",),
        ),
        "color of it": ("what color it is", "the color of it", "the color"),
        "shape of it": ("what shape it is", "which shape it is", "the shape"),
    }
    direct: dict[str, list[str]] = {
        "color": [
            *("what color is the {shape}", "what is the color of the {shape}", "which color is the {shape}"),
            *(
                "what color does the {shape} have",
                "the {shape}, what color is it",
                "what color do you see the {shape} in",
            ),
            *(f"what color is the {{shape}} {where}" for where in IN_IT[:4]),
        ],
        "where": [
            *("where is the {shape}", "where do you see the {shape}", "at what corner is the {shape}"),
            *("the {shape}, where is it", "which corner is the {shape} in", "where can you see the {shape}"),
            *(f"where is the {{shape}} {where}" for where in IN_IT[:4]),
        ],
        "which": [
            *("which shape is {color}", "what shape is {color}", "which one is {color}", "what is the {color} shape"),
            *("what shape is the {color} one", "what do you see in {color}", "what shape does the {color} one have"),
        ],
        "number": [
            *(f"how many shapes are {where}" for where in IN_IT),
            *(f"how many shapes {do} you see{where}" for do in ("do", "can") for where in ("", " there", " in it")),
            *("what is the number of shapes", "how many shapes is that", "how many are there"),
            *(f"how many shapes does {image} have" for image in IMAGE_NAMES),
        ],
        "number of": [
            *(f"how many {{shapes}} are {where}" for where in IN_IT),
            *("how many {shapes} do you see", "how many {shapes} can you see", "what is the number of {shapes}"),
        ],
        "is there": [
            *(f"is there a {{color}} {{shape}} {where}" for where in IN_IT[:5]),
            *(f"{do} you see a {{color}} {{shape}}{where}" for do in ("do", "can") for where in ("", " there", " now")),
            *(f"{do} you see a {{color}} {{shape}} in {image}" for do in ("do", "can") for image in IMAGE_NAMES),
            *(f"does {image} {do} a {{color}} {{shape}}" for image in IMAGE_NAMES for do in ("have", "show")),
            *("is there a {color} {shape}", "is a {color} {shape} there", "is one of the shapes a {color} {shape}"),
        ],
        "relation": [
            *(f"is the {{shape}} {{relation}} the {{other}}{where}" for where in ("", " in it", " in the picture")),
            *("the {shape}, is it {relation} the {other}", "do you see the {shape} {relation} the {other}"),
        ],
        "all": [
            *(f"what is in {image}" for image in IMAGE_NAMES),
            *(
                f"what {do} you see{where}"
                for do in ("do", "can")
                for where in ("", " in it", " in your picture", " here")
            ),
            *("what is this picture about", "what is there", "what are the shapes in it"),
        ],
        "color of it": ["what color is it", "which color is it", "what color does it have", "what is the color of it"],
        "shape of it": ["what shape is it", "which shape is it", "what shape does it have", "what shape is that"],
    }
    told = [
        f"{ask}{describe_}{image}"
        for ask in ASKING[:3]
        for describe_ in ("describe ", "tell me about ")
        for image in IMAGE_NAMES
    ]
    return {
        kind: [
            *_direct(direct[kind]),
            *(_sentence(parts) for parts in product(TELLING, indirect[kind])),
            *([_sentence((each,)) for each in told] if kind == "all" else []),
        ]
        for kind in direct
    }


@lru_cache(maxsize=1)
def questions() -> dict[str, list[str]]:
    """Sentences by what they ask; none comes near a held-out one."""
    held_out = [*HELD_OUT, *(wording for each in QUESTIONS_HELD_OUT.values() for wording in each)]
    return {kind: apart(each, held_out) for kind, each in _questions().items()}


@lru_cache(maxsize=1)
def changes() -> dict[str, list[str]]:
    """Sentences by what they change; none comes near a held-out one. A wish comes as often as four orders."""
    held_out = [wording for each in CHANGES_HELD_OUT.values() for wording in each]
    made = {
        kind: [*(_sentence(parts) for parts in product(ASKING, orders, BEHIND)), *WISHES[kind] * 4]
        for kind, orders in ORDERS.items()
    }
    return {kind: apart(each, held_out) for kind, each in made.items()}


def change_wording(rng: np.random.Generator, kind: str, alone: bool = False) -> str:
    """A wording for a kind of change (trainer.shapes.changes), or for `again`; `alone` where one thing is there, that
    `it` and `one` stand for."""
    recolor, reshape = (("it", "one"), ("shape",)) if alone else (("color of",), ("shape of",))
    asked = {"recolor": recolor, "reshape": reshape}.get(kind, (kind,))
    return pick(rng, changes()[pick(rng, asked)])


def question_about(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """A question about a scene whose shapes are all different, and its answer; kinds take turns evenly."""
    things = scene.things
    thing = pick(rng, things)
    kinds = ["color", "where", "number", "number of", "is there", "all"]
    kinds += ["which"] if [each.color for each in things].count(thing.color) == 1 else []
    kinds += ["color of it", "shape of it"] if len(things) == 1 else ["relation", "relation"]
    kind = pick(rng, kinds)
    color, shape, other, relation = thing.color, thing.shape, thing, pick(rng, RELATIONS)
    if kind == "is there" and rng.random() < 0.5:
        color, shape = pick(rng, ((pick(rng, COLOR_NAMES), shape), (color, pick(rng, SHAPES))))
    elif kind == "number of" and rng.random() < 0.5:
        shape = pick(rng, SHAPES)
    elif kind == "relation":
        other = pick(rng, [each for each in things if each is not thing])
    answers = {
        "color": color,
        "where": CELL_NAMES[thing.cell],
        "which": shape,
        "number": str(len(things)),
        "number of": str(sum(each.shape == shape for each in things)),
        "is there": YES_NO[all((each.color, each.shape) != (color, shape) for each in things)],
        "relation": YES_NO[not holds(thing, relation, other)],
        "all": f"{describe(scene)}.",
        "color of it": color,
        "shape of it": shape,
    }
    words = {"color": color, "shape": shape, "shapes": plural(shape), "other": other.shape, "relation": relation}
    return pick(rng, questions()[kind]).format(**words), answers[kind]
