"""Yes/no questions in VLMEvalKit's layouts: MME (pairs an image), HallusionBench (sets of figures) and POPE."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations

import numpy as np

from armor_eval.shapes.choice import Row
from armor_eval.shapes.truth import answer
from trainer.shapes.questions import SIDES, YES_NO_SUFFIX, plural, sample_question
from trainer.shapes.world import COLOR_NAMES, RELATIONS, SHAPES, Scene, is_held_out, sample_scene

Yes = "Yes"
No = "No"
Alternatives = tuple[str, ...]


def _shuffled(rng: np.random.Generator, entries: list) -> list:
    return [entries[int(i)] for i in rng.permutation(len(entries))]


# --- MME -------------------------------------------------------------------------------------------------------------


def _existence() -> Iterator[Alternatives]:
    for _ in range(8):
        yield tuple(f"is there a {shape} in this image?" for shape in SHAPES)


def _colors() -> Iterator[Alternatives]:
    for shape in SHAPES:
        yield tuple(f"is there a {color} {shape} in this image?" for color in COLOR_NAMES)


def _counts() -> Iterator[Alternatives]:
    for shape in SHAPES:
        yield tuple(f"is the number of {plural(shape)} {n}?" for n in range(5))


def _positions() -> Iterator[Alternatives]:
    for a, b in permutations(SHAPES, 2):
        yield tuple(f"is the {a} {relation} the {b}?" for relation in RELATIONS)


def _sides() -> Iterator[Alternatives]:
    for color in COLOR_NAMES:
        yield tuple(f"does the {color} shape have {sides} sides?" for sides in SIDES.values())


def _empties() -> Iterator[Alternatives]:
    for _ in range(4):
        yield tuple(f"is the number of empty corners {n}?" for n in range(4))


MME_CATEGORIES: dict[str, Callable[[], Iterator[Alternatives]]] = {
    "existence": _existence,
    "color": _colors,
    "count": _counts,
    "position": _positions,
    "commonsense_reasoning": _sides,
    "numerical_calculation": _empties,
}
"""MME's own category names (four of perception, two of reasoning) -> lists of questions that exclude one another."""


def _settle(rng: np.random.Generator, yes: str, no: str, used: set[Scene]) -> Scene:
    """A scene not used yet for which one question is true and the other false."""
    while True:
        scene = sample_scene(rng, training=False)
        if scene not in used and answer(scene, yes) == "yes" and answer(scene, no) == "no":
            used.add(scene)
            return scene


def mme(seed: int) -> list[Row]:
    """Rows in MME's layout: two questions an image, one yes and one no.

    Every ordered pair (true, false) of a list of alternatives is one image. A constant answer is right on half of the
    questions and on no image. The best that words alone can do is floor(k/2) ceil(k/2) of k (k - 1) images: 1/3 for
    k = 4 alternatives, 0.3 for k = 5.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for category, lists in MME_CATEGORIES.items():
        used: set[Scene] = set()
        for alternatives in lists():
            if len(used) > 60:
                used.clear()
            pairs += [(category, yes, no, _settle(rng, yes, no, used)) for yes, no in permutations(alternatives, 2)]
    rows: list[Row] = []
    for number, (category, yes, no, scene) in enumerate(_shuffled(rng, pairs)):
        both = [(yes, Yes), (no, No)]
        for text, said in _shuffled(rng, both):
            rows.append(
                {
                    "index": len(rows),
                    "image": scene,
                    "question": f"{text} {YES_NO_SUFFIX}",
                    "answer": said,
                    "category": category,
                    "image_path": f"{category}/{number:04d}.png",
                    "held_out": int(is_held_out(scene)),
                }
            )
    return rows


# --- HallusionBench --------------------------------------------------------------------------------------------------

HALLUSION_KINDS: dict[str, tuple[str, ...]] = {
    "figure": ("exists", "relation"),
    "illusion": ("same", "more"),
    "math": ("number", "has_sides"),
}
"""`l2-category` (names of HallusionBench) -> the types its questions come from."""


class _Bank:
    """Random scenes of one kind's types, with their answers to a wording worked out once."""

    def __init__(self, rng: np.random.Generator, types: tuple[str, ...], scenes_a_type: int = 700) -> None:
        made = [sample_question(rng, type, training=False) for type in types for _ in range(scenes_a_type)]
        self.scenes = list(dict.fromkeys(scene for scene, _ in made))
        self.texts = sorted({question.text for _, question in made})
        self._answers: dict[str, np.ndarray] = {}

    def answers(self, text: str) -> np.ndarray:
        """One entry a scene: 1 yes, 0 no, -1 not settled."""
        if text not in self._answers:
            code = {"yes": 1, "no": 0, None: -1}
            self._answers[text] = np.array([code[answer(scene, text)] for scene in self.scenes])
        return self._answers[text]


