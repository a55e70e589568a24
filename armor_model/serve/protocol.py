"""The wire format: OpenAI's chat completions and image generations, with images beside the text of an answer.

Nobody agrees on where an answer's images stand. `content` is a text and `message.images` holds data URLs, as
OpenRouter, LiteLLM and Vercel have it; `content_parts: true` gives one list instead, which alone keeps the order.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, from_json

from armor_model.base.errors import UserError
from armor_model.base.images import MAX_PIXELS, BadImageError, opened
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL import Image

    from armor_model.generation import GenerationSettings, Response

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MOST_ANSWERS = 8
"""Answers (`n`) of one request."""
DEFAULT_TOKENS = 512
"""Text tokens of an answer where the request does not say."""
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,(.*)", re.DOTALL)


class ApiError(Exception):
    """A refusal, as the object that OpenAI's clients read."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after = status, retry_after
        kind = "invalid_request_error" if status < 429 else "rate_limit_error" if status == 429 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Body(BaseModel):
    """Unknown fields are left alone: clients send more than anyone implements."""

    model_config = ConfigDict(strict=True, extra="allow")


class ImageUrl(_Body):
    url: Annotated[str, Field(description="An image as a data URL: data:image/...;base64,... Nothing is ever fetched.")]


class TextPart(_Body):
    type: Literal["text"]
    text: str


class ImagePart(_Body):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


SEEN = r"[^\s\x1c-\x1f\x85]"
"""A letter that `str.strip` leaves, for the schema."""
_SAYS = {
    "anyOf": [
        {"properties": {"type": {"const": "image_url"}}, "required": ["type"]},
        {"properties": {"text": {"type": "string", "pattern": SEEN}}, "required": ["text"]},
    ]
}


def _not_empty(content: str | list[Part]) -> str | list[Part]:
    """What a user says; a blank text is nothing to answer."""
    if not (content.strip() if isinstance(content, str) else any(_says_something(part) for part in content)):
        raise PydanticCustomError("empty", "the prompt is empty")
    return content


def _says_something(part: Part) -> bool:
    return isinstance(part, ImagePart) or bool(part.text.strip())


Said = (
    Annotated[str, Field(json_schema_extra={"pattern": SEEN})]
    | Annotated[list[Part], Field(json_schema_extra={"contains": _SAYS})]
)


class SystemMessage(_Body):
    role: Literal["system"]
    content: str | list[TextPart] | None = None


class _WithImages(_Body):
    images: Annotated[list[ImagePart] | None, Field(description="Beside the content, as an answer holds them.")] = None


class UserMessage(_WithImages):
    role: Literal["user"]
    content: Annotated[Said, AfterValidator(_not_empty)]


class AssistantMessage(_WithImages):
    role: Literal["assistant"]
    content: str | list[Part] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


def _integer(value: object) -> object:
    """JSON has one kind of number, and some clients write each as 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_integer)]
Kept = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_integer)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(_integer)]
Answers = Annotated[int, Field(ge=1, le=MOST_ANSWERS), BeforeValidator(_integer)]


class ChatRequest(_Body):
    """A body of /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, description="The last one is the user's.")]
    modalities: Annotated[
        list[Literal["text", "image"]] | None,
        Field(
            min_length=1, description="Absent: the model chooses. text alone forbids images, image alone forces one."
        ),
    ] = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Kept | None = None
    seed: Seed | None = None
    n: Answers | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: JsonObject | None = None
    content_parts: Annotated[
        bool | None, Field(description="Answer with a list of text and image_url parts, in their order.")
    ] = None

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)


class ImageRequest(_Body):
    """A body of /v1/images/generations."""

    prompt: Annotated[str, Field(json_schema_extra={"pattern": SEEN}), AfterValidator(_not_empty)]
    model: str | None = None
    n: Answers | None = None
    size: str | None = None
    response_format: Annotated[Literal["b64_json"] | None, Field(description="Images are sent as data alone.")] = None
    output_format: Literal["png"] | None = None
    seed: Seed | None = None


NOT_SERVED = {
    ChatRequest: (
        "tools",
        "functions",
        "audio",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "min_p",
        "response_format",
    ),
    ImageRequest: ("negative_prompt", "num_inference_steps", "guidance_scale", "true_cfg_scale", "stream", "image"),
}
"""Fields that would change the answer: said, and not heard, the answer would be to another question."""
MEANT_NOTHING: tuple[object, ...] = (None, False, 0, [], {}, {"type": "text"})
"""Values of them that ask for nothing; of a factor, as repetition_penalty is, 1 does."""


B = TypeVar("B", bound=BaseModel)


def read_body(kind: type[B], body: bytes) -> B:
    """A request's body, checked. ApiError 400 that names the field."""
    try:
        request = kind.model_validate_json(body)
    except ValidationError as error:
        where, said = _fault(error, body)
        raise ApiError(400, f"{where}: {said}" if where else said, where or None) from None
    for name in NOT_SERVED.get(kind, ()):
        value = (request.model_extra or {}).get(name)
        if value not in MEANT_NOTHING and not (name == "repetition_penalty" and value == 1):
            raise ApiError(400, f"{name} is not served here", name, "unsupported_parameter")
    return request


