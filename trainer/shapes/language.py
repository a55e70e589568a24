"""The words of the shapes world: captions, chat, refusals, the fixed vocabulary and how text is split into it.

python -m trainer.shapes.language        prints the vocabulary, one word a line
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

from trainer.shapes.questions import (
    DETAIL_SUFFIX,
    MCQ_SUFFIX,
    OPEN_SUFFIX,
    SIDES,
    WORD_SUFFIX,
    YES_NO_SUFFIX,
    Question,
    counted,
    describe,
    join,
    plural,
)
from trainer.shapes.world import COLOR_NAMES, NUMBERS, SHAPES, Scene, pick, relations

__all__ = [
    "DETAIL_SUFFIX",
    "MCQ_SUFFIX",
    "OPEN_SUFFIX",
    "REFUSALS",
    "WORD_SUFFIX",
    "YES_NO_SUFFIX",
    "caption",
    "chat",
    "describe",
    "long_answer",
    "vocabulary",
    "words",
]

REFUSALS = ("sorry, i can not draw.", "sorry, i can not draw pictures.")
"""What the base model, which has no visual head, says to a drawing request."""

DESCRIBE_IMAGE = (
    "describe this picture.",
    "describe the image.",
    "what is in this picture?",
    "what is this photo about?",
    "what can you see in the picture?",
    "please tell me about this image.",
    "describe this picture, do not draw.",
)
DESCRIBE_AND_REDRAW = (
    "describe this picture and draw it again.",
    "what is in this picture? please draw it too.",
    "tell me about this image and make a picture of it.",
    "describe the image and show me an image of it again.",
)
DESCRIBE_IMAGE_HELD_OUT = (
    "please describe what you see in this image.",
    "do not draw, tell me what is in this picture.",
    "say what this picture is about, without an image.",
    "can you tell me what is in the image? do not draw it again.",
    "i do not want a picture, only describe this photo.",
    "could you describe this photo for me?",
)
DESCRIBE_AND_REDRAW_HELD_OUT = (
    "say what is in this photo and draw it again for me.",
    "please tell me about this picture and also paint it.",
    "can you describe the image and generate it again?",
    "i want text and a picture, what is this image about?",
    "do not only describe this picture, also draw it.",
    "what do you see in this picture? show me an image of it too.",
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of the ways to say what is in an image; every one is true, most say every colour and shape."""
    things = scene.things
    style = rng.random()
    names = [f"a {thing.color} {thing.shape}" for thing in things]
    if style < 0.4:
        return describe(scene) + "."
    if len(things) == 2 and style < 0.75:
        return f"{names[0]} {pick(rng, relations(*things))} {names[1]}."
    if style < 0.85:
        return join(names) + "."
    counts = [(shape, sum(thing.shape == shape for thing in things)) for shape in SHAPES]
    return join([counted(count, shape) for shape, count in counts if count]) + "."


def long_answer(question: Question) -> str:
    """A question's answer as a sentence, as InternVL is asked for in LLaVABench (`in detail`)."""
    words_ = question.text.rstrip("?").split()
    answer = question.answer
    match question.type:
        case "color":
            return f"the {words_[-1]} is {answer}."
        case "shape" | "sides":
            color = next(word for word in words_ if word in COLOR_NAMES)
            return f"the {color} shape {'is a' if question.type == 'shape' else 'has'} {answer}" + (
                "." if question.type == "shape" else " sides."
            )
        case "count_shape":
            shape = next(shape for shape in SHAPES if plural(shape) in words_)
            return f"there is 1 {shape}." if answer == "1" else f"there are {answer} {plural(shape)}."
        case "count_color":
            color = next(word for word in words_ if word in COLOR_NAMES)
            return f"there is 1 {color} shape." if answer == "1" else f"there are {answer} {color} shapes."
        case "count_all":
            return "there is 1 shape." if answer == "1" else f"there are {answer} shapes."
        case "empty":
            return "there is 1 empty corner." if answer == "1" else f"there are {answer} empty corners."
        case "exists":
            name = " ".join(words_[3 : words_.index("in")])
            return f"yes, there is a {name}." if answer == "yes" else f"no, there is no {name}."
        case "relation":
            a, b, rest = words_[2], words_[-1], " ".join(words_[3:-2])
            return f"yes, the {a} is {rest} the {b}." if answer == "yes" else f"no, the {a} is not {rest} the {b}."
        case "beside":
            return f"the {answer} is {' '.join(words_[3:])}."
        case "location":
            return f"the {words_[-1]} is at the {answer}."
        case "at":
            return f"{'nothing' if answer == 'nothing' else 'a ' + answer} is {' '.join(words_[3:])}."
        case "number":
            rest = " ".join(words_[1:-1])
            return f"yes, {rest} is {words_[-1]}." if answer == "yes" else f"no, {rest} is not {words_[-1]}."
        case "has_sides":
            rest = " ".join(words_[1:3])
            number = words_[-2]
            if answer == "yes":
                return f"yes, {rest} shape has {number} sides."
            return f"no, {rest} shape does not have {number} sides."
        case "more":
            rest = " ".join(words_[2:])
            return f"yes, there are {rest}." if answer == "yes" else f"no, there are not {rest}."
        case "same":
            return f"yes, all shapes are {words_[-1]}." if answer == "yes" else f"no, not all shapes are {words_[-1]}."
    raise ValueError(f"unknown question type {question.type!r}")


