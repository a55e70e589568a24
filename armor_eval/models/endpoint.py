"""An OpenAI-compatible endpoint: bounded concurrency, back-off with a deadline, adaptation to what a server refuses.

vLLM, SGLang, LMDeploy, Azure and the hosted services all speak it. The key comes from `OPENAI_API_KEY` (Azure's also
from `AZURE_OPENAI_API_KEY`), never from an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, urlsplit, urlunsplit

from armor_eval.models import replies
from armor_eval.models.replies import Dialect, Reply
from armor_eval.models.transport import AgainError, EndpointDown, EndpointError, HttpReply, Patience, Transport
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_json
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    from urllib.parse import SplitResult


__all__ = ["AgainError", "Endpoint", "EndpointDown", "EndpointError", "Extra", "Patience", "Reply"]

T = TypeVar("T")

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Answers of a server that may be well again soon."""
REFUSED = {301, 302, 303, 307, 308, 401, 404, 405}
"""Answers that will not change for any question: the key, the address or the model's name is wrong."""
ONE_QUESTIONS = ("content_filter", "context", "too large")
"""Failures that lie in the question: however many there are, the endpoint is well."""
REFUSALS_ALIKE = 64
"""Questions in a row that are refused alike (HTTP 403, 400 ...) before the endpoint counts as down: one image that a
moderation refuses has up to 18 questions (POPE)."""

_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|billing_(?:hard_limit|not_active)|out of credits"
    r"|insufficient (?:balance|credit|fund)"
)
_SOON = re.compile(r"retry|per (?:second|minute|hour)|rate.?limit", re.IGNORECASE)
_SECRET_NAME = re.compile(r"key|token|secret|signature|password|auth|cookie|credential|^sig$|^code$", re.IGNORECASE)
"""Names of headers and of query fields whose values are secret."""


@dataclass(frozen=True)
class Extra:
    """What `--request-json` adds to every request."""

    body: JsonView = field(default_factory=dict)
    """Fields of the body; null leaves one of ours out."""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """What must not be written or shown: the values of headers that carry a key, and the key in them."""
        held = [value for name, value in self.headers.items() if _SECRET_NAME.search(name)]
        return [*held, *(value.split()[-1] for value in held if value.split())]

    @classmethod
    def read(cls, text: str | None, option: str = "--request-json") -> Extra:
        """From JSON text or `@FILE`: an object of body fields; its `headers` are HTTP headers. Raises UserError."""
        if text is None:
            return cls()
        hint = 'expected e.g. \'{"reasoning_effort": "low", "headers": {"x-team": "eval"}}\' or @FILE'
        try:
            fields = json_of(Path(text[1:]).expanduser().read_text() if text.startswith("@") else text)
        except (OSError, ValueError) as error:
            raise UserError(f"{option} cannot be read: {error}", hint) from None
        headers = fields.pop("headers", {}) if isinstance(fields, dict) else None
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise UserError(f"{option} is not an object of fields (with `headers` of texts)", hint)
        if not text.startswith("@") and any(_SECRET_NAME.search(name) for name in headers):
            raise UserError(
                f"{option}: a key on the command line is seen by others and recorded", f"give {option} @FILE"
            )
        if taken := sorted({"model", "messages", "prompt"} & fields.keys()):
            raise UserError(f"{option} must not set {taken[0]!r}", "that is what the harness asks")
        return cls(fields, headers)


