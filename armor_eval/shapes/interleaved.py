"""Interleaved requests of the shapes world, and the exact comparison of what is asked, told and drawn.

    python -m armor_eval.shapes.interleaved        prints the JSON lines of the newest version

Kinds: single (one image with text), edit (an image is given and changed), follow-up (changes to images drawn in
earlier turns, which are given as a right answer has them), story (two to four images, each with its text). A record is
one of `armor_eval.tasks.modality.records` whose content says what each image must show:

    {"images": [{"things": [[color, shape, count], ...], "relation": null} | {"scene": "red circle@0"}, ...]}

A version is a seed and its wordings; its lines are frozen by the hash in `benchmarks/shapes/interleaved_v1.json`. The
words are the world's own (v1). `cluster` is the dialogue: the turns of one are resampled together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from armor_eval.base.resources import benchmarks_dir
from armor_eval.shapes.claims import agreement, claims_of, image_right, nothing_beyond, text_right
from armor_eval.shapes.editing import change
from armor_eval.shapes.modality import IMAGE, form_of
from armor_eval.shapes.sight import SceneDetector
from armor_eval.tasks.interleaved.judging import Compared, Pair
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject
from trainer.shapes.questions import describe, join
from trainer.shapes.requests import phrase_for, sample_request
from trainer.shapes.world import COLOR_NAMES, HELD_OUT, NUMBERS, SHAPES, Scene, Thing, is_held_out, pick, sample_scene

VERSION = 1
SEEDS = {1: 27_001}
"""Version -> seed."""
EACH = 100
"""Dialogues a kind."""
NAME = "shapes-interleaved"

SINGLE = (
    "draw {x} and say what is in the picture.",
    "please show me {x} with text and a picture of it.",
    "do not only draw {x}, also say what is in the picture.",
    "draw {x} without {y}, and say what is in the picture.",
    "show me an image of {x}, do not draw {y}, and describe it.",
)
"""`y` is a shape that `x` does not name."""
FRAMES = (
    "draw {edit}, and say what is in it.",
    "please show me {edit} and tell me what you draw.",
    "do not only draw {edit}, also describe it.",
    "generate {edit}, with text.",
)
EDITS = {
    "recolor": "{what} again with the {it} in {color}",
    "remove": "{what} again without the {it}",
    "add": "{what} again with a {color} {shape} at the {cell} too",
    "move": "{what} again with the {it} at the {cell}, not at the {old}",
    "swap": "{what} again with the {it} where the {other} is and the {other} where the {it} is",
}
STORY = (
    "show me {n} pictures with text. {steps}",
    "draw {n} pictures and say what is in the pictures. {steps}",
    "do not only tell me, draw {n} pictures with text. {steps}",
)


def records(version: int = VERSION) -> list[JsonObject]:
    """500 requests of 400 dialogues, 100 a kind, equal for equal versions."""
    makers = {"single": _single, "edit": _edit, "follow-up": _follow_up, "story": _story}
    found: list[JsonObject] = []
    for at, (kind, make) in enumerate(makers.items()):
        rng = np.random.default_rng([SEEDS[version], at])
        seen: set[str] = set()
        number = 0
        while number < EACH:
            try:
                turns = list(make(rng, number))
            except _NoChangeError:
                continue
            asked = json.dumps([(t["messages"], t["images"]) for t in turns])
            if asked in seen:
                continue
            seen.add(asked)
            for turn in turns:
                turns_before = len(turn["messages"]) // 2
                found.append(
                    {
                        "id": f"{kind}-{number:03d}" + (f"-{turns_before + 1}" if turns_before else ""),
                        "cluster": f"{kind}-{number:03d}",
                        "kind": kind,
                        "turns": turns_before + 1,
                        "expect": {"text": True, "image": True},
                        **turn,
                    }
                )
            number += 1
    return found


def _record(
    messages: Sequence[str], given: Sequence[Scene], wording: str, targets: list[JsonObject], held_out: bool
) -> JsonObject:
    said = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(messages)]
    return {
        "messages": said,
        "images": [str(scene) for scene in given],
        "form": form_of(wording),
        "content": {"images": targets},
        "held_out": held_out,
    }


def _single(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    request = sample_request(rng, training=False)
    other = pick(rng, [shape for shape in SHAPES if shape not in {shape for _, shape, _ in request.things}])
    wording = SINGLE[number % len(SINGLE)]
    text = wording.format(x=request.phrase, y=f"a {pick(rng, COLOR_NAMES)} {other}")
    target = {"things": [list(thing) for thing in request.things], "relation": request.relation}
    yield _record([text], [], wording, [target], not HELD_OUT.isdisjoint(request.keys))


class _NoChangeError(Exception):
    """The scene allows no change in plain words (four things alike)."""


def _changed(rng: np.random.Generator, source: Scene, number: int, what: str) -> tuple[str, str, Scene]:
    """(wording, filled, target) of a change to a scene; kinds take turns, one that the scene does not allow is passed
    over."""
    kinds = list(EDITS)
    for turn in range(len(kinds)):
        kind = kinds[(number + turn) % len(kinds)]
        made = _swapped(rng, source) if kind == "swap" else change(rng, kind, source)
        if made is not None:
            wording = FRAMES[number // len(kinds) % len(FRAMES)].replace("{edit}", EDITS[kind])
            return wording, wording.format(**made[1], what=what), made[0]
    raise _NoChangeError


def _swapped(rng: np.random.Generator, source: Scene) -> tuple[Scene, dict[str, str]] | None:
    """Two things of shapes that the scene holds once change places."""
    shapes = [thing.shape for thing in source.things]
    single = [thing for thing in source.things if shapes.count(thing.shape) == 1]
    if len(single) < 2:
        return None
    a, b = (single[int(i)] for i in rng.permutation(len(single))[:2])
    rest = [thing for thing in source.things if thing not in (a, b)]
    return Scene((*rest, a._replace(cell=b.cell), b._replace(cell=a.cell))), {"it": a.shape, "other": b.shape}


def _edit(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    source = sample_scene(rng, int(rng.integers(2, 4)), training=False)
    wording, text, target = _changed(rng, source, number, "this picture")
    yield _record([f"{IMAGE}\n{text}"], [source], wording, [{"scene": str(target)}], is_held_out(target))


def _follow_up(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    """Two turns that are asked, behind a first one that is given; half of the last ones go back to the first image."""
    first = sample_scene(rng, int(rng.integers(2, 4)), training=False)
    names = join([f"a {thing.color} {thing.shape}" for thing in first.things])
    messages = [f"draw {names} and say what is in the picture.", f"{describe(first)}.\n{IMAGE}"]
    wording, text, second = _changed(rng, first, number, "it")
    messages.append(text)
    yield _record(messages, [first], wording, [{"scene": str(second)}], is_held_out(second))
    messages.append(f"{describe(second)}.\n{IMAGE}")
    back = bool(number % 2)
    wording, text, third = _changed(
        rng, first if back else second, number + 1, "picture one" if back else "picture two"
    )
    messages.append(text)
    yield _record(messages, [first, second], wording, [{"scene": str(third)}], is_held_out(third))


def _story(rng: np.random.Generator, number: int) -> Iterator[JsonObject]:
    """Two to four images; in every second story each goes on from the one before."""
    count = 2 + number % 3
    things, told = _colored(rng, int(rng.integers(1, 4))), []
    targets = []
    for step in range(count):
        phrase = phrase_for(things)
        if step and number % 2:
            things, phrase = _next(rng, things, NUMBERS[step])
        elif step:
            things = _colored(rng, int(rng.integers(1, 4)))
            phrase = phrase_for(things)
        told.append(f"picture {NUMBERS[step + 1]} is of {phrase}.")
        targets.append({"things": [list(thing) for thing in things], "relation": None})
    wording = STORY[number // 3 % len(STORY)]
    text = wording.format(n=NUMBERS[count], steps=" ".join(told))
    yield _record([text], [], text, targets, False)


Content = tuple[tuple[str | None, str, int], ...]


def _colored(rng: np.random.Generator, count: int) -> Content:
    """Coloured things of different shapes."""
    return tuple((pick(rng, COLOR_NAMES), SHAPES[int(i)], 1) for i in rng.permutation(len(SHAPES))[:count])


def _next(rng: np.random.Generator, things: Content, before: str) -> tuple[Content, str]:
    """The next image of a story: one thing more, one less, or one in another colour."""
    at = int(rng.integers(len(things)))
    color, shape, _ = things[at]
    absent = [s for s in SHAPES if s not in {s for _, s, _ in things}]
    kind = pick(rng, ["recolor", *(["remove"] if len(things) > 1 else []), *(["add"] if absent else [])])
    if kind == "remove":
        return (*things[:at], *things[at + 1 :]), f"picture {before} without the {shape}"
    if kind == "add":
        new = (pick(rng, COLOR_NAMES), pick(rng, absent), 1)
        return (*things, new), f"picture {before} with a {new[0]} {new[1]} too"
    new = (pick(rng, [c for c in COLOR_NAMES if c != color]), shape, 1)
    return (*things[:at], new, *things[at + 1 :]), f"picture {before} with the {shape} in {new[0]}"


@lru_cache(maxsize=2)
def jsonl(version: int = VERSION) -> str:
    """The records as JSON lines, held to the declared hash of their version."""
    text = "".join(json.dumps(record) + "\n" for record in records(version))
    declared = json.loads((benchmarks_dir() / "shapes" / f"interleaved_v{version}.json").read_text(encoding="utf-8"))
    if (found := sha256_text(text)) != declared["sha256"]:
        raise UserError(
            f"the interleaved requests came out different (sha256 {found}, declared {declared['sha256']})",
            "this numpy draws another random stream",
        )
    return text


CONSTANT = Scene((Thing("red", "circle", 0),))
"""What the constant baseline tells and draws each time."""


def told(scene: Scene) -> str:
    """A text that says what a scene shows."""
    return f"{describe(scene)}."


def shuffled(text: str, seen: str) -> float:
    """F1 of a text against what an image shows, as `Compared.seen` has it."""
    things = [Scene.parse(one).things[0] for one in seen.split("; ")] if "@" in seen else []
    return agreement(claims_of(text), things).f1


class SceneComparer:
    """Claims of the text (armor_eval.shapes.claims) and things that the embedded detector sees."""

    def __init__(self, device: str = "cpu") -> None:
        self._sight = SceneDetector(device)
        self._sight.self_check()
        self.info: JsonObject = {**self._sight.settings, "claims": "1"}

    def compare(self, pairs: Sequence[Pair]) -> list[Compared]:
        """Detects all images at once."""
        shown = {at: pair.image for at, pair in enumerate(pairs) if pair.image is not None}
        things = dict(zip(shown, self._sight.things(list(shown.values())), strict=True))
        return [compared(pair.text, things.get(at), pair.target) for at, pair in enumerate(pairs)]


@lru_cache(maxsize=1)
def comparer() -> SceneComparer:
    """The comparer, loaded once: a run and its baselines share it."""
    return SceneComparer()


def compared(text: str, things: Sequence[Thing] | None, target: JsonObject | None) -> Compared:
    """One text and the things of one image (None: no image) against a target (None: nothing more was asked for)."""
    told, seen = claims_of(text), list(things or ())
    both = agreement(told, seen)
    return Compared(
        text_right=target is not None and text_right(told, target),
        image_right=target is not None and image_right(seen, target),
        agreement=both.f1,
        agrees=both.exact,
        nothing_beyond=target is not None and nothing_beyond(told, seen, target),
        claims=len(told),
        seen="no image" if things is None else "; ".join(f"{t.color} {t.shape}@{t.cell}" for t in seen) or "nothing",
    )


if __name__ == "__main__":
    print(jsonl(), end="")