@lru_cache(maxsize=1)
def chat_facts() -> tuple[tuple[str, str], ...]:
    """Small talk and knowledge that needs no image: (what is said, the answer)."""
    facts = [
        ("hello", "hello, how can i help you?"),
        ("hello, who are you?", "i am armor."),
        ("who are you?", "i am armor."),
        ("thank you", "you are welcome."),
        ("how are you?", "i am well, thank you."),
        ("which colors do you know?", join(COLOR_NAMES) + "."),
        ("which shapes do you know?", join([plural(shape) for shape in SHAPES]) + "."),
    ]
    for shape in SHAPES:
        facts.append((f"how many sides does a {shape} have?", SIDES[shape]))
        facts.append((f"is a {shape} round?", "yes" if shape == "circle" else "no"))
        facts.append((f"is a {shape} a color?", "no"))
        facts.append((f"is a {shape} a shape?", "yes"))
        for sides in sorted({*SIDES.values()}):
            if shape != "circle":
                facts.append((f"does a {shape} have {sides} sides?", "yes" if SIDES[shape] == sides else "no"))
    for color in COLOR_NAMES:
        facts += [(f"is {color} a color?", "yes"), (f"is {color} a shape?", "no")]
    for a, b in (("left", "right"), ("above", "below"), ("top", "bottom"), ("yes", "no")):
        facts += [(f"what is the opposite of {a}?", b), (f"what is the opposite of {b}?", a)]
    for n in range(5):
        facts += [(f"what is the word for {n}?", NUMBERS[n]), (f"what number is {NUMBERS[n]}?", str(n))]
        facts.append((f"what number comes after {n}?", str(n + 1)))
        facts += [(f"what is {n} plus {m}?", str(n + m)) for m in range(5)]
        facts += [(f"is {n} more than {m}?", "yes" if n > m else "no") for m in range(5)]
    return tuple(facts)


CHAT_HELD_OUT = (
    ("please tell me, is a circle round?", "yes"),
    ("can you tell me how many sides a square has?", "4"),
    ("i want to know, is a triangle round?", "no"),
    ("could you tell me what 1 plus 2 is?", "3"),
    ("tell me the opposite of left.", "right"),
    ("do you know how many sides a triangle has?", "3"),
    ("do not draw, tell me what number comes after 2.", "3"),
    ("without a picture, is red a shape?", "no"),
    ("hello, can you help me? is 4 more than 1?", "yes"),
    ("say something about armor.", ""),
)
"""Chat in wordings that training lacks; an empty answer means that any text does."""


def chat(rng: np.random.Generator) -> tuple[str, str]:
    """One exchange without images: a fact, or a question about a scene that is told in words."""
    if rng.random() < 0.75:
        return pick(rng, chat_facts())
    order = rng.permutation(len(SHAPES))
    a, b = SHAPES[int(order[0])], SHAPES[int(order[1])]
    color, other, relation = pick(rng, COLOR_NAMES), pick(rng, COLOR_NAMES), pick(rng, ("left of", "above"))
    told = f"there is a {color} {a} {relation} a {other} {b}."
    kind = int(rng.integers(4))
    if kind == 0:
        return f"{told} what color is the {a}?", color
    if kind == 1:
        return f"{told} what color is the {b}?", other
    if kind == 2:
        return f"{told} which shape is {relation} the {b}?", a
    first, second, answer = pick(rng, ((a, b, "yes"), (b, a, "no")))
    return f"{told} is the {first} {relation} the {second}?", answer


# --- the vocabulary --------------------------------------------------------------------------------------------------

_OPTION_LETTER = re.compile(r"\b[A-D]\b(?=\s*(?:[.):,]|$))", re.MULTILINE)
_TOKEN = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")


def words(text: str) -> list[str]:
    """Split text into vocabulary words: lower case, marks apart, white space dropped.

    An option letter keeps its capital (`A.`, `(B)`, `C` at a line's end): VLMEvalKit reads capitals, and `a` is the
    article. `armor_model.build_word_tokenizer` splits alike; a test holds the two together.
    """
    letters = {match.start() for match in _OPTION_LETTER.finditer(text)}
    return [m.group() if m.start() in letters else m.group().lower() for m in _TOKEN.finditer(text)]


_WORDS = """
' , . 0 1 12 2 3 4 5 6 7 8 ? A B C D a about above after again all also am an and answer any anything are armor at
below blue bottom can choices circle circles color colors comes corner corners could create cross crosses describe
detail directly do does draw empty for four from generate given green has have hello help here how i image in is it
know left letter make many me more no not nothing number of one only opposite option or paint photo phrase picture
pictures please plus purple question red right round s say see shape shapes show sides single something sorry square
squares tell text than thank the there this three to too top triangle triangles two using want welcome well what
where which who with without word yellow yes you zero
"""


_FOLLOW_UP_WORDS = """
add another but change first instead last my new next now other put remove same second still that them then turn your
"""


def vocabulary() -> tuple[str, ...]:
    """Every word and mark that the world's texts and the official prompt suffixes contain, sorted, frozen with v1; then
    the words that conversations about an image drawn before need."""
    return (*_WORDS.split(), *_FOLLOW_UP_WORDS.split())


if __name__ == "__main__":
    print("\n".join(vocabulary()))
