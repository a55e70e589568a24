"""`shapes-vqa`, a twin of GenEval 2: prompts with questions made from known scenes, and the judge that reads the scene.

    python -m armor_eval.shapes.vqa        prints the JSON lines of benchmarks/shapes/vqa_v1.jsonl

A line has GenEval 2's fields (prompt, atom_count, vqa_list, skills). `held_out` is ours: the prompt names a combination
that training never shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.shapes.truth import answer as true_answer
from armor_model.base.jsons import JsonObject
from trainer.shapes.evaluation import read_images
from trainer.shapes.questions import plural
from trainer.shapes.requests import fulfil, keys_for, phrase_for
from trainer.shapes.world import CELLS, COLOR_NAMES, HELD_OUT, NUMBERS, RELATIONS, SHAPES, pick

if TYPE_CHECKING:
    from PIL import Image

Things = tuple[tuple[str | None, str, int], ...]
Probe = tuple[str, str, str]
"""(question, answer, skill)"""

NAME = "shapes-scene"
SEED = 20_911
PER_LEVEL = 24
"""Prompts an atomicity at most: half of them held out where the level has combinations that training leaves out (of
two and three atoms it has 9 and 10)."""
LEVELS: dict[int, tuple[str, ...]] = {
    2: ("colors", "two_object", "counting"),
    3: ("position", "count_and_one"),
    4: ("color_attr", "two_counts"),
    5: ("color_position",),
    6: ("three_colored",),
}
"""Atoms -> the kinds of prompt that hold so many."""


def _things(rng: np.random.Generator, kind: str) -> tuple[Things, str | None]:
    """What a prompt of a kind names, and the relation of its first thing to its second."""
    a, b, c = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:3])
    u, v, w = (COLOR_NAMES[int(i)] for i in rng.permutation(len(COLOR_NAMES))[:3])
    relation = pick(rng, RELATIONS)
    many = int(rng.integers(2, CELLS))
    made: dict[str, tuple[Things, str | None]] = {
        "colors": (((u, a, 1),), None),
        "two_object": (((None, a, 1), (None, b, 1)), None),
        "counting": (((None, a, int(rng.integers(2, CELLS + 1))),), None),
        "position": (((None, a, 1), (None, b, 1)), relation),
        "count_and_one": (((None, a, many), (None, b, 1)), None),
        "color_attr": (((u, a, 1), (v, b, 1)), None),
        "two_counts": (((None, a, 2), (None, b, 2)), None),
        "color_position": (((u, a, 1), (v, b, 1)), relation),
        "three_colored": (((u, a, 1), (v, b, 1), (w, c, 1)), None),
    }
    return made[kind]


def probes_of(things: Things, relation: str | None) -> Iterator[Probe]:
    """One question an atom: is it there, how many, of which colour, where."""
    for color, shape, count in things:
        yield f"is there a {shape} in the picture?", "yes", "object"
        if count > 1:
            yield f"how many {plural(shape)} are there?", NUMBERS[count], "count"
        if color:
            yield f"is there a {color} {shape} in the picture?", "yes", "attribute"
    if relation:
        yield f"is the {things[0][1]} {relation} the {things[1][1]}?", "yes", "position"


def records() -> list[JsonObject]:
    """The prompts, by rising atomicity, without a repeated one."""
    rng = np.random.default_rng(SEED)
    found: dict[str, JsonObject] = {}
    for atoms, kinds in LEVELS.items():
        rows: list[JsonObject] = []
        seen_wanted = PER_LEVEL // 2 if any(k in ("colors", "position", "color_attr") for k in kinds) else PER_LEVEL
        for tries in range(10_000):
            if len(rows) == PER_LEVEL:
                break
            row = _record(rng, kinds[tries % len(kinds)])
            wanted = seen_wanted if not row["held_out"] else PER_LEVEL - seen_wanted
            same = sum(other["held_out"] == row["held_out"] for other in rows)
            if row["prompt"] not in found and same < wanted:
                assert row["atom_count"] == atoms
                found[row["prompt"]] = row
                rows.append(row)
    return list(found.values())


def _record(rng: np.random.Generator, kind: str) -> JsonObject:
    things, relation = _things(rng, kind)
    probes = list(probes_of(things, relation))
    return {
        "prompt": f"a photo of {phrase_for(things, relation)}",
        "atom_count": len(probes),
        "vqa_list": [[question, answer] for question, answer, _ in probes],
        "skills": [skill for _, _, skill in probes],
        "held_out": not HELD_OUT.isdisjoint(keys_for(things, relation)),
        "scene": str(fulfil(rng, things, relation)),
    }


def answers(image: Image.Image, questions: list[str]) -> list[str]:
    """What the image's scene answers, in the words of the world; `nothing readable` where it shows no scene, and
    `unsettled` where the scene leaves a question open (two circles: which one?)."""
    scene = read_images([image])[0]
    if scene is None:
        return ["nothing readable"] * len(questions)
    return [true_answer(scene, question) or "unsettled" for question in questions]


def jsonl() -> str:
    """The records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records())


if __name__ == "__main__":
    print(jsonl(), end="")
