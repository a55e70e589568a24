"""GenEval's six tasks in the shapes world: prompts in the official record form, held-out combinations marked.

    python -m armor_eval.shapes.geneval        prints the JSON lines

A record has the official fields (tag, include, exclude, prompt); `held_out` is ours, and official tools ignore it.
"""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.requests import TASKS, keys_for, phrase_for
from trainer.shapes.world import COLOR_NAMES, HELD_OUT, RELATIONS, SHAPES, attr_key

Things = tuple[tuple[str | None, str, int], ...]

SEED = 20_901
COLOR_ATTR_SEEN = 24
"""Colour attributions that training does show, beside the 24 that it does not."""


def _record(tag: str, things: Things, relation: str | None = None) -> JsonObject:
    include: list[JsonObject] = []
    # A position prompt names the placed thing first; its record lists the target first, as the official file does.
    for color, shape, count in reversed(things) if relation else things:
        include.append({"class": shape, "count": count} | ({"color": color} if color else {}))
    if relation:
        include[1]["position"] = [relation, 0]
    record: JsonObject = {"tag": tag, "include": include}
    if tag == "counting":
        record["exclude"] = [{"class": things[0][1], "count": things[0][2] + 1}]
    record["prompt"] = f"a photo of {phrase_for(things, relation)}"
    record["held_out"] = not HELD_OUT.isdisjoint(keys_for(things, relation))
    return record


def _color_attributions() -> list[Things]:
    """Every held-out attribution and as many seen ones, each in one of its two orders, drawn by SEED."""
    rng = np.random.default_rng(SEED)
    held: list[Things] = []
    seen: list[Things] = []
    for a, b in permutations(SHAPES, 2):
        if SHAPES.index(a) > SHAPES.index(b):
            continue
        for c, d in permutations(COLOR_NAMES, 2):
            both = ((c, a, 1), (d, b, 1))
            things = both if rng.random() < 0.5 else both[::-1]
            (held if attr_key((c, a), (d, b)) in HELD_OUT else seen).append(things)
    chosen = sorted(int(i) for i in rng.permutation(len(seen))[:COLOR_ATTR_SEEN])
    return held + [seen[i] for i in chosen]


def records() -> list[JsonObject]:
    """The 144 prompts: 4 single, 12 two-object, 12 counting, 20 colours, 48 position, 48 colour attribution."""
    found = [_record(TASKS[0], ((None, shape, 1),)) for shape in SHAPES]
    found += [_record(TASKS[1], ((None, a, 1), (None, b, 1))) for a, b in permutations(SHAPES, 2)]
    found += [_record(TASKS[2], ((None, shape, n),)) for n in (2, 3, 4) for shape in SHAPES]
    found += [_record(TASKS[3], ((color, shape, 1),)) for color in COLOR_NAMES for shape in SHAPES]
    found += [
        _record(TASKS[4], ((None, a, 1), (None, b, 1)), relation)
        for a, b in permutations(SHAPES, 2)
        for relation in RELATIONS
    ]
    return found + [_record(TASKS[5], things) for things in _color_attributions()]


def jsonl() -> str:
    """The records as JSON lines, in the official file's form."""
    return "".join(json.dumps(record) + "\n" for record in records())


if __name__ == "__main__":
    print(jsonl(), end="")
