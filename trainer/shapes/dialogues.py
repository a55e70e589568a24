"""Training dialogues of the shapes world: requests for text and images together, edits, follow-ups, stories.

    armor-train build-data --dialogues shapes-v1=20000 --out data/dialogues

Version 1: changes are told in the words of the frozen requests (`trainer.shapes.interleaved`), the sentences around
them are others. Nothing held out is shown or named; no dialogue shows an image that a frozen request gives, or asks
what one asks (`repeats`). Every answer says what its image shows, then shows it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.changes import colored, next_content
from trainer.shapes.conversations import IMAGE, Turns
from trainer.shapes.interleaved import NoChangeError, changed, repeats
from trainer.shapes.lessons import in_order, orderly_request
from trainer.shapes.questions import describe, join
from trainer.shapes.requests import phrase_for
from trainer.shapes.world import COLOR_NAMES, NUMBERS, SHAPES, Scene, is_held_out, pick, render, sample_scene

VERSION = 1
KINDS = {"single": "t2ti", "edit": "ti2ti", "follow-up": "t2ti", "story": "t2ti"}
"""Kind of dialogue -> type of its records."""
SINGLE = (
    "show me {x} and tell me what you draw.",
    "can you draw {x}? please say what it is about too.",
    "i want a picture of {x}, with text about it.",
    "make a picture of {x} without {y}, with text.",
    "please draw {x}, not {y}, and tell me about it.",
)
FRAMES = (
    "show me {edit} and say what you see in it.",
    "can you draw {edit}? tell me about it too.",
    "i want {edit}, and text about it.",
    "make {edit} and describe the picture.",
    "please paint {edit}, and tell me what is in the picture.",
)
STORY = (
    "i want {n} pictures, with text about the pictures. {steps}",
    "can you draw {n} pictures? please describe the pictures too. {steps}",
    "make {n} pictures and tell me what you draw. {steps}",
)


def stream(seed: int) -> Iterator[JsonObject]:
    """Dialogues without end, kinds in turn, equal for equal seeds; `images` are scenes."""
    rng = np.random.default_rng([seed, VERSION])
    number = 0
    while True:
        for kind in KINDS:
            yield sample_dialogue(rng, kind, number)
            number += 1


def sample_dialogue(rng: np.random.Generator, kind: str, number: int = 0) -> JsonObject:
    """One dialogue of a kind; wordings take turns with `number`, which goes into its id."""
    while True:
        try:
            turns, scenes = _MAKERS[kind](rng, number)
        except NoChangeError:
            continue
        said = [
            {"from": side, "value": text} for turn in turns for side, text in zip(("human", "gpt"), turn, strict=True)
        ]
        record = {"id": f"{kind}-{number:08d}", "type": KINDS[kind], "conversations": said, "images": scenes}
        if not any(map(is_held_out, scenes)) and not repeats(record):
            return record


def rendered(record: JsonObject) -> JsonObject:
    """The record with its scenes as PNG files' bytes."""
    return {**record, "images": [_png(scene) for scene in record["images"]]}


def _png(scene: Scene) -> bytes:
    file = io.BytesIO()
    render(scene).save(file, "PNG")
    return file.getvalue()


def _told(scene: Scene) -> str:
    return f"{describe(scene)}.\n{IMAGE}"


def _single(rng: np.random.Generator, number: int) -> tuple[Turns, list[Scene]]:
    request = orderly_request(rng)
    absent = pick(rng, [shape for shape in SHAPES if shape not in {shape for _, shape, _ in request.things}])
    y = f"a {pick(rng, COLOR_NAMES)} {absent}"
    return [(SINGLE[number // len(KINDS) % len(SINGLE)].format(x=request.phrase, y=y), _told(request.scene))], [
        request.scene
    ]


def _change(rng: np.random.Generator, source: Scene, what: str) -> tuple[str, Scene]:
    """A request for one change, and what it makes of the scene."""
    _, text, target = changed(rng, source, int(rng.integers(1 << 16)), what, FRAMES)
    return text, target


def _edit(rng: np.random.Generator, number: int) -> tuple[Turns, list[Scene]]:
    source = sample_scene(rng, int(rng.integers(2, 4)))
    text, target = _change(rng, source, pick(rng, ("this picture", "this image", "it")))
    return [(f"{IMAGE}\n{text}", _told(target))], [source, target]


def _follow_up(rng: np.random.Generator, number: int) -> tuple[Turns, list[Scene]]:
    """Two to four turns; a change is made to the newest image, or to one of the earlier ones by its number."""
    scenes = [sample_scene(rng, int(rng.integers(2, 4)))]
    names = join([f"a {thing.color} {thing.shape}" for thing in scenes[0].things])
    turns = [(SINGLE[number // len(KINDS) % 3].format(x=names), _told(scenes[0]))]
    for turn in range(1, int(rng.integers(2, 5))):
        at = int(rng.integers(turn))
        what = "it" if at == turn - 1 and rng.random() < 0.5 else f"picture {NUMBERS[at + 1]}"
        text, target = _change(rng, scenes[at], what)
        scenes.append(target)
        turns.append((text, _told(target)))
    return turns, scenes


def _story(rng: np.random.Generator, number: int) -> tuple[Turns, list[Scene]]:
    """Two to four images in one answer; in every second story each goes on from the one before."""
    count, goes_on = int(rng.integers(2, 5)), bool(rng.integers(2))
    things, steps, scenes = colored(rng, int(rng.integers(1, 4))), [], []
    for step in range(count):
        phrase = phrase_for(things)
        if step and goes_on:
            things, phrase = next_content(rng, things, NUMBERS[step])
        elif step:
            things = colored(rng, int(rng.integers(1, 4)))
            phrase = phrase_for(things)
        steps.append(f"picture {NUMBERS[step + 1]} is of {phrase}.")
        scenes.append(in_order(rng, things))
    asked = STORY[number // len(KINDS) % len(STORY)].format(n=NUMBERS[count], steps=" ".join(steps))
    return [(asked, "\n".join(map(_told, scenes)))], scenes


_MAKERS = {"single": _single, "edit": _edit, "follow-up": _follow_up, "story": _story}
