"""Seeded training conversations of the shapes world in the paper's form (its appendix), nothing held out.

    {"id": "t2i-00000042", "type": "t2i", "conversations": [{"from": "human", "value": "draw a red circle."},
     {"from": "gpt", "value": "<image>"}], "images": [Scene, ...]}

`images` holds one scene for every `<image>`, in order of appearance; in a gpt turn it is an image to draw. `to_json`
turns scenes into text.  Types beyond the paper's four: `ti2ti`, and `refuse` (drawing requests that the base model,
before it has a visual head, declines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.language import DESCRIBE_AND_REDRAW, DESCRIBE_IMAGE, REFUSALS, caption, chat, long_answer
from trainer.shapes.questions import (
    DETAIL_SUFFIX,
    OPEN_SUFFIX,
    WORD_SUFFIX,
    YES_NO,
    YES_NO_SUFFIX,
    describe,
    join,
    multiple_choice,
    options_for,
    sample_question,
)
from trainer.shapes.requests import (
    DRAW,
    OPEN_MIXED,
    SHOW_AND_SAY,
    TELL_AND_DRAW,
    TELL_ONLY,
    Request,
    about,
    sample_request,
)
from trainer.shapes.world import Scene, pick, sample_scene

KINDS: tuple[str, ...] = ("t2t", "ti2t", "t2i", "t2ti", "ti2ti", "refuse")
IMAGE = "<image>"

Turns = list[tuple[str, str]]
"""(human, gpt) pairs."""
Requests = Callable[[np.random.Generator], Request]
"""Where drawing requests come from, each with an image that fulfils it."""


def shown(request: Request) -> str:
    """What is said before a drawing: `here is a red circle.`"""
    plural_first = request.things[0][2] > 1
    return f"here {'are' if plural_first else 'is'} {request.phrase}."


def ask_image(rng: np.random.Generator, type: str | None = None) -> tuple[Scene, str, str]:
    """An image question as training asks it: (scene, prompt after the image, answer), in every official wording."""
    scene, question = sample_question(rng, type)
    style = rng.random()
    if style < 0.35:
        options, letter = options_for(rng, question)
        hint = chat_hint(rng) if rng.random() < 0.1 else None
        return scene, multiple_choice(question.text, options, hint), letter
    if style < 0.5:
        return scene, f"{question.text}\n{DETAIL_SUFFIX}", long_answer(question)
    text = question.text
    if question.choices == YES_NO:
        ending = pick(rng, ("", "", f" {YES_NO_SUFFIX}", f" {YES_NO_SUFFIX} {WORD_SUFFIX}"))
    else:
        ending = pick(rng, ("", "", f" {WORD_SUFFIX}", f"\n{OPEN_SUFFIX}"))
    return scene, text + ending, question.answer


def chat_hint(rng: np.random.Generator) -> str:
    """A true sentence to stand before a multiple choice, as MMBench's hints do."""
    return pick(
        rng, ("a circle is round.", "a square has 4 sides.", "a triangle has 3 sides.", "a cross has 12 sides.")
    )


def _t2t(rng: np.random.Generator, requests: Requests) -> tuple[Turns, list[Scene]]:
    turns = []
    for _ in range(1 if rng.random() < 0.85 else 2):
        if rng.random() < 0.4:
            request = requests(rng)
            turns.append((pick(rng, TELL_ONLY).format(x=request.phrase), about(request.things)))
        else:
            turns.append(chat(rng))
    return turns, []


def _ti2t(rng: np.random.Generator, _: Requests) -> tuple[Turns, list[Scene]]:
    if rng.random() < 0.15:
        scene = sample_scene(rng)
        if rng.random() < 0.4:
            return [(f"{IMAGE}\n{pick(rng, DESCRIBE_IMAGE)}\n{DETAIL_SUFFIX}", describe(scene) + ".")], [scene]
        return [(f"{IMAGE}\n{pick(rng, DESCRIBE_IMAGE)}", caption(scene, rng))], [scene]
    scene, text, answer = ask_image(rng)
    turns = [(f"{IMAGE}\n{text}", answer)]
    if rng.random() < 0.08:
        turns.append((pick(rng, DESCRIBE_IMAGE), describe(scene) + "."))
    return turns, [scene]


def _t2i(rng: np.random.Generator, requests: Requests) -> tuple[Turns, list[Scene]]:
    request = requests(rng)
    before = [chat(rng)] if rng.random() < 0.1 else []
    return [*before, (pick(rng, DRAW).format(x=request.phrase), IMAGE)], [request.scene]


def _t2ti(rng: np.random.Generator, requests: Requests) -> tuple[Turns, list[Scene]]:
    style = rng.random()
    before = [chat(rng)] if rng.random() < 0.1 else []
    if style < 0.15:
        scene = sample_scene(rng, int(rng.integers(1, 3)))
        told = join([f"a {thing.color} {thing.shape}" for thing in scene.things])
        return [*before, (pick(rng, OPEN_MIXED), f"here is {told}.\n{IMAGE}")], [scene]
    request = requests(rng)
    if style < 0.55:
        asked, said = pick(rng, SHOW_AND_SAY), shown(request)
    else:
        asked, said = pick(rng, TELL_AND_DRAW), about(request.things)
    return [*before, (asked.format(x=request.phrase), f"{said}\n{IMAGE}")], [request.scene]


def _ti2ti(rng: np.random.Generator, _: Requests) -> tuple[Turns, list[Scene]]:
    scene = sample_scene(rng)
    asked = f"{IMAGE}\n{pick(rng, DESCRIBE_AND_REDRAW)}"
    return [(asked, f"{describe(scene)}.\n{IMAGE}")], [scene, scene]


def _refuse(rng: np.random.Generator, requests: Requests) -> tuple[Turns, list[Scene]]:
    request, style = requests(rng), rng.random()
    if style < 0.6:
        return [(pick(rng, DRAW).format(x=request.phrase), pick(rng, REFUSALS))], []
    if style < 0.8:
        return [(pick(rng, SHOW_AND_SAY).format(x=request.phrase), pick(rng, REFUSALS))], []
    return [(pick(rng, TELL_AND_DRAW).format(x=request.phrase), f"{about(request.things)} {pick(rng, REFUSALS)}")], []


_SAMPLERS = {"t2t": _t2t, "ti2t": _ti2t, "t2i": _t2i, "t2ti": _t2ti, "ti2ti": _ti2ti, "refuse": _refuse}


def sample_conversation(
    rng: np.random.Generator, kind: str, number: int = 0, requests: Requests = sample_request
) -> JsonObject:
    """One training conversation of a kind; `number` goes into its id."""
    if kind not in _SAMPLERS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    turns, scenes = _SAMPLERS[kind](rng, requests)
    messages = []
    for human, gpt in turns:
        messages += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt}]
    return {"id": f"{kind}-{number:08d}", "type": kind, "conversations": messages, "images": scenes}


def stream(seed: int, kinds: dict[str, float]) -> Iterator[JsonObject]:
    """Conversations without end, kinds drawn by weight, equal for equal seeds."""
    rng = np.random.default_rng(seed)
    names = list(kinds)
    edges = np.cumsum([kinds[name] for name in names])
    number = 0
    while True:
        chosen = int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))
        yield sample_conversation(rng, names[chosen], number)
        number += 1


def to_json(conversation: JsonObject) -> JsonObject:
    """The same record with scenes as text, fit for a JSON line."""
    return {**conversation, "images": [str(scene) for scene in conversation["images"]]}