class Endpoint:
    """One model at one address."""

    def __init__(self, url: str, model: str, patience: Patience | None = None, extra: Extra | None = None) -> None:
        self._parts, azure = _checked(url)
        if not model:
            raise UserError("an endpoint needs the name of a model", "e.g. openai:http://localhost:8000/v1#NAME")
        self.url, self.model = self.address("/chat/completions"), model
        self.patience, self.extra = patience or Patience(), extra or Extra()
        identity = ["openai-compatible", self.url, model]
        self.fingerprint = sha256_json([*identity, dict(self.extra.body)] if self.extra.body else identity)
        self._dialect = Dialect(self.extra.body)
        key = (os.environ.get("AZURE_OPENAI_API_KEY") if azure else None) or os.environ.get("OPENAI_API_KEY") or ""
        ours = ("api-key", key) if azure else ("Authorization", f"Bearer {key}")
        own = {name.lower() for name in self.extra.headers}
        headers = {**self.extra.headers, **(dict([ours]) if key and ours[0].lower() not in own else {})}
        self._transport = Transport(self.patience, headers, [key, *self.extra.secrets], probe=self.address("/models"))
        self._down: EndpointDown | None = None
        self._wake: asyncio.Event | None = None
        self._streak: tuple[str, int] = ("", 0)
        """What the last questions failed with, and how many of them alike."""

    def address(self, path: str) -> str:
        """The address of one of the endpoint's services, with the query that the user gave."""
        return urlunsplit(self._parts._replace(path=self._parts.path + path))

    def chat(self, messages: list[JsonObject], **parameters: object) -> Reply:
        """The reply to a conversation. Raises as `post` does."""
        return self.post("/chat/completions", {"messages": messages, **parameters}, replies.read_chat)

    def post(self, path: str, body: JsonView, read: Callable[[Any], T] = lambda payload: payload) -> T:
        """What `read` makes of the JSON reply to a body, which gets the model's name; safe for threads.

        `read` may raise AgainError (ask again) or EndpointError. Raises EndpointError after the last attempt,
        EndpointDown where asking on is of no use, UserError where the endpoint refuses us altogether.
        """
        return self._transport.run(self._ask(self.address(path), {"model": self.model, **body}, read))

    @property
    def adapted(self) -> dict[str, str]:
        """Field -> what was said instead, where the server refused what was meant."""
        return self._dialect.record()

    async def _ask(self, url: str, body: JsonObject, read: Callable[[object], T]) -> T:
        import tenacity

        began = time.monotonic()
        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(AgainError),
            wait=self._pause,
            stop=self._enough,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            result: T = await again(self._once, url, body, read)
        except EndpointDown:
            raise
        except EndpointError as error:
            raise self._failed(error, began) from None
        self._streak = ("", 0)
        return result

    def _pause(self, state: Any) -> float:
        """Seconds before the next attempt: what the server asked for, or longer and longer, with jitter."""
        import tenacity

        longest = self.patience.longest_wait
        if (seconds := getattr(state.outcome.exception(), "wait", None)) is not None:
            return min(seconds, longest)
        return tenacity.wait_random_exponential(multiplier=self.patience.first_wait, max=longest)(state)

    def _enough(self, state: Any) -> bool:
        """Whether that was the last attempt. Where questions before this one failed alike, fewer are made."""
        error, spent = state.outcome.exception(), state.seconds_since_start + state.upcoming_sleep
        if error.kind == "connection":
            return spent >= min(self.patience.dead_after, self.patience.deadline)
        kind, alike = self._streak
        attempts = max(2, self.patience.attempts >> alike) if kind == error.kind else self.patience.attempts
        return state.attempt_number >= min(attempts, error.attempts or attempts) or spent >= self.patience.deadline

    async def _sleep(self, seconds: float) -> None:
        """Ends early where the endpoint turns out to be down."""
        self._wake = self._wake or asyncio.Event()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    async def _once(self, url: str, body: JsonObject, read: Callable[[object], T]) -> T:
        """One attempt, with as many requests as adapting to the server takes."""
        room: int | None = None
        while True:
            if self._down is not None:
                raise self._down
            sent = self._dialect.say(body, room)
            reply = await self._transport.post(url, sent)
            try:
                payload, status, words = self._open(reply)
            except AgainError:
                if reply.status != 200:
                    payload, status, words = None, reply.status, self._transport.clean(reply.text[:2000])
                else:
                    raise
            if status == 200:
                result = read(payload)
                had = next((sent[n] for n in ("max_tokens", "max_completion_tokens") if n in sent), None)
                short = isinstance(result, Reply) and had is not None and had < body.get("max_tokens", had)
                return replace(result, room=had) if short else result  # type: ignore[type-var]  # T is Reply there
            if status in (400, 413, 422) and (learned := self._dialect.learn(body, sent, words)) is not False:
                room = room if learned is True else learned
                if room == 0:
                    raise EndpointError("context", f"the question does not fit into the model's context: {words[:200]}")
                continue
            raise self._refusal(status, words, reply)

    def _open(self, reply: HttpReply) -> tuple[object, int, str]:
        """(cleaned JSON, status, the server's complaint); an error inside of HTTP 200 is read as its code says."""
        payload = self._transport.clean_json(replies.parse(self._transport.clean(reply.text)))
        code = replies.error_code(payload) if reply.status == 200 else None
        words = replies.complaint(payload, json.dumps(payload)[:2000])
        return payload, reply.status if code is None else code or 500, words

    def _refusal(self, status: int, words: str, reply: HttpReply) -> Exception:
        """The error that a status other than 200 stands for."""
        refusal = f"HTTP {status}: {words[:200]}" if words.strip() else f"HTTP {status}"
        wait = _retry_after(reply.headers.get("retry-after"))
        if status in REFUSED:
            return UserError(
                f"the endpoint {self.url} refuses model {self.model!r}: {refusal}",
                "check the address, the model's name and OPENAI_API_KEY",
            )
        if status == 402 or (wait is None and _QUOTA.search(words.lower()) and not _SOON.search(words)):
            return EndpointError("quota", refusal)
        if status in RETRIED:
            return AgainError(f"http {status}", refusal, wait)
        return EndpointError(f"http {status}", refusal)

    def _failed(self, error: EndpointError, began: float) -> EndpointError:
        """The failure of a question, counted. It may be the one that shows that the endpoint is down."""
        kind, alike = self._streak
        self._streak = (error.kind, alike + 1 if kind == error.kind else 1)
        if error.kind in ONE_QUESTIONS:
            self._streak = ("", 0)
        limit = self.patience.alike if isinstance(error, AgainError) else REFUSALS_ALIKE
        dead = error.kind == "connection" and self._transport.heard < began
        if dead or error.kind == "quota" or self._streak[1] >= limit:
            self._down = self._down or EndpointDown(error.kind, f"the endpoint {self.url} is of no use: {error}")
            if self._wake is not None:
                self._wake.set()
            return self._down
        return EndpointError(error.kind, f"no usable answer from the endpoint: {error}")

    def many(self, jobs: Sequence[Callable[[], T]], done: Callable[[int], None] | None = None) -> list[T]:
        """Run jobs with the endpoint's concurrency; results in order. The first exception stops the others."""
        with ThreadPoolExecutor(self.patience.concurrency, thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    if done is not None:
                        done(1)
            except BaseException:
                with self._transport.stopped():  # else the pool would wait for every reply that is under way
                    pool.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def close(self) -> None:
        self._transport.close()


def _checked(url: str) -> tuple[SplitResult, bool]:
    """The address split, without a service at its end; and whether it is Azure's. Raises UserError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is not the address of an endpoint", "expected e.g. http://localhost:8000/v1")
    query = parse_qs(parts.query)
    if parts.username or parts.password or any(_SECRET_NAME.search(name) for name in query):
        raise UserError(
            "the address of an endpoint must not hold a key", "set OPENAI_API_KEY, or a header by --request-json @FILE"
        )
    azure = "api-version" in query or parts.hostname.endswith(".azure.com")
    return parts._replace(path=re.sub(r"/*(chat/completions)?/*$", "", parts.path), fragment=""), azure


def _retry_after(header: str | None) -> float | None:
    try:
        seconds = float(header) if header else math.nan
    except ValueError:  # a date: our own pauses do
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
