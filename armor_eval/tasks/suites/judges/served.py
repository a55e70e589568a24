"""`--judge openai:URL#NAME`: a model behind an OpenAI-compatible server; images go as PNG data URLs.

First-token probabilities need a server that gives log-probabilities, and are those of its top tokens alone: what is not
among them counts 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from armor_eval.models.endpoint import Endpoint, EndpointDown, EndpointError, Extra
from armor_eval.models.openai import CONCURRENCY, content_part, patience
from armor_eval.models.replies import read_chat
from armor_eval.runs.schema import JudgeInfo, Profile
from armor_eval.tasks.suites.judges import Ask, Reading, Shown
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.jsons import JsonObject

TOP = 20
"""Most log-probabilities that servers give."""


class ServedJudge:
    """Every question is one request; an image whose question fails is an exception."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.info = JudgeInfo(name=endpoint.model, version=endpoint.fingerprint[:16], endpoint="openai-compatible")
        self.settings: JsonObject = {
            "decoding": "temperature 0",
            "precision": "the server's",
            "image": "PNG, full size",
            **({"request": dict(endpoint.extra.body)} if endpoint.extra.body else {}),
        }
        self.facts: JsonObject = {}

    def prepare(self, kind: str) -> None:
        """Nothing is loaded. For probabilities, ask once whether the server gives any: UserError where it does not."""
        if kind != "vqa_prob":
            return
        body = {"messages": [{"role": "user", "content": "Say yes."}]}
        try:
            self._endpoint.post("/chat/completions", {**body, **_first_token()}, _top_tokens)
        except EndpointError as error:
            raise UserError(
                f"the judge {self._endpoint.model} gives no first-token probabilities: {error}",
                "this suite needs a server with logprobs (vLLM, SGLang), or --judge hf:ID",
            ) from None
        self.facts = {"probabilities": f"of the server's top {TOP} tokens, by their text; others count 0"}

    def probabilities(self, shown: Sequence[Shown]) -> list[list[Reading] | Exception]:
        def one(image: Shown, ask: Ask) -> Reading:
            body = {"messages": _messages(image, ask), **_first_token()}
            top = self._endpoint.post("/chat/completions", body, _top_tokens)
            forms = {_first_of(form) for form in ask.probe.accept}
            mass = math.fsum(math.exp(log) for token, log in top if token in forms)
            return Reading(max(top, key=lambda pair: pair[1])[0], math.log(min(mass, 1.0)) if mass > 0 else -math.inf)

        return self._each(shown, one)

    def replies(self, shown: Sequence[Shown], max_new_tokens: int) -> list[list[Reading] | Exception]:
        def one(image: Shown, ask: Ask) -> Reading:
            reply = self._endpoint.chat(_messages(image, ask), temperature=0, max_tokens=max_new_tokens)
            return Reading(reply.text.strip(), extras={"finish_reason": reply.finish_reason})

        return self._each(shown, one)

    def _each(self, shown: Sequence[Shown], one: Callable[[Shown, Ask], Reading]) -> list[list[Reading] | Exception]:
        def tried(image: Shown, ask: Ask) -> Reading | EndpointError:
            try:
                return one(image, ask)
            except EndpointError as error:
                return error

        pairs = [(image, ask) for image in shown for ask in image.asks]
        got = iter(self._endpoint.many([functools.partial(tried, *pair) for pair in pairs]))
        found: list[list[Reading] | Exception] = []
        for image in shown:
            own = [next(got) for _ in image.asks]
            failed = next((reading for reading in own if isinstance(reading, EndpointError)), None)
            if isinstance(failed, EndpointDown):
                raise RunFailed(f"the judge is gone: {failed}", "what was judged is kept: the same command goes on")
            found.append(failed or [reading for reading in own if isinstance(reading, Reading)])
        return found

    def close(self) -> None:
        self._endpoint.close()


def _messages(image: Shown, ask: Ask) -> list[JsonObject]:
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    images, words = [content_part(one) for one in image.images], [{"type": "text", "text": ask.text}]
    return [*system, {"role": "user", "content": words + images if image.image_last else images + words}]


def _first_token() -> JsonObject:
    return {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP}


def _top_tokens(payload: JsonObject) -> list[tuple[str, float]]:
    """(token, log-probability) of the first token's likeliest. EndpointError where the reply holds none."""
    read_chat(payload)
    try:
        first = payload["choices"][0]["logprobs"]["content"][0]
        top = [(str(entry["token"]), float(entry["logprob"])) for entry in first["top_logprobs"]]
    except (KeyError, IndexError, TypeError, ValueError):
        top = []
    if not top or any(math.isnan(log) or log > 1e-6 for _, log in top):
        raise EndpointError("no logprobs", "the reply holds no usable log-probabilities")
    return top


def _first_of(form: str) -> str:
    """The text of a form's first token as far as a server tells it: ` 4` begins with the bare space in Qwen's
    vocabulary, words are one token."""
    return " " if form[:1] == " " and form[1:].isdigit() else form


def load(rest: str, profile: Profile, *, extra: Extra | None = None, **_: object) -> ServedJudge:
    url, _mark, name = rest.rpartition("#")
    if not url or not name:
        raise UserError(f"--judge openai:{rest} lacks the model's name", "expected openai:URL#NAME")
    return ServedJudge(Endpoint(url, name, patience({"concurrency": CONCURRENCY}, None), extra))
