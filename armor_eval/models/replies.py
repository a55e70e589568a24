"""Reads a chat completion for what it is: text in either form, thoughts, a refusal, a filter, an error, nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from armor_eval.models.transport import AgainError, EndpointError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of

LENGTH = ("length", "max_tokens", "MAX_TOKENS", "model_length")
"""What servers call an answer that ended because its room did."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
FEW = 3
"""Attempts where a server answered well and said nothing: seldom another try helps."""


@dataclass(frozen=True)
class Reply:
    """One chat completion."""

    text: str
    reasoning: str | None = None
    """Thoughts that came apart from the answer."""
    finish_reason: str | None = None
    """`stop`, `length` (all names of it), or what the server says."""
    refused: bool = False
    """The model declined in the reply's own field for it; `text` is what it said."""
    room: int | None = None
    """New tokens that it might have, where that is less than was asked for."""
    message: JsonObject = field(default_factory=dict)
    """The whole message, e.g. for its images."""

    @property
    def cut(self) -> bool:
        """The answer ended because its room did."""
        return self.finish_reason == "length"


def parse(text: str) -> object:
    """The JSON of a reply, plain or as server-sent events put together. Raises AgainError."""
    try:
        start = text.lstrip()
        return _gather(start) if start.startswith(("data:", ":", "event:", "id:")) else json_of(text)
    except (ValueError, TypeError, AttributeError):  # no JSON, or events of another form
        raise AgainError("malformed", f"the reply is not JSON: {text[:80]!r}") from None


def complaint(payload: object, text: str) -> str:
    """What a server says of its error, in the forms in use; else the beginning of what it sent."""
    error = payload.get("error", payload.get("detail", payload.get("message"))) if isinstance(payload, dict) else None
    if isinstance(error, dict):
        words = [error.get("message"), error.get("code"), error.get("param"), error.get("type")]
        return " ".join(str(word) for word in words if word)
    return error if isinstance(error, str) else text[:2000]


def error_code(payload: object) -> int | None:
    """The HTTP status that an error inside a reply names, 0 where it names none; None where there is no error."""
    error = payload.get("error") if isinstance(payload, dict) else None
    if not error:
        return None
    code = str(error.get("code") or error.get("status") or "") if isinstance(error, dict) else ""
    return int(code) if code.isdecimal() and 400 <= int(code) < 600 else 0


def read_chat(payload: object) -> Reply:
    """The first choice. Raises EndpointError where it holds no answer, AgainError where another try may bring one."""
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list):
        raise AgainError("malformed", "the reply is not a chat completion")
    if not choices:
        raise AgainError("empty", "the reply holds no choice", attempts=FEW)
    choice = choices[0] if isinstance(choices[0], dict) else {}
    message = choice.get("message")
    reason = choice.get("finish_reason")
    reason = "length" if reason in LENGTH else reason if isinstance(reason, str) else None
    if reason == "content_filter":
        raise EndpointError("content_filter", "the server's content filter withheld the answer")
    if reason == "error":
        raise AgainError("server error", f"the answer broke off: {complaint(choice, 'no reason given')[:200]}")
    if not isinstance(message, dict):
        raise AgainError("malformed", "the reply is not a chat completion")
    text, thoughts, declined = _content(message.get("content"))
    thoughts = thoughts or next((t for name in THOUGHTS if (t := _words(message.get(name)))), "")
    declined = declined or _words(message.get("refusal"))
    drawn = bool(message.get("images")) or _has_images(message.get("content"))
    if text is None and not (thoughts or declined or drawn or reason == "length"):
        raise AgainError("empty", "the answer holds no text", attempts=FEW)
    return Reply(text or declined, thoughts or None, reason, bool(declined and not text), message=message)


def _content(content: object) -> tuple[str | None, str, str]:
    """(text, thoughts, refusal) of a message's content: a string, or a list of parts. None: there is no text."""
    if isinstance(content, str) or not isinstance(content, list):
        return content if isinstance(content, str) else None, "", ""
    parts = [part for part in content if isinstance(part, dict)]
    kinds = {"text": "text", "output_text": "text", "refusal": "refusal", **dict.fromkeys(THOUGHTS, "thoughts")}
    texts: dict[str, list[str]] = {"text": [], "refusal": [], "thoughts": []}
    for part in parts:
        if (kind := kinds.get(str(part.get("type")))) is not None:
            texts[kind].append(_words(part.get(part["type"], part.get("text"))))
    text = "".join(texts["text"]) if texts["text"] else None
    return text, "".join(texts["thoughts"]), "".join(texts["refusal"])


def _has_images(content: object) -> bool:
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and "image" in str(part.get("type")) for part in parts)


def _words(value: object) -> str:
    """The text of a string, of parts, or of an object that holds one."""
    if isinstance(value, list):
        return "".join(_words(item) for item in value)
    if isinstance(value, dict):
        return _words(value.get("text", value.get("content")))
    return value if isinstance(value, str) else ""


def _gather(stream: str) -> object:
    """A chat completion from server-sent events. Raises ValueError where the stream is not whole or holds no JSON."""
    events = [line[5:].strip() for line in stream.split("\n") if line.startswith("data:")]
    ended = "[DONE]" in events
    message: JsonObject = {}
    reason = None
    for event in (json_of(e) for e in events if e and e != "[DONE]"):
        if not isinstance(event, dict):
            raise ValueError("an event is no object")
        if event.get("error"):
            return event
        for choice in event.get("choices") or []:
            if choice.get("index", 0) != 0:
                continue
            reason = choice.get("finish_reason") or reason
            _extend(message, choice.get("delta") or choice.get("message") or {})
    if reason is None and not ended:
        raise ValueError("the stream broke off")
    return {"choices": [{"message": message, "finish_reason": reason}]} if message or reason else {"choices": []}


def _extend(message: JsonObject, delta: JsonObject) -> None:
    for name, piece in delta.items():
        if piece is None:
            message.setdefault(name, None)
        elif name != "role" and isinstance(message.get(name), (str, list)) and type(message[name]) is type(piece):
            message[name] = message[name] + piece
        else:
            message[name] = piece
