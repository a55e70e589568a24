"""Multiple choice in VLMEvalKit's layouts: MMBench (with its circular rotations), SEED-Bench and MMMU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from armor_model.base.jsons import JsonObject
from trainer.shapes.conversations import chat_hint
from trainer.shapes.questions import LETTERS, Question, sample_question
from trainer.shapes.world import Scene, is_held_out

T = TypeVar("T")

Row = JsonObject
"""A TSV line; `image` holds a Scene, or an int: the index of the row whose image it shares."""

CHOICE_TYPES: dict[str, str] = {
    "color": "perception",
    "shape": "perception",
    "location": "perception",
    "at": "perception",
    "count_shape": "counting",
    "count_color": "counting",
    "count_all": "counting",
    "beside": "relation",
    "sides": "reasoning",
    "empty": "reasoning",
}
"""Question type -> group of types (MMBench's and MMMU's `l2-category`)."""
ROTATION = 1_000_000
"""MMBench numbers the k-th rotation of group i as k * 1e6 + i."""


def choice_blocks(seed: int, blocks: int) -> list[list[tuple[Asked, tuple[str, ...]]]]:
    """`blocks` blocks of every type, each 3 or 4 images with one wording and one list of options, shuffled."""
    rng = np.random.default_rng(seed)
    pool = Pool(rng)
    found = []
    for type in CHOICE_TYPES:
        for _ in range(blocks):
            question = pool.text(type)
            options = choice_options(rng, question)
            found.append([(asked, options) for asked in pool.block(type, options, question.text)])
    return [found[int(i)] for i in rng.permutation(len(found))]


def _spread(rng: np.random.Generator, blocks: list[list[T]]) -> list[T]:
    """All entries in random order, so that a block's images do not stand side by side."""
    flat = [entry for block in blocks for entry in block]
    return [flat[int(i)] for i in rng.permutation(len(flat))]


def _options(options: tuple[str, ...]) -> Row:
    return {letter: options[i] if i < len(options) else None for i, letter in enumerate(LETTERS)}


def mmbench(seed: int, split: str, blocks: int = 11, answers: bool = True) -> list[Row]:
    """Rows in MMBench's layout: every question once for each rotation of its options, images by reference."""
    rng = np.random.default_rng([seed, 1])
    entries = []
    for block in choice_blocks(seed, blocks):
        hint = chat_hint(rng) if rng.random() < 0.15 else None
        entries += [(asked, options, hint) for asked, options in block]
    entries = [entries[int(i)] for i in rng.permutation(len(entries))]
    rows: list[Row] = []
    for turn in range(len(LETTERS)):
        for number, (asked, options, hint) in enumerate(entries):
            if turn >= len(options):
                continue
            turned = options[turn:] + options[:turn]
            row = {
                "index": turn * ROTATION + number,
                "image": number if turn else asked.scene,
                "question": asked.question.text,
                "hint": hint,
                **_options(turned),
                "answer": LETTERS[turned.index(asked.question.answer)],
                "category": asked.question.type,
                "l2-category": CHOICE_TYPES[asked.question.type],
                "split": split,
                "held_out": asked.held_out,
            }
            if not answers:
                del row["answer"]
            rows.append(row)
    return rows


def seedbench(seed: int, blocks: int = 11) -> list[Row]:
    """Rows in SEED-Bench's layout: four options, asked once."""
    rng = np.random.default_rng([seed, 1])
    return [
        {
            "index": number,
            "image": asked.scene,
            "question": asked.question.text,
            **_options(options),
            "answer": LETTERS[options.index(asked.question.answer)],
            "category": asked.question.type,
            "held_out": asked.held_out,
        }
        for number, (asked, options) in enumerate(_spread(rng, choice_blocks(seed, blocks)))
    ]


def mmmu(seed: int, blocks: int = 11, dev_blocks: int = 1) -> list[Row]:
    """Rows in MMMU's layout: a validation split, which counts, and a dev split, which does not, with open questions.

    VLMEvalKit scores an open question as "A. the answer, B. Other Answers": a constant "A" is right on all of them. So
    none stands among those that count. Some wordings name their image as `<image 1>`.
    """
    rng = np.random.default_rng([seed, 1])
    rows: list[Row] = []
    for split, count, offset in (("validation", blocks, 0), ("dev", dev_blocks, 1)):
        entries = []
        for block in choice_blocks(seed + offset, count):
            open_ended = split == "dev" and rng.random() < 0.5
            marked = rng.random() < 0.25
            entries += [(asked, options, open_ended, marked) for asked, options in block]
        for i in rng.permutation(len(entries)):
            asked, options, open_ended, marked = entries[int(i)]
            letter = LETTERS[options.index(asked.question.answer)]
            number = len(rows)
            rows.append(
                {
                    "index": number,
                    "image": asked.scene,
                    "question": f"<image 1> {asked.question.text}" if marked else asked.question.text,
                    **(_options(()) if open_ended else _options(options)),
                    "answer": asked.question.answer if open_ended else letter,
                    "category": asked.question.type,
                    "l2-category": CHOICE_TYPES[asked.question.type],
                    "split": split,
                    "image_path": f"{split}_{number}.png",
                    "held_out": asked.held_out,
                }
            )
    return rows


# --- balanced blocks: one question over images whose answers differ, so that its words alone tell nothing ------------
# A block holds one wording (and, for multiple choice, one list of options) and one image for every answer. Whoever does
# not look is right in exactly one image of each block, whatever the strategy.


@dataclass(frozen=True)
class Asked:
    """One image, one question, its answer."""

    scene: Scene
    question: Question

    @property
    def held_out(self) -> int:
        """1 where training never shows this image: a column of our own that official tools ignore."""
        return int(is_held_out(self.scene))


class Pool:
    """Scenes by question wording and answer, filled as they are needed; no scene is given twice for one wording."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._waiting: dict[tuple[str, str], list[Asked]] = defaultdict(list)
        self._given: dict[str, set[Scene]] = defaultdict(set)

    def text(self, type: str, skip: Sequence[str] = ()) -> Question:
        """A wording of a type, drawn as training draws it (`skip`: wordings not wanted)."""
        while True:
            _, question = sample_question(self.rng, type, training=False)
            if question.text not in skip:
                return question

    def take(self, type: str, text: str, answer: str) -> Asked:
        """A scene for which this wording has this answer."""
        waiting = self._waiting[text, answer]
        for _ in range(200_000):
            while waiting:
                asked = waiting.pop()
                if asked.scene not in self._given[text]:
                    self._given[text].add(asked.scene)
                    return asked
            scene, question = sample_question(self.rng, type, training=False)
            self._waiting[question.text, question.answer].append(Asked(scene, question))
        raise ValueError(f"no further scene has the answer {answer!r} to {text!r}")

    def block(self, type: str, answers: Sequence[str], text: str) -> list[Asked]:
        """One image for each of the answers."""
        return [self.take(type, text, answer) for answer in answers]


def choice_options(rng: np.random.Generator, question: Question, count: int = 4) -> tuple[str, ...]:
    """`count` of a question's possible answers (all, where there are fewer), in random order."""
    order = rng.permutation(len(question.choices))[:count]
    return tuple(question.choices[int(i)] for i in order)
