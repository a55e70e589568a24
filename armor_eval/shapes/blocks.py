"""Balanced blocks: one question asked over images whose answers differ, so that its words alone tell nothing.

A block holds one wording (and, for multiple choice, one list of options) and one image for every answer. Whoever does
not look is right in exactly one image of each block, whatever the strategy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer.shapes.questions import Question, sample_question
from trainer.shapes.world import Scene, is_held_out


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
