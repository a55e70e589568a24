"""An OpenAI-compatible chat endpoint: bounded concurrency, back-off with a deadline, a key that is never written down.

vLLM, SGLang, LMDeploy and the hosted services all speak it. The key comes from `OPENAI_API_KEY`, never from an option.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from armor_eval.errors import UserError
from armor_eval.runs.provenance import sha256_json

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
"""Answers of a server that may be well again soon."""
REFUSED = {401, 403, 404}
"""Answers that will not change: the key, the address or the model's name is wrong."""


class EndpointError(Exception):
    """The endpoint gave no usable answer within the deadline; one line, without the key."""


class _AgainError(Exception):
    """Worth another try."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class Patience:
    """How long an endpoint may take."""

    timeout: float = 60.0
    """Seconds for one request."""
    deadline: float = 300.0
    """Seconds for one question with all its retries."""
    attempts: int = 8
    first_wait: float = 1.0
    """Seconds before the second attempt; doubles, with jitter, up to `longest_wait`."""
    longest_wait: float = 30.0
    concurrency: int = 8


class Endpoint:
    """Chat completions of one model at one address."""

    def __init__(self, url: str, model: str, patience: Patience | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"{url!r} is not the address of an endpoint", "expected e.g. http://localhost:8000/v1")
        if parts.username or parts.password:
            raise UserError("the address of an endpoint must not hold a key", "set OPENAI_API_KEY instead")
        if not model:
            raise UserError("an endpoint needs the name of a model", "e.g. openai:http://localhost:8000/v1#NAME")
        base = re.sub(r"/(chat/completions)?/*$", "", url)
        self.url, self.model = f"{base}/chat/completions", model
        self.patience = patience or Patience()
        self.fingerprint = sha256_json(["openai-compatible", self.url, model])
        self._client: Any = None

    def _http(self) -> Any:
        if self._client is None:
            import httpx

            key = os.environ.get("OPENAI_API_KEY")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            limits = httpx.Limits(max_connections=self.patience.concurrency)
            self._client = httpx.Client(headers=headers, timeout=self.patience.timeout, limits=limits)
        return self._client

    def chat(self, messages: list[dict[str, Any]], **parameters: Any) -> str:
        """The reply's text. Raises EndpointError after the last attempt, UserError where the endpoint refuses us."""
        import tenacity

        wait = tenacity.wait_random_exponential(multiplier=self.patience.first_wait, max=self.patience.longest_wait)

        def pause(state: tenacity.RetryCallState) -> float:
            asked = getattr(state.outcome.exception(), "wait", None)
            return min(asked, self.patience.longest_wait) if asked is not None else wait(state)

        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_AgainError),
            stop=tenacity.stop_after_attempt(self.patience.attempts)
            | tenacity.stop_before_delay(self.patience.deadline),
            wait=pause,
            reraise=True,
        )
        body = {"model": self.model, "messages": messages, **parameters}
        try:
            return again(self._once, body)
        except _AgainError as error:
            raise EndpointError(f"no usable answer from the endpoint: {error}") from None

    def _once(self, body: dict[str, Any]) -> str:
        import httpx

        try:
            response = self._http().post(self.url, json=body)
        except httpx.HTTPError as error:
            raise _AgainError(f"{type(error).__name__}: {error}") from None
        if response.status_code in REFUSED:
            raise UserError(
                f"the endpoint {self.url} refuses model {self.model!r}: HTTP {response.status_code}",
                "check the address, the model's name and OPENAI_API_KEY",
            )
        if response.status_code in RETRIED:
            raise _AgainError(f"HTTP {response.status_code}", _retry_after(response.headers.get("retry-after")))
        if response.status_code != 200:
            raise EndpointError(f"HTTP {response.status_code}: {response.text[:200]}")
        try:
            choice = response.json()["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise _AgainError("the answer is not a chat completion") from None
        if not isinstance(text, str):
            raise _AgainError("the answer holds no text")
        return text

    def many(self, jobs: Sequence[Callable[[], Any]], done: Callable[[int], None] | None = None) -> list[Any]:
        """Run jobs with the endpoint's concurrency; results in order. The first exception stops what has not begun."""
        from concurrent.futures import as_completed

        with ThreadPoolExecutor(self.patience.concurrency, thread_name_prefix="endpoint") as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
                    if done is not None:
                        done(1)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _retry_after(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None
