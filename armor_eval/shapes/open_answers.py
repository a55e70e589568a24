"""Free-text answers in VLMEvalKit's layouts: MM-Vet (six capabilities) and LLaVA-Bench (reference answers)."""

from __future__ import annotations

import numpy as np

from armor_eval.shapes.choice import Asked, Pool, Row, choice_options
from trainer.shapes.language import long_answer
from trainer.shapes.questions import Question, describe, join
from trainer.shapes.world import CELL_NAMES, Scene, is_held_out, sample_scene

AND = "<AND>"
DESCRIBE = (
    "describe this picture.",
    "describe the image.",
    "what is in this picture?",
    "what can you see in the picture?",
)

MMVET_CAPABILITIES: dict[str, str] = {
    "color": "rec",
    "shape": "rec",
    "location": "rec,spat",
    "beside": "rec,spat",
    "at": "ocr,spat",
    "count_shape": "rec,math",
    "empty": "spat,math",
    "sides": "rec,know",
}
"""Question type -> MM-Vet's capabilities. The world has no letters: `ocr` is reading what stands at a given place."""


def _things(scene: Scene) -> list[str]:
    return [f"a {thing.color} {thing.shape} at the {CELL_NAMES[thing.cell]}" for thing in scene.things]


def _blocks(rng: np.random.Generator, types: list[str], blocks: int) -> list[Asked]:
    pool = Pool(rng)
    found: list[Asked] = []
    for type in types:
        for _ in range(blocks):
            question = pool.text(type)
            found += pool.block(type, choice_options(rng, question), question.text)
    return found


def _descriptions(rng: np.random.Generator, count: int) -> list[tuple[Scene, str]]:
    """Distinct scenes, as many of each size as of another, each with a way to ask for a description."""
    scenes: dict[Scene, str] = {}
    while len(scenes) < count:
        scene = sample_scene(rng, 1 + len(scenes) % 4, training=False)
        scenes.setdefault(scene, DESCRIBE[len(scenes) % len(DESCRIBE)])
    return list(scenes.items())


def mmvet(seed: int, blocks: int = 11, descriptions: int = 64) -> list[Row]:
    """Rows in MM-Vet's layout: short answers in balanced blocks, and descriptions whose gold is a list of facts."""
    rng = np.random.default_rng(seed)
    entries = [
        (asked.scene, asked.question.text, asked.question.answer, MMVET_CAPABILITIES[asked.question.type])
        for asked in _blocks(rng, list(MMVET_CAPABILITIES), blocks)
    ]
    entries += [
        (scene, text, AND.join(_things(scene)), "rec,gen,spat") for scene, text in _descriptions(rng, descriptions)
    ]
    return [
        {
            "index": number,
            "image": entries[int(i)][0],
            "question": entries[int(i)][1],
            "answer": entries[int(i)][2],
            "category": entries[int(i)][3],
            "held_out": int(is_held_out(entries[int(i)][0])),
        }
        for number, i in enumerate(rng.permutation(len(entries)))
    ]


LLAVA_CATEGORIES: dict[str, tuple[str, ...]] = {
    "conv": ("color", "shape", "count_shape", "location", "at"),
    "complex": ("beside", "sides", "empty", "relation", "more"),
}
"""LLaVA-Bench's category -> question types; `detail` asks for descriptions."""


def llavabench(seed: int, blocks: int = 8, descriptions: int = 120) -> list[Row]:
    """Rows in LLaVA-Bench's layout: `caption` tells the whole scene, `gpt4_ans` is the true answer as a sentence."""
    rng = np.random.default_rng(seed)
    entries: list[tuple[Scene, str, str, str]] = []
    for category, types in LLAVA_CATEGORIES.items():
        for asked in _blocks(rng, list(types), blocks):
            question: Question = asked.question
            entries.append((asked.scene, question.text, long_answer(question), category))
    entries += [(scene, text, describe(scene) + ".", "detail") for scene, text in _descriptions(rng, descriptions)]
    rows = []
    for number, i in enumerate(rng.permutation(len(entries))):
        scene, text, reference, category = entries[int(i)]
        rows.append(
            {
                "index": number,
                "image": scene,
                "question": text,
                "answer": reference,
                "category": category,
                "caption": join(_things(scene)) + ".",
                "gpt4_ans": reference,
                "held_out": int(is_held_out(scene)),
            }
        )
    return rows
