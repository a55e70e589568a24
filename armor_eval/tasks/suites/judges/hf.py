"""`--judge hf:ID[@REVISION]`: a transformers model of this machine, through its own processor and chat template."""

from __future__ import annotations

from collections.abc import Sequence

from armor_eval.engine.ask import ask
from armor_eval.models.base import Answer, Decoding, Part, Question
from armor_eval.models.drawing import one_line
from armor_eval.models.hf import HubModel
from armor_eval.models.hf import load as load_model
from armor_eval.models.hf_first import FirstTokens
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Ask, Reading, Shown, first_ids, reading_of
from armor_model.base.jsons import JsonObject, JsonView

TOGETHER = 16
"""Chat questions in a batch."""


class HubJudge:
    """Questions about one image share a forward pass (models.hf_first); chat answers are batched over images."""

    def __init__(self, model: HubModel, precision: str | None, model_args: JsonView) -> None:
        self._model = model
        model.tiles_by_benchmark = False
        self._first: FirstTokens | None = None
        self._ids: dict[tuple[str, ...], list[int]] = {}
        version = model.info.revision or model.info.fingerprint[:16]
        self.info = JudgeInfo(name=model.info.name, version=version, endpoint="local")
        image = dict(model_args) or "the processor's own"
        self.settings: JsonObject = {"decoding": "greedy", "precision": precision or "by device", "image": image}
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        """Load. For probabilities also how prefixes can be shared, and that the tokenizer tells answers apart."""
        self.facts = self._model.prepare()
        if kind == "vqa_prob" and self._first is None:
            self._first = self._model.first_tokens()
            self.facts["probes of an image"] = self._first.way
            self._first_ids(("Yes", "yes"))

    def _first_ids(self, forms: tuple[str, ...]) -> list[int]:
        if forms not in self._ids:
            self._ids[forms] = first_ids(self._model.tokenizer, forms, self._model.info.spec)
            if len(self._ids[forms]) < len(forms):
                self.facts["first tokens"] = "several forms of an answer begin with one token, which counts once"
        return self._ids[forms]

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        return [self._look(one) for one in shown]

    def _look(self, one: Shown) -> list[Reading] | Exception:
        assert self._first is not None, "prepare() comes first"
        try:
            logits_NV = self._first.logits([_question(one, ask) for ask in one.asks])
            self.facts["probes of an image"] = self._first.way
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # of this image: the others go on
            return RuntimeError(one_line(error))
        text_of = self._model.tokenizer.decode
        return [
            reading_of(logits_V, self._first_ids(ask.probe.accept), text_of)
            for logits_V, ask in zip(logits_NV, one.asks, strict=True)
        ]

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        flat = [(at, _question(one, ask)) for at, one in enumerate(shown) for ask in one.asks]
        decoding = Decoding(max_new_tokens=max_new_tokens)
        found: list[list[Reading] | Exception] = [[] for _ in shown]
        for start in range(0, len(flat), TOGETHER):
            batch = flat[start : start + TOGETHER]
            for (at, _), answer in zip(batch, ask(self._model, [q for _, q in batch], decoding), strict=True):
                found[at] = _with(found[at], answer)
        return found

    def close(self) -> None:
        self._first = None
        self._model.close()


def _with(readings: list[Reading] | Exception, answer: Answer | Exception) -> list[Reading] | Exception:
    if isinstance(readings, Exception):
        return readings
    if isinstance(answer, Exception) or answer.error:
        return RuntimeError(answer.error if isinstance(answer, Answer) else one_line(answer))
    return [*readings, Reading(answer.text, extras=answer.extras)]


def _question(one: Shown, ask: Ask) -> Question:
    """A system text goes before the text, for not every template has a place for one."""
    text = f"{ask.system}\n\n{ask.text}" if ask.system else ask.text
    parts: list[Part] = [text, *one.images] if one.image_last else [*one.images, text]
    return Question(f"{one.item.id}/{one.sample}#{ask.probe.id}", parts)


def load(
    rest: str,
    profile: Profile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    model_args: JsonView | None = None,
    **_: object,
) -> HubJudge:
    return HubJudge(
        load_model(rest, profile, device=device, dtype=dtype, model_args=model_args), dtype, model_args or {}
    )
