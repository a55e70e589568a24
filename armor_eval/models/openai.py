"""`--model openai:URL#NAME`: any OpenAI-compatible server, which is how a run outgrows one machine. Images come from
`/images/generations`, or inside of chat answers in the three forms in use.

    armor-eval geneval --model openai:http://localhost:8000/v1#NAME --model-args size=512x512
    armor-eval geneval --model openai:http://localhost:8000/v1#NAME --model-args route=chat

No address that a server names is ever fetched: what is not sent as data is an error of that row.
"""

from __future__ import annotations

import base64
import functools
import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from armor_eval.models.base import Answer, Decoding, ModelUnavailable, Part, Question
from armor_eval.models.drawing import DrawingModel, NotDrawnError
from armor_eval.models.endpoint import ONE_QUESTIONS, Endpoint, EndpointDown, EndpointError, Extra, Patience, Reply
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import RunFailed, UserError, unknown_name
from armor_model.base.images import opened
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

ROUTES = ("images", "chat")
SENT = ("size", "quality", "negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale")
"""Fields of an image request that go to the server as they are; one that it does not take is its refusal."""
MODALITIES = "text+image"
OPTIONS = ("route", "modalities", *SENT)
"""Model arguments about images."""
FORMATS = ("PNG", "JPEG", "WEBP")
_DATA_URL = re.compile(r"(?:!\[[^\]]*\]\(\s*)?data:image/[\w.+-]+;base64,([A-Za-z0-9+/=_-]+)(?:\s*\))?")
_REMOTE = re.compile(r"!\[[^\]]*\]\(\s*https?://")
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")


