"""What one OpenAI-compatible server wants said otherwise: learned from its refusal once, then said so every time."""

from __future__ import annotations

import re

from armor_model.base.jsons import JsonObject, JsonView

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
        for field in OPTIONAL:
            if field in sent and field not in self._own and re.search(rf"\b{field}\b", low):
                self._dropped.add(field)
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
