"""`--model openai:URL#NAME`: any OpenAI-compatible server, which is how a run outgrows one machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from armor_eval.models.base import Answer, Decoding, ModelUnavailable, Question
from armor_eval.models.endpoint import ONE_QUESTIONS, Endpoint, EndpointDown, EndpointError, Extra, Patience, Reply
from armor_eval.models.openai_images import OPTIONS, ServedImages, content_part
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.jsons import JsonObject, JsonView

CONCURRENCY = 16
"""Requests at a time; `--model-args concurrency=N` says otherwise."""


class EndpointModel(ServedImages):
    """Answers questions through chat completions; rows that fail are errors of those rows."""

    def __init__(self, spec: str, endpoint: Endpoint, images: JsonView | None = None) -> None:
        super().__init__(endpoint, images)
        self.info = ModelInfo(spec=spec, name=Path(endpoint.model).name, fingerprint=endpoint.fingerprint)

    @property
    def served(self) -> JsonObject:
        """What the run's record says of the requests: `adapted` (field -> what was said instead), `extra` (fields that
        the user added)."""
        extra = dict(self._endpoint.extra.body)
        known = {"adapted": self._endpoint.adapted, "extra": extra, "images": self.drawn}
        return {name: value for name, value in known.items() if value}

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        """Answers in order. Raises ModelUnavailable, with what did come, where the endpoint is down: it says so itself,
        or every question of the batch failed alike."""
        got = self._endpoint.many([functools.partial(self._answer, question, decoding) for question in questions])
        down = next((str(one) for one in got if isinstance(one, EndpointDown)), None) or _alike(questions, got)
        if down is not None:
            raise ModelUnavailable(down, [one if isinstance(one, Answer) and not one.error else None for one in got])
        return [one for one in got if isinstance(one, Answer)]

    def _answer(self, question: Question, decoding: Decoding) -> Answer | EndpointDown:
        parameters: JsonObject = {"temperature": decoding.temperature, "max_tokens": decoding.max_new_tokens}
        if decoding.temperature > 0:
            parameters |= {"top_p": decoding.top_p, "seed": decoding.seed}
        message = {"role": "user", "content": [content_part(part) for part in question.parts]}
        try:
            reply = self._endpoint.chat([message], **parameters)
        except EndpointDown as down:
            return down
        except EndpointError as error:
            return Answer(error=str(error), extras={"failure": error.kind})
        return Answer(text=reply.text, extras=_extras(reply))

    def close(self) -> None:
        self._endpoint.close()


def load(
    rest: str, profile: Profile, *, model_args: JsonView | None = None, extra: Extra | None = None, **_: object
) -> EndpointModel:
    """`URL#NAME`; the key comes from the environment alone. `model_args` are Patience's fields and what is asked
    of images (openai_images.OPTIONS), `extra` is what every
    request gets besides."""
    url, mark, name = rest.rpartition("#")
    if not mark or not url or not name:
        raise UserError(f"openai:{rest} lacks the model's name", "expected openai:URL#NAME")
    images = {key: value for key, value in (model_args or {}).items() if key in OPTIONS}
    limits = {key: value for key, value in (model_args or {}).items() if key not in OPTIONS}
    endpoint = Endpoint(url, name, patience({"concurrency": CONCURRENCY}, limits), extra)
    return EndpointModel(f"openai:{rest}", endpoint, images)


def patience(defaults: JsonView, limits: JsonView | None) -> Patience:
    """An endpoint's limits. UserError for an unknown name, or a value that is no positive number."""
    known = {field.name: type(field.default) for field in fields(Patience)}
    for name, value in (limits or {}).items():
        if name not in known:
            raise unknown_name("model argument of an endpoint", name, [*known, *OPTIONS])
        whole = known[name] is int
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value > 0:
            raise UserError(f"{name}={value!r} is no positive {'whole number' if whole else 'number'}")
    return Patience(**{**defaults, **(limits or {})})


def _alike(questions: Sequence[Question], got: Sequence[Answer | EndpointDown]) -> str | None:
    """The failure that a whole batch shares and that the endpoint is to blame for, else None.

    Questions about one image count as one: a moderation that refuses the image refuses them all.
    """
    kinds = {one.extras.get("failure") if isinstance(one, Answer) and one.error else None for one in got}
    image_sets = {tuple(id(part) for part in q.parts if not isinstance(part, str)) or q.id for q in questions}
    if len(kinds) != 1 or len(image_sets) < 2 or kinds & {None, *ONE_QUESTIONS}:
        return None
    first = next(one.error for one in got if isinstance(one, Answer))
    return f"all {len(got)} questions of a batch failed alike: {first}"


def _extras(reply: Reply) -> JsonObject:
    """What an item keeps of a reply beside its text."""
    facts = {
        "finish_reason": reply.finish_reason,
        "reasoning": reply.reasoning,
        "refusal": reply.refused,
        "max_tokens": reply.room,
    }
    return {name: value for name, value in facts.items() if value}