def _fault(error: ValidationError, body: bytes) -> tuple[str, str]:
    """The field, as the client wrote its path, and what is wrong with it. Of a text or a list pydantic tries the text
    first, and its path names each kind that it tried: a list's own fault counts, and only steps of the body."""
    first, *rest = error.errors(include_url=False, include_input=False, include_context=False)
    if rest and first["loc"][-1:] == ("str",) and rest[0]["type"] != "list_type":
        first = rest[0]
    if not first["loc"]:  # no JSON, or no object
        return "", first["msg"]
    node, steps = from_json(body), []
    for step in first["loc"]:
        try:
            node = node[step]
        except (KeyError, IndexError, TypeError):
            continue
        steps.append(step)
    if first["type"] == "missing":
        steps.append(first["loc"][-1])
    return ".".join(map(str, steps)), first["msg"]


def conversation_of(messages: Sequence[Message], most_images: int) -> list[JsonObject]:
    """Messages as the processor takes them, images decoded. ApiError 400 for what is no image, or too many of them."""
    conversation, left = [], [most_images, MAX_PIXELS]
    for i, message in enumerate(messages):
        parts: list[JsonObject] = []
        content = message.content or []
        given = [TextPart(type="text", text=content)] if isinstance(content, str) else content
        images = message.images or [] if isinstance(message, _WithImages) else []
        for part in [*given, *images]:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": part.text})
            else:
                parts.append({"type": "image", "image": _image(part.image_url.url, left, f"messages.{i}.content")})
        conversation.append({"role": message.role, "content": parts})
    return conversation


def _image(url: str, left: list[int], where: str) -> Image.Image:
    """The image of a data URL; `left`: how many images, and pixels, the request may still hold."""
    match = _DATA_URL.fullmatch(url)
    if match is None:
        raise ApiError(400, "an image is sent as data:image/...;base64,...: addresses are never fetched", where)
    left[0] -= 1
    if left[0] < 0:
        raise ApiError(400, "the request holds more images than are taken", where, "too_many_images")
    try:
        with opened(base64.b64decode(match[1], validate=True), FORMATS) as image:
            left[1] -= image.width * image.height
            if left[1] < 0:
                raise BadImageError(f"the request's images have more than {MAX_PIXELS / 1e6:.0f} megapixels")
            image.load()
            return image.copy()
    except (binascii.Error, BadImageError) as error:
        raise ApiError(400, f"the image cannot be read: {error}", where, "invalid_image") from None


def chat_settings(request: ChatRequest, base: GenerationSettings) -> GenerationSettings:
    """What a chat request changes of the server's settings. ApiError 400 for what goes beyond them."""
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted is not None and wanted > base.max_new_tokens:
        message = f"this server gives at most {base.max_new_tokens} completion tokens; {wanted} were asked for"
        raise ApiError(400, message, "max_tokens")
    forced = request.modalities is not None and "text" not in request.modalities
    allowed = request.modalities is None or "image" in request.modalities
    if forced and not base.images:
        raise ApiError(400, "this model cannot draw", "modalities")
    said = {name: getattr(request, name) for name in ("temperature", "top_p", "top_k")}
    return _replaced(
        base,
        max_new_tokens=wanted or min(DEFAULT_TOKENS, base.max_new_tokens),
        allow_images=allowed and base.images > 0,
        force_image=forced,
        stop_after_image=forced,
        **{name: value for name, value in said.items() if value is not None},
    )


def image_settings(request: ImageRequest, base: GenerationSettings, side: int) -> GenerationSettings:
    """Those of `draw`: the answer is one image. ApiError 400 for what this model does not draw."""
    if not base.images:
        raise ApiError(400, "this model cannot draw")
    if request.size not in (None, "auto", f"{side}x{side}"):
        raise ApiError(400, f"this model draws {side}x{side}", "size")
    return _replaced(base, max_new_tokens=1, max_images=1, force_image=True, stop_after_image=True)


def _replaced(base: GenerationSettings, **changes: Any) -> GenerationSettings:
    try:
        return replace(base, **changes)
    except UserError as error:
        raise ApiError(400, error.line()) from error


def png(image: Image.Image) -> str:
    """Base64 of the image as PNG: nothing of it is lost."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def image_part(image: Image.Image, index: int | None = None) -> JsonObject:
    """An image of an answer; `index` counts those of one answer."""
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png(image)}"}}
    return part if index is None else {**part, "index": index}


def choice(index: int, response: Response, content_parts: bool) -> JsonObject:
    """One answer of a chat reply."""
    if content_parts:
        content: object = [
            {"type": "text", "text": part} if isinstance(part, str) else image_part(part) for part in response.parts
        ]
        message = {"role": "assistant", "content": content}
    else:
        images = [image_part(image, k) for k, image in enumerate(response.images)]
        message = {"role": "assistant", "content": response.text, **({"images": images} if images else {})}
    return {"index": index, "message": message, "finish_reason": finish_reason(response), "logprobs": None}


def finish_reason(response: Response) -> str:
    """`length` where the answer was cut, else `stop`."""
    return "length" if response.stats["finish"] == "length" else "stop"


def usage(prompt_tokens: int, responses: Sequence[Response]) -> JsonObject:
    """Tokens of a reply; an image counts with all its codes."""
    text = sum(response.stats["text_tokens"] for response in responses)
    whole = sum(len(response.tokens) for response in responses)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": whole,
        "total_tokens": prompt_tokens + whole,
        "completion_tokens_details": {"text_tokens": text, "image_tokens": whole - text},
    }