def _two_figures(rng: np.random.Generator, bank: _Bank, alike: bool) -> tuple[list[str], list[Scene]]:
    """Two questions and two figures with opposite answers: (yes yes, no no) if `alike`, else (yes no, no yes)."""
    while True:
        first, second = (bank.texts[int(i)] for i in rng.permutation(len(bank.texts))[:2])
        figures: list[Scene] = []
        for said in (1, 0):
            fitting = np.flatnonzero(
                (bank.answers(first) == said) & (bank.answers(second) == (said if alike else 1 - said))
            )
            if len(fitting):
                figures.append(bank.scenes[int(fitting[int(rng.integers(len(fitting)))])])
        if len(figures) == 2:
            return [first, second], figures


def hallusionbench(seed: int, sets: int = 402) -> list[Row]:
    """Rows in HallusionBench's layout: sets of two questions on two figures, each question yes on one and no on one.

    Whoever does not look has aAcc 50 and qAcc 0; fAcc 25 for a constant, at most 50 for the best assignment of words.
    """
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    kinds = list(HALLUSION_KINDS)
    banks = {kind: _Bank(rng, types) for kind, types in HALLUSION_KINDS.items()}
    for number in range(sets):
        kind = kinds[number % len(kinds)]
        texts, figures = _two_figures(rng, banks[kind], alike=bool((number // len(kinds)) % 2))
        for f, scene in enumerate(figures):
            for q, text in enumerate(texts):
                rows.append(
                    {
                        "index": f"VD_{kind}_1_{number}_{f}_{q}",
                        "image": scene,
                        "question": text,
                        "answer": Yes if answer(scene, text) == "yes" else No,
                        "category": "VD",
                        "l2-category": kind,
                        "held_out": int(is_held_out(scene)),
                    }
                )
    return rows


# --- POPE ------------------------------------------------------------------------------------------------------------

POPE_SPLITS = ("random", "popular", "adversarial")


def _near(scene: Scene, color: str, shape: str) -> int:
    """How misleading a scene is for a thing that it lacks: 0, 1 or 2 of its colour and its shape are there."""
    return int(any(t.color == color for t in scene.things)) + int(any(t.shape == shape for t in scene.things))


def pope(seed: int, repeats: int = 6) -> list[Row]:
    """Rows in POPE's layout: each thing asked about once where it is and three times where it is not.

    The yes belongs to all three splits, each no to one: `random` shares neither colour nor shape with the thing,
    `popular` one of them, `adversarial` both (on different things). So every split asks each wording half yes, half no.
    """
    rng = np.random.default_rng(seed)
    entries = []
    for color in COLOR_NAMES:
        for shape in SHAPES:
            text, used = f"is there a {color} {shape} in the image?", set[Scene]()
            for _ in range(repeats):
                for near in (None, *range(3)):
                    while True:
                        scene, _ = sample_question(rng, "exists", training=False)
                        there = answer(scene, text) == "yes"
                        if scene not in used and (
                            there if near is None else not there and _near(scene, color, shape) == near
                        ):
                            break
                    used.add(scene)
                    splits = ",".join(POPE_SPLITS) if near is None else POPE_SPLITS[near]
                    entries.append((scene, text, Yes if near is None else No, splits))
    return [
        {
            "index": number,
            "image": scene,
            "question": text,
            "answer": said,
            "category": splits,
            "held_out": int(is_held_out(scene)),
        }
        for number, (scene, text, said, splits) in enumerate(_shuffled(rng, entries))
    ]
