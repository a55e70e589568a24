"""`shapes-rules-v1`: the local judge of free-text answers in the shapes profile. Rules, no model; the same every time.

It replies in the form that VLMEvalKit asks of a judge: for MM-Vet a bare number 0..1, for LLaVA-Bench two marks 1..10
(reference, answer). Every run names it as rules, never as a language model's judgement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from armor_eval.runs.schema import JudgeInfo
from armor_eval.shapes.truth import answer as true_answer
from armor_eval.shapes.truth import scene_said, things_said
from armor_eval.tasks.understanding.judge import Judged, Request
from trainer.shapes.questions import plural
from trainer.shapes.world import CELL_NAMES, COLOR_NAMES, NUMBERS, SHAPES

NAME = "shapes-rules-v1"
VERSION = "1"

_FORMS: dict[str, dict[str, str]] = {
    "color": {color: color for color in COLOR_NAMES},
    "shape": {"nothing": "nothing"} | {s: s for s in SHAPES} | {plural(s): s for s in SHAPES},
    "number": {word: str(n) for n, word in enumerate(NUMBERS)} | {str(n): str(n) for n in range(21)},
    "cell": {name: name for name in CELL_NAMES},
    "yes-no": {"yes": "yes", "no": "no"},
}
"""Kind of answer -> how it may be written -> which answer it is."""


def _said(kind: str, text: str) -> set[str]:
    """The answers of a kind that stand in a text, as whole words."""
    forms = _FORMS[kind]
    longest_first = sorted(forms, key=len, reverse=True)
    return {forms[m] for m in re.findall(rf"\b(?:{'|'.join(longest_first)})\b", text.lower())}


def _kind(gold: str) -> str | None:
    return next((kind for kind, forms in _FORMS.items() if gold in forms), None)


def short_mark(question: str, gold: str, said: str) -> float:
    """1.0 if the answer names the gold and nothing else of its kind; words that the question itself holds are free."""
    kind = _kind(gold)
    if kind is None:
        raise ValueError(f"{gold!r} is no answer of the shapes world")
    return float(_said(kind, said) - (_said(kind, question) - {gold}) == {gold})


def description_mark(gold: list[tuple[str, str, str | None]], said: str) -> float:
    """Things told right (colour, shape and place) minus things told wrong, as a share of the gold's, 0..1 in tenths."""
    told = set(things_said(said))
    right = len(told & set(gold))
    return round(max(0.0, (right - len(told - set(gold))) / len(gold)), 1)


def mmvet_mark(question: str, gold: str, said: str) -> float:
    """MM-Vet's correctness, 0..1; raises ValueError on a gold that is not of this world."""
    facts = [fact.strip() for fact in gold.split("<AND>")]
    things = [thing for fact in facts for thing in things_said(fact)]
    if things:
        return description_mark(things, said)
    return short_mark(question, facts[0], said)


def llava_mark(caption: str, question: str, said: str) -> int:
    """LLaVA-Bench's mark, 1..10, of one answer to a question about the scene that the caption tells."""
    scene = scene_said(caption)
    try:
        gold = true_answer(scene, question)
    except ValueError:  # no question with a short answer: a description is asked for
        return 1 + round(9 * description_mark(things_said(caption), said))
    if gold is None:
        raise ValueError(f"the scene does not settle {question!r}: {caption!r}")
    return 1 + round(9 * short_mark(question, gold, said))


class ShapesRules:
    """The judge as VLMEvalKit calls one: `generate(prompt)` on its own judge prompts."""

    name = NAME
    version = VERSION

    def working(self) -> bool:
        return True

    def generate(self, prompt: str, **settings: object) -> str:
        """The verdict in the form that VLMEvalKit parses. Raises ValueError on what is not of the shapes world."""
        if prompt.startswith("[Context]\n"):
            return self._llava(prompt)
        if "Correctness\n--- | --- | --- | ---" in prompt:
            return self._mmvet(prompt)
        raise ValueError(f"{NAME} judges MM-Vet and LLaVA-Bench prompts only, not {prompt[:60]!r}")

    @staticmethod
    def _mmvet(prompt: str) -> str:
        # Behind the last example stands `question | gold | prediction | `; a prediction may hold bars itself.
        _, _, asked = prompt.partition("actual physical characteristics. | 1.0\n")
        parts = asked.strip("\n").split(" | ", 2)
        if len(parts) != 3:
            raise ValueError(f"{NAME} cannot find the question in MM-Vet's prompt")
        question, gold, said = parts
        return f"{mmvet_mark(question.strip(), gold, said.removesuffix(' | ')):.1f}"

    @staticmethod
    def _llava(prompt: str) -> str:
        caption, rest = prompt.removeprefix("[Context]\n").split("\n\n[Question]\n", 1)
        question, rest = rest.split("\n\n[Assistant 1]\n", 1)
        reference, rest = rest.split("\n\n[End of Assistant 1]\n\n[Assistant 2]\n", 1)
        said = rest.rsplit("\n\n[End of Assistant 2]", 1)[0]
        return f"{llava_mark(caption, question, reference)} {llava_mark(caption, question, said)}"


class RuleJudge:
    """The rules as a judge of free-text answers: exact, named as such, never an official number."""

    def __init__(self) -> None:
        self._rules = ShapesRules()
        self.info = JudgeInfo(name=NAME, endpoint="rules")

    def judge(self, requests: Sequence[Request], done: Callable[[int], None] | None = None) -> Judged:
        judged = Judged()
        for request in requests:
            try:
                reply = self._rules.generate(request.prompt)
            except ValueError as error:  # a row that is not of the shapes world
                judged.failed[request.id] = f"judge: {error}"
                continue
            judged.replies[request.prompt] = judged.usable[request.id] = judged.raw[request.id] = reply
        return judged

    def close(self) -> None:
        """Nothing is held."""
