"""HTTP to a server that is not trusted: a deadline over the whole reply, a bound on its size, no key in what it says.

Requests run in an event loop in a thread of its own, because what waits there can be cancelled (Ctrl-C, a server that
is down) and a blocked socket cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from armor_model.base.errors import one_line

if TYPE_CHECKING:
    import httpx


T = TypeVar("T")

SHORTEST_SECRET = 8
"""Characters from which on a key is secret: `EMPTY` and `none` are what local servers are given, and are words."""
REMOVED = "[key removed]"
CONNECT_SECONDS = 10.0


class EndpointError(Exception):
    """The endpoint gave no usable answer; one printable line, without the key."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(one_line(message))
        self.kind = kind
        """What went wrong, to be counted by: `connection`, `timeout`, `http 403`, `content_filter` ..."""


class EndpointDown(EndpointError):  # noqa: N818 - what the endpoint is
    """Asking on is of no use: the server is dead, the quota is spent, or question after question fails alike."""


class AgainError(EndpointError):
    """Worth another try, after `wait` seconds if the server said so, `attempts` in all if that is less than usual."""

    def __init__(self, kind: str, message: str, wait: float | None = None, attempts: int | None = None) -> None:
        super().__init__(kind, message)
        self.wait, self.attempts = wait, attempts


@dataclass(frozen=True)
class Patience:
    """How long an endpoint may take, and how much it may say."""

    timeout: float = 600.0
    """Seconds from a request to the last byte of its reply, however slowly it drips."""
    deadline: float = 1800.0
    """Seconds for one question with all its retries."""
    attempts: int = 8
    first_wait: float = 1.0
    """Seconds before the second attempt; doubles, with jitter, up to `longest_wait`."""
    longest_wait: float = 30.0
    dead_after: float = 80.0
    """Seconds without a sign of life after which the server counts as dead: under two minutes with CONNECT_SECONDS."""
    alike: int = 8
    """Questions in a row that end with the same failure, after their retries, before the endpoint counts as down."""
    concurrency: int = 8
    max_reply_bytes: int = 16 << 20
    """Of one reply, as sent and as decompressed."""


@dataclass(frozen=True)
class HttpReply:
    status: int
    headers: Mapping[str, str]
    text: str


class Transport:
    """POST of JSON with Patience's limits. `heard`: time.monotonic() of the server's last sign of life."""

    def __init__(self, patience: Patience, headers: Mapping[str, str], secrets: Sequence[str], probe: str) -> None:
        self.heard = 0.0
        self._patience, self._headers, self._probe = patience, dict(headers), probe
        self._secrets = sorted((s for s in set(secrets) if len(s) >= SHORTEST_SECRET), key=len, reverse=True)
        self._client: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[Future] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, work: Coroutine[object, object, T]) -> T:
        """The result of a coroutine, from any thread. `stopped` ends it with concurrent.futures.CancelledError."""
        with self._lock:
            if self._stopping:
                work.close()
                raise CancelledError
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoint-loop", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._open.add(future)
        if self._stopping:
            future.cancel()
        try:
            return future.result()
        finally:
            future.cancel()  # nothing to do but where the waiting thread was interrupted
            self._open.discard(future)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Everything that is under way ends, and what begins inside ends at once."""
        self._stopping = True
        for future in list(self._open):
            future.cancel()
        try:
            yield
        finally:
            self._stopping = False

    def close(self) -> None:
        with self.stopped():
            pass
        if self._loop is None:
            return
        self.run(self._leave())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop = None

    async def _leave(self) -> None:
        """Let what was cancelled end, and the connections be closed."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def post(self, url: str, body: object) -> HttpReply:
        """Raises AgainError where no whole reply came, EndpointError where it is too large."""
        import httpx

        self._http()  # its making, the first time, is no part of the server's time
        began = time.monotonic()
        exchange = asyncio.ensure_future(self._exchange(url, json.dumps(body).encode()))
        try:
            async with asyncio.timeout(self._patience.timeout):
                while not (await asyncio.wait({exchange}, timeout=self._patience.dead_after))[0]:
                    silent = time.monotonic() - max(self.heard, began)
                    if silent >= self._patience.dead_after and not await self._breathes():
                        raise AgainError("connection", f"the server gave no sign of life for {silent:.0f} s")
                return exchange.result()
        except TimeoutError:
            raise AgainError("timeout", f"no whole reply within {self._patience.timeout:g} s", attempts=2) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AgainError("connection", self.clean(f"{type(error).__name__}: {error}")) from None
        except httpx.HTTPError as error:
            raise AgainError("broken reply", self.clean(f"{type(error).__name__}: {error}")) from None
        finally:
            exchange.cancel()

    async def _exchange(self, url: str, content: bytes) -> HttpReply:
        headers = {"content-type": "application/json", "accept-encoding": "gzip"}
        async with self._http().stream("POST", url, content=content, headers=headers) as response:
            self.heard = time.monotonic()
            limit = self._patience.max_reply_bytes
            declared = response.headers.get("content-length", "")
            if declared.isdecimal() and int(declared) > limit:
                raise _too_large(limit)
            expand = _expander(response.headers.get("content-encoding", ""), limit)
            text, sent = bytearray(), 0
            async for raw in response.aiter_raw():
                self.heard = time.monotonic()
                sent += len(raw)
                text += expand(raw, limit - len(text))
                if max(sent, len(text)) > limit:
                    raise _too_large(limit)
            return HttpReply(response.status_code, response.headers, text.decode("utf-8", "replace"))

    async def _breathes(self) -> bool:
        """Whether anything at all answers at the address while a reply is waited for."""
        import httpx

        try:
            async with asyncio.timeout(CONNECT_SECONDS), self._http().stream("GET", self._probe):
                self.heard = time.monotonic()
                return True
        except (httpx.HTTPError, TimeoutError):
            return False

    def _http(self) -> httpx.AsyncClient:
        if self._client is None:
            import httpx

            # one connection is kept for the probe
            limits = httpx.Limits(max_connections=self._patience.concurrency + 1)
            connect = min(CONNECT_SECONDS, self._patience.timeout)
            self._client = httpx.AsyncClient(
                headers=self._headers, timeout=httpx.Timeout(None, connect=connect), limits=limits
            )
        return self._client

    def clean(self, text: str) -> str:
        """The text without keys that a server echoes and without what UTF-8 cannot hold."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        return text.encode("utf-8", "replace").decode("utf-8")

    def clean_json(self, value: object) -> object:
        """JSON with every text cleaned, keys of objects too."""
        if isinstance(value, str):
            return self.clean(value)
        if isinstance(value, list):
            return [self.clean_json(item) for item in value]
        if isinstance(value, dict):
            return {self.clean(key): self.clean_json(item) for key, item in value.items()}
        return value


def _expander(encoding: str, limit: int) -> Callable[[bytes, int], bytes]:
    """(raw bytes, room) -> at most room + 1 bytes: a small reply must not become a large one in memory."""
    if encoding in ("", "identity"):
        return lambda raw, room: raw
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise EndpointError("broken reply", f"the reply is compressed as {encoding!r}, which was not asked for")
    inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, as its header says

    def expand(raw: bytes, room: int) -> bytes:
        try:
            return inflate.decompress(raw, room + 1)
        except zlib.error as error:
            raise AgainError("broken reply", f"the reply cannot be decompressed: {error}") from None

    return expand


def _too_large(limit: int) -> EndpointError:
    return EndpointError("too large", f"the reply is larger than {limit} bytes")
