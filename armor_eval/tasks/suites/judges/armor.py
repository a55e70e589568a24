"""`--judge armor:FOLDER`: an ARMOR checkpoint as judge, of its own drawings too.

Shape legend: N questions, T tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.models.base import Decoding, Question
from armor_eval.models.drawing import one_line
from armor_eval.profiles import BUNDLED
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Reading, Shown, first_ids, reading_of
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.models.armor import ArmorAdapter


class ArmorJudge:
    """All questions about an image in one batch, the image encoded once."""

    def __init__(self, model: ArmorAdapter) -> None:
        self._model = model
        version = (model.info.fingerprint or "")[:16]
        self.info = JudgeInfo(name=model.info.name, version=version, endpoint="local")
        self.settings: JsonObject = {"decoding": "greedy", "precision": model.info.dtype or "by device"}
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        tokenizer = self._model.tokenizer
        if kind == "vqa_prob":
            first_ids(tokenizer, ("Yes", "yes"), self._model.info.spec)
            self.facts["probes of an image"] = "one padded batch, the image encoded once"

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        return [self._look(one) for one in shown]

    def _look(self, one: Shown) -> list[Reading] | Exception:
        tokenizer = self._model.tokenizer

        def word(token: int) -> str:
            return str(tokenizer.decode([token])) if token < len(tokenizer) else "<imgbos>"

        try:
            logits_NV = self._model.first_logits(_questions(one))
            return [
                reading_of(logits_V, first_ids(tokenizer, ask.probe.accept, self._model.info.spec), word)
                for logits_V, ask in zip(logits_NV, one.asks, strict=True)
            ]
        except (RuntimeError, ValueError) as error:  # of this image: the others go on
            return RuntimeError(one_line(error))

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        decoding = Decoding(max_new_tokens=max_new_tokens, mask_imgbos=True)
        found: list[list[Reading] | Exception] = []
        for one in shown:
            got = self._model.answer(_questions(one), decoding)
            failed = next((answer.error for answer in got if answer.error is not None), None)
            found.append([Reading(a.text, extras=a.extras) for a in got] if failed is None else RuntimeError(failed))
        return found

    def close(self) -> None:
        self._model.close()


def _questions(one: Shown) -> list[Question]:
    parts = list(one.images)
    return [
        Question(f"{one.item.id}/{one.sample}#{ask.probe.id}", [*parts, *filter(None, [ask.system]), ask.text])
        for ask in one.asks
    ]


def load(
    rest: str, profile: Profile, *, device: str | None = None, dtype: str | None = None, **_: object
) -> ArmorJudge:
    from armor_eval.models.armor import load_bundled, load_folder

    if rest in ("", BUNDLED):
        return ArmorJudge(load_bundled(BUNDLED, device=device, dtype=dtype))
    return ArmorJudge(load_folder(Path(rest).expanduser(), f"armor:{rest}", profile, device=device, dtype=dtype))
