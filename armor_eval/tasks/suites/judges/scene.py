"""`--judge scene`: the embedded world's exact judge: it reads the scene that an image shows, and knows the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from armor_eval.profiles import profile_of
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Reading, Shown
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

Answers = Callable[[object, list[str]], list[str]]
"""(image, questions) -> an answer each. ValueError for a question that is not of this world."""


class SceneJudge:
    """Rules, no model: a probability is 0 or 1."""

    def __init__(self, name: str, answers: Answers) -> None:
        self.info = JudgeInfo(name=name, version="1", endpoint="rules")
        self.settings: JsonObject = {}
        self.facts: JsonObject = {}
        self._answers = answers

    def prepare(self, kind: str) -> None:
        if kind not in ("vqa_prob", "vqa_text"):
            raise UserError(
                f"--judge scene answers questions, it gives no {kind}", "take --judge hf:ID or replies:FILE"
            )

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        return [self._look(one) for one in shown]

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        return self.probabilities(shown)

    def _look(self, one: Shown) -> list[Reading] | Exception:
        try:
            found = self._answers(one.images[-1], [ask.probe.text for ask in one.asks])
        except ValueError as error:
            return error
        return [
            Reading(answer, 0.0 if answer in ask.probe.accept else -math.inf)
            for ask, answer in zip(one.asks, found, strict=True)
        ]

    def close(self) -> None: ...


def load(rest: str, profile: Profile, **_: object) -> SceneJudge:
    """UserError where the suite is of no embedded world."""
    spec = profile_of(profile)
    if rest or spec.guest is None:
        raise UserError(
            "--judge scene is for suites of the embedded world", "take --suite shapes-vqa, or --judge hf:ID"
        )
    world = spec.part("vqa")
    return SceneJudge(world.NAME, world.answers)
