"""Asks a model for a batch of outputs; where a batch fails its requests are asked singly: only the culprit is lost."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from armor_eval.engine.task import Conversation, Prompt, Ready, Request
from armor_eval.errors import ArmorEvalError
from armor_eval.models.base import AnswersQuestions, Decoding, DrawsImages, Question, RespondsFreely

log = logging.getLogger(__name__)

ABILITIES = {Question: AnswersQuestions, Prompt: DrawsImages, Conversation: RespondsFreely}
"""The protocol that a model needs for each kind of request."""


def ask(model: Any, requests: Sequence[Request | Exception], decoding: Decoding) -> list[Any]:
    """One output a request, in order; an exception stands for a unit that has none."""
    outputs: list[Any] = [r.output if isinstance(r, Ready) else r for r in requests]
    for kind, one_kind in ((Question, _answer), (Prompt, _draw), (Conversation, _respond)):
        places = [at for at, request in enumerate(requests) if isinstance(request, kind)]
        if places:
            asked = [requests[at] for at in places]
            for at, output in zip(places, _each(one_kind, model, asked, decoding), strict=True):
                outputs[at] = output
    return outputs


def _each(one_kind: Any, model: Any, requests: list[Any], decoding: Decoding) -> list[Any]:
    try:
        outputs = list(one_kind(model, requests, decoding))
        if len(outputs) != len(requests):
            raise RuntimeError(f"{len(outputs)} outputs for {len(requests)} requests")
        return outputs
    except ArmorEvalError:
        raise  # the run cannot go on: a wrong key, an endpoint that is gone
    except Exception as error:
        if len(requests) == 1:
            return [error]
        log.warning("a batch of %d failed (%s); its requests are asked one by one", len(requests), one_line(error))
        return [_each(one_kind, model, [request], decoding)[0] for request in requests]


def _answer(model: AnswersQuestions, questions: list[Question], decoding: Decoding) -> Sequence[Any]:
    return model.answer(questions, decoding)


def _draw(model: DrawsImages, prompts: list[Prompt], decoding: Decoding) -> Sequence[Any]:
    return model.draw([p.text for p in prompts], [p.seed for p in prompts], decoding)


def _respond(model: RespondsFreely, conversations: list[Conversation], decoding: Decoding) -> Sequence[Any]:
    return model.respond([c.messages for c in conversations], [c.seed for c in conversations], decoding)


def one_line(error: Exception, longest: int = 300) -> str:
    """An exception's type and message without line breaks, cut."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]
