"""Asks a model for a batch of outputs; where a batch fails its requests are asked singly: only the culprit is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from armor_eval.engine.task import Conversation, Prompt, Ready, Request
from armor_eval.models.base import (
    AnswersQuestions,
    Decoding,
    DrawsImages,
    ModelUnavailable,
    Question,
    RespondsFreely,
)
from armor_eval.models.drawing import one_by_one


def ask(model: Any, requests: Sequence[Request | Exception], decoding: Decoding) -> list[Any]:
    """One output a request, in order; an exception stands for a unit that has none.

    Where the model is gone ModelUnavailable passes, its `answers` being one entry a request: None is still to be asked.
    """
    outputs = [r.output if isinstance(r, Ready) else r if isinstance(r, Exception) else None for r in requests]
    for kind, one_kind in ((Question, _answer), (Prompt, _draw), (Conversation, _respond)):
        places = [at for at, request in enumerate(requests) if isinstance(request, kind)]
        if places:
            asked = [requests[at] for at in places]
            gone = None
            try:
                answered = one_by_one(lambda some, one_kind=one_kind: one_kind(model, some, decoding), asked)
            except ModelUnavailable as error:  # a request that was asked alone says nothing of its batch
                gone, answered = error, error.answers if len(error.answers) == len(asked) else [None] * len(asked)
            for at, output in zip(places, answered, strict=True):
                outputs[at] = output
            if gone is not None:
                gone.answers = outputs
                raise gone
    return outputs


def _answer(model: AnswersQuestions, questions: list[Question], decoding: Decoding) -> Sequence[Any]:
    return model.answer(questions, decoding)


def _draw(model: DrawsImages, prompts: list[Prompt], decoding: Decoding) -> Sequence[Any]:
    return model.draw([p.text for p in prompts], [p.seed for p in prompts], decoding)


def _respond(model: RespondsFreely, conversations: list[Conversation], decoding: Decoding) -> Sequence[Any]:
    return model.respond([c.messages for c in conversations], [c.seed for c in conversations], decoding)
