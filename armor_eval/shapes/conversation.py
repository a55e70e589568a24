"""Conversations of the shapes world: own drawings asked about, changed, and requests for what the world does not hold.

    python -m armor_eval.shapes.conversation        prints the JSON lines

Kinds: `own drawing` (a question whose answer the drawing decides, not the request), `follow-up` (the last drawing must
show the first request as all changes left it), `decline` (text and no image). The user's messages alone are frozen:
what stands between them is the model's own. A record:

    {"id": "follow-up-007", "kind": ..., "form": "known|new", "wording": ..., "messages": ["draw a red circle.", ...],
     "content": {"ask": "what color is the circle?"} | {"things": [[color, shape, count], ...]} | {}}

`new`: the last message is in words that no lesson of armor-nano has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.shapes.claims import agreement, claims_of
from armor_eval.shapes.interleaved import frozen
from armor_eval.shapes.truth import answer
from armor_model.base.jsons import JsonObject
from trainer.shapes import reworded, talk
from trainer.shapes.evaluation import read_images
from trainer.shapes.questions import YES_NO
from trainer.shapes.requests import DRAW, DRAW_HELD_OUT, matches
from trainer.shapes.world import CELL_NAMES, COLOR_NAMES, RELATIONS, SHAPES, Scene, pick

if TYPE_CHECKING:
    from PIL import Image

NAME = "shapes-conversation"
VERSION = 1
SEED = 23_001
EACH = 60
"""Conversations of a kind and form."""
KINDS = ("own drawing", "follow-up", "decline")

CHANGES: dict[bool, dict[str, tuple[str, ...]]] = {
    False: {
        "it": (*talk.RECOLOR[:4], "draw it in {color}."),
        "one": talk.ANOTHER[:4],
        "shape": talk.RESHAPE[:3],
        "color of": talk.RECOLOR_OF[:5],
        "shape of": talk.RESHAPE_OF,
        "remove": talk.REMOVE[:4],
    },
    True: reworded.CHANGES_HELD_OUT,
}
"""Changes by what they change, in known and in new words; `it`, `one` and `shape` where one thing is there."""
QUESTIONS: dict[bool, dict[str, tuple[str, ...]]] = {
    False: {
        "what color is the {shape}?": ("what color is the {shape}?", "what is the color of the {shape}?"),
        "which shape is {color}?": ("which shape is {color}?",),
        "how many shapes are there?": ("how many shapes are there?", "how many shapes are in the picture?"),
        "is there a {color} {shape} in the picture?": ("is there a {color} {shape} in the picture?",),
        "is the {shape} {relation} the {other}?": ("is the {shape} {relation} the {other}?",),
        "where is the {shape}?": ("where is the {shape}?",),
        "": ("what is in this picture?", "describe the image."),
    },
    True: reworded.QUESTIONS_HELD_OUT,
}
"""A question as `truth.answer` reads it (empty: tell all) -> how it is put, in known and in new words."""
UNSEEN = ("fish", "lion", "train", "castle", "apple", "chair", "moon", "guitar", "bridge", "spoon")
"""Things outside of the world that no lesson names."""
OUTSIDE = (
    *("a {thing}", "a {color} {thing}", "a {thing} and a {shape}", "a {color} {shape} and a {thing}", "two {thing}"),
    *("6 {shape}", "a {thing} above a {color} {shape}"),
)


def records() -> list[JsonObject]:
    """360 conversations of one to four messages, equal for equal versions."""
    made = []
    makers = {"own drawing": _own_drawing, "follow-up": _follow_up, "decline": _decline}
    for at, kind in enumerate(KINDS):
        for new in (False, True):
            rng = np.random.default_rng([SEED, at, int(new)])
            for number in range(EACH):
                wording, messages, content = makers[kind](rng, number, new)
                made.append(
                    {
                        "id": f"{kind.replace(' ', '-')}-{EACH * new + number:03d}",
                        "kind": kind,
                        "form": "new" if new else "known",
                        "wording": wording,
                        "messages": messages,
                        "content": content,
                    }
                )
    return made


@lru_cache(maxsize=1)
def jsonl() -> str:
    """The records as JSON lines, held to the declared hash of their version."""
    return frozen(records(), f"conversation_v{VERSION}.json", "conversations")


Things = list[tuple[str, str]]
"""(colour, shape) of each, no shape twice."""


def _begun(rng: np.random.Generator, number: int) -> tuple[Things, list[str]]:
    """One or two things, the request for them, and none, one or two changes."""
    shapes = [SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[: 1 + number % 2]]
    things = [(pick(rng, COLOR_NAMES), shape) for shape in shapes]
    messages = [pick(rng, DRAW[3:10]).format(x=" and ".join(f"a {color} {shape}" for color, shape in things))]
    for _ in range(number // 2 % 3):
        _, message, things = _changed(rng, things, new=False)
        messages.append(message)
    return things, messages


def _changed(rng: np.random.Generator, things: Things, new: bool) -> tuple[str, str, Things]:
    """(wording, message, what it makes of the things)"""
    kind = pick(
        rng, ("it", "it", "one", "shape") if len(things) == 1 else ("color of", "color of", "shape of", "remove")
    )
    wording = pick(rng, CHANGES[new][kind])
    at = int(rng.integers(len(things)))
    color, shape = things[at]
    rest = [*things[:at], *things[at + 1 :]]
    if kind == "remove":
        return wording, wording.format(it=shape), rest
    if kind in ("shape", "shape of"):
        turned = pick(rng, [s for s in SHAPES if s not in {s for _, s in things}])
        return wording, wording.format(it=shape, shape=turned), [*rest, (color, turned)]
    painted = pick(rng, [c for c in COLOR_NAMES if c != color])
    return wording, wording.format(it=shape, color=painted), [*rest, (painted, shape)]


def _follow_up(rng: np.random.Generator, number: int, new: bool) -> tuple[str, list[str], JsonObject]:
    things, messages = _begun(rng, number)
    wording, message, things = _changed(rng, things, new)
    return wording, [*messages, message], {"things": [[color, shape, 1] for color, shape in things]}


def _own_drawing(rng: np.random.Generator, number: int, new: bool) -> tuple[str, list[str], JsonObject]:
    things, messages = _begun(rng, number)
    color, shape = things[int(rng.integers(len(things)))]
    alike = [c for c, _ in things].count(color) > 1
    asked = [
        ask
        for ask in QUESTIONS[new]
        if ("{other}" not in ask or len(things) == 2) and not (alike and ask == "which shape is {color}?")
    ]
    ask = asked[int(rng.integers(len(asked)))]
    wording = pick(rng, QUESTIONS[new][ask])
    if "{color}" in ask and "{shape}" in ask and rng.random() < 0.5:
        color = pick(rng, [c for c in COLOR_NAMES if c != color])
    other = next((s for _, s in things if s != shape), "")
    words = {"color": color, "shape": shape, "other": other, "relation": pick(rng, RELATIONS)}
    return wording, [*messages, wording.format(**words)], {"ask": ask.format(**words)}


def _decline(rng: np.random.Generator, number: int, new: bool) -> tuple[str, list[str], JsonObject]:
    things = {"thing": pick(rng, UNSEEN), "color": pick(rng, COLOR_NAMES), "shape": pick(rng, SHAPES)}
    wording = pick(rng, DRAW_HELD_OUT if new else DRAW)
    before = _begun(rng, number // 2)[1][:1] if number % 2 else []
    return wording, [*before, wording.format(x=pick(rng, OUTSIDE).format(**things))], {}


# ---- judging ---------------------------------------------------------------------------------------------------------


_DECLINES = re.compile(r"\b(sorry|can ?not|can't|unable|not able|only (know|draw)|(do not|don't) know)\b")


def judged(record: JsonObject, turns: Sequence[Sequence[str | Image.Image]]) -> tuple[bool, str, str | None]:
    """(right, the answer that was wanted, why it is not right), from the model's answers, one a message."""
    text = " ".join(part for part in turns[-1] if isinstance(part, str)).strip()
    images = [part for part in turns[-1] if not isinstance(part, str)]
    if record["kind"] == "decline":
        right = not images and _DECLINES.search(text.lower()) is not None
        return right, "no image, and to be told so", None if right else "it drew something" if images else None
    drawn = [image for turn in turns[: len(turns) - (record["kind"] == "own drawing")] for image in _drawn(turn)]
    scene = read_images([drawn[-1]])[0] if drawn else None
    if record["kind"] == "follow-up":
        things = tuple((color, shape, count) for color, shape, count in record["content"]["things"])
        wanted = ", ".join(f"{color} {shape}" for color, shape, _ in things)
        right = bool(images) and scene is not None and matches(scene, things)
        return right, wanted, None if right else f"it shows {_seen(scene)}" if images else "it drew nothing"
    if scene is None:
        return False, "an answer about a drawing", "there was no readable drawing to ask about"
    gold = _gold(scene, record["content"]["ask"])
    if gold is None:
        return False, "an answer about a drawing", f"the drawing does not settle it: {scene}"
    right = not images and _says(text, gold, scene, tells_all=not record["content"]["ask"])
    return right, gold, None if right else f"the drawing shows {scene}"


def _drawn(turn: Sequence[str | Image.Image]) -> Iterator[Image.Image]:
    return (part for part in turn if not isinstance(part, str))


def _seen(scene: Scene | None) -> str:
    return "nothing readable" if scene is None else str(scene)


def _gold(scene: Scene, ask: str) -> str | None:
    return answer(scene, ask) if ask else ", ".join(f"{thing.color} {thing.shape}" for thing in scene.things)


ANSWERS: tuple[Sequence[str], ...] = (COLOR_NAMES, CELL_NAMES, SHAPES, tuple("0123456789"))


def _says(text: str, wanted: str, scene: Scene, tells_all: bool) -> bool:
    """Whether a text gives the wanted answer and no other of its kind; a yes or no opens it."""
    if tells_all:
        return agreement(claims_of(text), scene.things).exact
    words = re.findall(r"[a-z0-9]+", text.lower())
    if wanted in YES_NO:
        return words[:1] == [wanted]
    kind = next(answers for answers in ANSWERS if wanted in answers)
    line = f" {' '.join(words)} "
    return [one for one in kind if f" {one} " in line] == [wanted]


if __name__ == "__main__":
    print("".join(json.dumps(record) + "\n" for record in records()), end="")
