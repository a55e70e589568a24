"""`--judge hf:ID[@REVISION]`: a transformers model of this machine, through its own processor and chat template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from armor_eval.engine.ask import ask
from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.models.drawing import one_line
from armor_eval.models.hf import HubModel
from armor_eval.models.hf import load as load_model
from armor_eval.models.hf_first import FirstTokens
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges.base import Ask, Reading, Shown
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    import torch

TOGETHER = 16
"""Chat questions in a batch."""


class HubJudge:
    """Questions about one image share a forward pass (models.hf_first); chat answers are batched over images."""

    def __init__(self, model: HubModel, precision: str | None, model_args: Mapping[str, Any]) -> None:
        self._model = model
        self._first: FirstTokens | None = None
        self._ids: dict[tuple[str, ...], list[int]] = {}
        version = model.info.revision or model.info.fingerprint[:16]
        self.info = JudgeInfo(name=model.info.name, version=version, endpoint="local")
        image = dict(model_args) or "the processor's own"
        self.settings: dict[str, Any] = {"decoding": "greedy", "precision": precision or "by device", "image": image}
        self.facts: dict[str, Any] = {}

    def prepare(self, kind: str) -> None:
        """Load. For probabilities also how prefixes can be shared, and that the tokenizer tells answers apart."""
        self.facts = self._model.prepare()
        if kind == "vqa_prob" and self._first is None:
            self._first = self._model.first_tokens()
            self.facts["probes of an image"] = self._first.way
            self.first_ids(("Yes", "yes"))

    def first_ids(self, forms: tuple[str, ...]) -> list[int]:
        """The distinct first tokens of an accept set, in order. UserError for a tokenizer that begins every text with
        one token: all probabilities would be of that one, near 0."""
        if forms not in self._ids:
            tokenizer = self._model.tokenizer
            firsts = [tokenizer(form, add_special_tokens=False)["input_ids"][:1] for form in forms]
            other = tokenizer("No", add_special_tokens=False)["input_ids"][:1]
            special = set(tokenizer.all_special_ids)
            if any(not first or first[0] in special or first == other for first in firsts):
                raise UserError(
                    f"{self._model.info.spec}: its tokenizer begins {forms[0]!r} with a token that is no part of it",
                    "first-token probabilities would all be about 0: take another judge",
                )
            self._ids[forms] = list(dict.fromkeys(first[0] for first in firsts))
            if len(self._ids[forms]) < len(forms):
                self.facts["first tokens"] = "several forms of an answer begin with one token, which counts once"
        return self._ids[forms]

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        return [self._look(one) for one in shown]

    def _look(self, one: Shown) -> list[Reading] | Exception:
        assert self._first is not None, "prepare() comes first"
        try:
            logs_NV = self._first.logits([_question(one, ask) for ask in one.asks]).log_softmax(-1)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:  # of this image: the others go on
            return RuntimeError(one_line(error))
        return [self._reading(logs_V, ask.probe.accept) for logs_V, ask in zip(logs_NV, one.asks, strict=True)]

    def _reading(self, logs_V: torch.Tensor, accept: tuple[str, ...]) -> Reading:
        """The mass of the accept set's first tokens, and the likeliest token of all."""
        log_p = float(logs_V[self.first_ids(accept)].logsumexp(0))
        likeliest = self._model.tokenizer.decode([int(logs_V.argmax())])
        return Reading(likeliest, min(log_p, 0.0) if math.isfinite(log_p) else -math.inf)

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
    parts = [text, *one.images] if one.image_last else [*one.images, text]
    return Question(f"{one.item.id}/{one.sample}#{ask.probe.id}", parts)


def load(
    rest: str,
    profile: Profile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    **_: Any,
) -> HubJudge:
    return HubJudge(
        load_model(rest, profile, device=device, dtype=dtype, model_args=model_args), dtype, model_args or {}
    )
