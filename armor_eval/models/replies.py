"""Reads a chat completion for what it is: text in either form, thoughts, a refusal, a filter, an error, nothing; and
says a request in the words that the server takes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from armor_eval.models.transport import AgainError, EndpointError
from armor_model.base.jsons import JsonObject, JsonView
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


# --- what a server wants said otherwise: learned from its refusal once, then said so every time ----------------------


OPTIONAL = ("temperature", "top_p", "seed", "response_format", "stream_options")
"""Fields that a question can do without."""
ROOM_NAMES = ("max_tokens", "max_completion_tokens")
LEAST_ROOM = 16
"""Tokens below which an answer's room is not halved further where a server does not say what would fit."""

_CONTEXT = re.compile(
    r"context[ _](?:length|size|window)|too large|too many tokens|must be <="
    r"|at most [\d,]+ (?:completion|output) tokens"
)
_WINDOW = re.compile(r"context[ _](?:length|size|window)\D{0,40}?(\d[\d,]*)|must be <= (\d[\d,]*)|\"n_ctx\": ?(\d+)")
_CAP = re.compile(r"at most (\d[\d,]*) (?:completion|output) tokens")
_PROMPT = re.compile(
    r"(\d[\d,]*)(?: tokens)? (?:in|from) (?:the |your )?(?:messages|input|prompt)|(\d[\d,]*) `?inputs?`? tokens"
    r"|resulted in (\d[\d,]*) tokens|\"n_prompt_tokens\": ?(\d+)"
)


class Dialect:
    """The adaptations that a server has asked for. `own`: the user's own fields, which are never dropped."""

    def __init__(self, own: JsonView) -> None:
        self._own = dict(own)
        self._renamed = False
        self._dropped: set[str] = set()
        self._warm = False
        """A temperature must be there, and 1."""
        self._stream = False
        self._cap: int | None = None
        """Tokens of room that no request goes beyond."""

    def say(self, body: JsonView, room: int | None) -> JsonObject:
        """The body as this server takes it; `room` is the room that this one request was found to have.

        The user's own fields stand above ours; one that is null is left out.
        """
        fields = {name: value for name, value in body.items() if name not in self._dropped}
        if "max_tokens" in fields:
            wanted = fields.pop("max_tokens")
            name = ROOM_NAMES[self._renamed]
            fields[name] = min(n for n in (wanted, self._cap, room) if n is not None)
        if self._warm:
            fields["temperature"] = 1
        if self._stream:
            fields["stream"] = True
        fields |= self._own
        return {name: value for name, value in fields.items() if value is not None}

    def learn(self, meant: JsonView, sent: JsonView, complaint: str) -> int | bool:
        """What the refusal of a body asks for: the room of this one request, True where another thing was learned, else
        False. A room of 0: the question alone is too long.
        """
        low = complaint.lower()
        name = next((n for n in ROOM_NAMES if n in sent and n not in self._own), None)
        if name is not None and _CONTEXT.search(low):
            return self._narrow(meant["max_tokens"], sent[name], low)
        if name == "max_tokens" and "max_completion_tokens" in low:
            self._renamed = True
            return True
        for name in OPTIONAL:
            if name in sent and name not in self._own and re.search(rf"\b{name}\b", low):
                self._dropped.add(name)
                return True
        if "temperature" in self._dropped and "temperature" not in sent and "temperature" in low:
            self._warm = True
            return True
        if re.search(r"\bstream", low) and not sent.get("stream") and "stream" not in self._own:
            self._stream = True
            return True
        return False

    def _narrow(self, wanted: int, limit: int, complaint: str) -> int:
        """The room that is left for an answer. What suits this question is where the next ones begin, unless it is so
        small that only this question is to blame."""
        cap, window, prompt = (_number(pattern, complaint) for pattern in (_CAP, _WINDOW, _PROMPT))
        room = cap
        if room is None and window is not None and prompt is not None:
            room = max(0, window - prompt)
        if room is None or room >= limit:  # the server does not say, or errs
            return limit // 2 if limit > LEAST_ROOM else 0
        if cap is not None or room >= wanted // 2:
            self._cap = min(room, self._cap or room)
        return room

    def record(self) -> dict[str, str]:
        """Field -> what is said instead of what was meant, for the run's record."""
        changes = dict.fromkeys(sorted(self._dropped), "refused by the server: its own default holds")
        if self._renamed:
            changes["max_tokens"] = "said as max_completion_tokens"
        if self._stream:
            changes["stream"] = "the server only streams"
        if self._cap is not None:
            changes["room"] = f"at most {self._cap} new tokens fit"
        return changes


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(next(g for g in match.groups() if g).replace(",", "")) if match else None