class ServedImages(DrawingModel):
    """Draws and responds over HTTP. One request an image, each with its own seed; guidance is the server's own business
    (`--model-args guidance_scale=...` sends one)."""

    def __init__(self, endpoint: Endpoint, options: JsonView | None = None) -> None:
        self._endpoint, self.asked = endpoint, dict(options or {})
        self._route = self.asked.get("route", "images")
        if self._route not in ROUTES:
            raise unknown_name("route", str(self._route), ROUTES)
        unsent = [name for name in SENT if name in self.asked and self._route == "chat"]
        if unsent:
            raise UserError(f"a chat request has no field {unsent[0]!r}", "--request-json adds what a server takes")
        size = self.asked.get("size")
        match = _SIZE.fullmatch(str(size)) if size is not None else None
        if size is not None and match is None:
            raise UserError(f"--model-args size={size} is no size", "expected WIDTHxHEIGHT, e.g. size=512x512")
        self._size = (int(match[1]), int(match[2])) if match else None
        modalities = str(self.asked.get("modalities", MODALITIES))
        self._modalities = [] if modalities == "None" else modalities.split("+")
        if not {*self._modalities} <= {"text", "image"}:
            raise UserError(f"--model-args modalities={modalities}", "expected text+image, image, text or none")
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def drawn(self) -> dict[str, int]:
        """What the server's images were: how many of each file format, how many prompts it wrote anew."""
        return dict(self._seen)

    def _own(self, decoding: Decoding) -> JsonObject:
        sent = {name: self.asked[name] for name in SENT if name in self.asked}
        chat = {"modalities": "+".join(self._modalities) or None} if self._route == "chat" else {}
        return {"route": self._route, "guidance": None, "requests": "one an image, with its seed", **chat, **sent}

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        one = self._generated if self._route == "images" else self._from_chat
        return self._ask([functools.partial(one, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)])

    def respond(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[list[str | Image.Image] | Exception]:
        """Text and images of each answer, in the order that the server keeps; an exception stands for one without."""
        limits: JsonObject = {"temperature": decoding.temperature, "max_tokens": decoding.max_new_tokens}
        if decoding.temperature > 0:
            limits["top_p"] = decoding.top_p
        pairs = zip(conversations, seeds, strict=True)
        return self._ask(
            [functools.partial(self._reply, [message_of(m) for m in c], seed, **limits) for c, seed in pairs]
        )

    def _ask(self, jobs: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """The jobs' results at the endpoint's pace; RunFailed where it is of no more use."""

        def one(job: Callable[[], T]) -> T | Exception:
            try:
                return job()
            except EndpointDown as down:
                raise RunFailed(str(down), "what is done is kept: the same command goes on from there") from None
            except (EndpointError, NotDrawnError) as error:
                return error

        return self._endpoint.many([functools.partial(one, job) for job in jobs])

    def _generated(self, prompt: str, seed: int) -> Image.Image:
        """One image of `/images/generations`."""
        sent = {name: self.asked[name] for name in SENT if name in self.asked}
        body = {"prompt": prompt, "n": 1, "response_format": "b64_json", "seed": seed, **sent}
        try:
            entry = self._endpoint.post("/images/generations", body, _only_image)
        except UserError as error:
            more = "a server that draws in its chat answers only: --model-args route=chat"
            raise UserError(error.message, f"{error.hint}; {more}" if error.hint else more) from None
        if entry.get("revised_prompt") not in (None, "", prompt):
            self._count("prompts written anew by the server")
        return self._image(_data_of(entry))

    def _from_chat(self, prompt: str, seed: int) -> Image.Image:
        """The one image of a chat answer to the prompt."""
        parts = self._reply([{"role": "user", "content": prompt}], seed)
        images = [part for part in parts if not isinstance(part, str)]
        if len(images) != 1:
            words = " ".join(" ".join(part for part in parts if isinstance(part, str)).split())[:120]
            raise NotDrawnError(
                f"the answer holds {len(images)} images, not one" + (f"; it says {words!r}" * bool(words))
            )
        return images[0]

    def _reply(self, messages: list[JsonObject], seed: int, **limits: object) -> list[str | Image.Image]:
        modalities = {"modalities": self._modalities} if self._modalities else {}
        reply: Reply = self._endpoint.chat(messages, seed=seed, **modalities, **limits)
        parts: list[str | Image.Image] = []
        known: set[str] = set()
        for kind, value in parts_of(reply.message):
            if kind == "text":
                parts.append(value)
            elif value not in known:  # some gateways send an image both in the content and beside it
                known.add(value)
                parts.append(self._image(value))
        if reply.refused:
            return [reply.text]
        if reply.cut and all(isinstance(part, str) for part in parts):
            raise NotDrawnError("the answer was cut at its length, before any image: give more --max-new-tokens")
        return parts

    def _image(self, data: str) -> Image.Image:
        image, form = decoded(data)
        if self._size is not None and image.size != self._size:
            raise NotDrawnError("the image has {}x{} pixels, {}x{} were asked for".format(*image.size, *self._size))
        self._count(form)
        return image

    def _count(self, what: str) -> None:
        with self._lock:  # answers come in several threads
            self._seen[what] += 1


def parts_of(message: JsonView) -> Iterator[tuple[str, str]]:
    """(`text`, text) and (`image`, base64) of a chat message, in order, in all three forms.

    A content list, data URLs in a content text, `images` beside it. EndpointError for an image that is only an address.
    """
    content = message.get("content")
    for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if not isinstance(part, Mapping):
            continue
        kind = str(part.get("type"))
        if "image" in kind:
            yield "image", _data_of(part)
        elif kind in ("text", "output_text") and isinstance(text := part.get("text"), str):
            yield from _parts_of_text(text)
    for part in message.get("images") or []:
        yield "image", _data_of(part if isinstance(part, Mapping) else {"url": part})


def _parts_of_text(text: str) -> Iterator[tuple[str, str]]:
    if _REMOTE.search(text):
        raise _remote()
    at = 0
    for match in _DATA_URL.finditer(text):
        if words := text[at : match.start()].strip():
            yield "text", words
        yield "image", match[1]
        at = match.end()
    if words := text[at:].strip():
        yield "text", words


def _data_of(part: JsonView) -> str:
    """The base64 of an image part: `b64_json`, or a data URL in `image_url` (an object or a text), `url`, `image`."""
    if isinstance(part.get("b64_json"), str):
        return part["b64_json"]
    url = next((part[name] for name in ("image_url", "url", "image") if part.get(name)), None)
    url = url.get("url") if isinstance(url, Mapping) else url
    if not isinstance(url, str):
        raise EndpointError("image", "an image of the answer holds no data")
    if url.startswith("data:"):
        head, mark, data = url.partition(",")
        if not mark or not head.endswith(";base64"):
            raise EndpointError("image", f"an image of the answer is no base64 data: {url[:40]!r}")
        return data
    raise _remote()


def _remote() -> EndpointError:
    return EndpointError(
        "remote image", "the server sent the address of an image, and addresses are never fetched: have it send data"
    )


def _only_image(payload: object) -> JsonView:
    """The one entry of a reply of `/images/generations`. EndpointError where it is none, or not one."""
    data = payload.get("data") if isinstance(payload, Mapping) else None
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], Mapping):
        count = len(data) if isinstance(data, list) else "no"
        raise EndpointError("image", f"the reply holds {count} images, one was asked for")
    return data[0]


def decoded(data: str) -> tuple[Image.Image, str]:
    """(RGB image, file format) of base64 text; the format is read from the bytes. EndpointError where it is none."""
    try:
        raw = base64.b64decode("".join(data.split()), altchars=b"-_" if set("-_") & set(data) else None, validate=True)
        with opened(raw, FORMATS) as image:
            return image.convert("RGB"), str(image.format)
    except ValueError as error:  # no base64, or no image
        raise EndpointError("image", f"the image cannot be decoded: {error}") from None


def message_of(message: JsonView) -> JsonObject:
    """A message of ours (text and PIL images) as a chat endpoint wants it."""
    if isinstance(message["content"], str):
        return {"role": message["role"], "content": message["content"]}
    parts = [part["text"] if part["type"] == "text" else part["image"] for part in message["content"]]
    return {"role": message["role"], "content": [content_part(part) for part in parts]}


def content_part(part: Part) -> JsonObject:
    """A text, a PIL image or an image's path as a part of a message; images go as PNG, so that nothing is lost."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    from PIL import Image

    image = part if isinstance(part, Image.Image) else Image.open(part).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}}


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
    of images (OPTIONS), `extra` is what every request gets besides."""
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
