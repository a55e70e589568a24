"""What stands before every request: whose name it calls, whether it may, how much it sends."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from armor_model.serve.protocol import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


OPEN = ("/", "/health")
"""What needs no token."""
KNOWN = (*OPEN, "/metrics", "/openapi.json", "/v1/models", "/v1/chat/completions", "/v1/images/generations")


class Guard:
    """Middleware: Host, bearer token, and counts by path and status. A Host check keeps a web page whose name was made
    to point to this machine from speaking to a server that trusts loopback."""

    def __init__(self, app: ASGIApp, token: str | None, hosts: frozenset[str] | None) -> None:
        self.app, self.token, self.hosts = app, token, hosts
        self.seen: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["armor.guard"] = self
        began, path = time.monotonic(), scope["path"] if scope["path"] in KNOWN else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.seen[path, message["status"]] += 1
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        refused = self._refusal(scope)
        try:
            await (refused or self.app)(scope, receive, counted)
        finally:
            self.seconds[path] += time.monotonic() - began

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts is not None and host_name(headers.get("host", "")) not in self.hosts:
            return JSONResponse(ApiError(403, "this server does not answer to that Host").body, 403)
        if self.token is None or scope["path"] in OPEN:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token.encode()):
            return None
        body = ApiError(401, "a bearer token is needed", code="invalid_api_key").body
        return JSONResponse(body, 401, {"www-authenticate": "Bearer"})


def host_name(header: str) -> str:
    """The name of a Host header, without its port: `[::1]:8000` is `::1`."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


async def read_bytes(request: Request, most: int, seconds: float) -> bytes:
    """A JSON body. ApiError 415 for another kind (a form of a foreign web page needs no leave to send one), 413 for one
    that is too large, 408 for one that does not come."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "the body must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise ApiError(413, f"the body is larger than {most} bytes")
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {seconds:g} seconds") from None
    return bytes(body)
