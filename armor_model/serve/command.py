"""`armor-model serve`: where to listen and who may speak, checked before a model is loaded; and the guard before every
request: whose name it calls, whether it may, how much it sends."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import math
import os
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder
from armor_model.serve.protocol import ApiError

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from armor_model.generation import GenerationSettings
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
TOKEN = "ARMOR_SERVE_TOKEN"
LEAST_TOKEN = 16
"""Letters of a token: fewer can be guessed."""
IDLE_SECONDS = 75
"""An idle connection is kept for so long. uvicorn's default are the very 5 seconds after which httpx, and so OpenAI's
client, gives one up: a request that was sent as its connection ended was lost."""


@dataclass(frozen=True)
class ServeLimits:
    """What one request, and all together, may take."""

    body_bytes: int = 32 * 2**20
    body_seconds: float = 30.0
    """For a body to arrive."""
    images: int = 16
    """Shown in one request; together they have no more pixels than one image may have."""
    batch: int = 8
    """Answers under way at once."""
    queue: int = 64
    """Answers that wait; one more is refused with 429."""
    seconds: float = 600.0
    """For an answer, waiting included."""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < math.inf:
            raise UserError(f"--seconds cannot be {self.seconds}")


def read_token(file: Path | None) -> str | None:
    """The bearer token of a file or of the environment; never an argument, which every user of the machine can read."""
    if file is None:
        token = os.environ.get(TOKEN)
        if token is None:
            return None
    else:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--token-file {file} cannot be read: {error}") from error
    if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"the token must be at least {LEAST_TOKEN} printable ASCII letters",
            "make one: python -c 'import secrets; print(secrets.token_urlsafe())'",
        )
    return token


@dataclass(frozen=True)
class Address:
    """Where to listen, and the token that is asked for."""

    host: str
    port: int
    token: str | None

    @property
    def loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names the server answers to; beyond loopback any, for there the token says who may speak."""
        return LOOPBACK_NAMES | {self.host.lower()} if self.loopback else None

    def check(self) -> None:
        """UserError where anyone could speak to it, or it cannot listen there."""
        if not self.loopback and self.token is None:
            raise UserError(
                f"--host {self.host} lets other machines in, so a token is needed",
                f"set {TOKEN}, or give --token-file FILE",
            )
        self.listening().close()
        try:
            import starlette  # noqa: F401
            import uvicorn  # noqa: F401
        except ImportError as error:
            raise UserError("serving needs starlette and uvicorn", "pip install 'armor-eval[serve]'") from error

    def listening(self) -> socket.socket:
        """The bound socket. UserError where the address is taken or is none of this machine's."""
        bound: socket.socket | None = None
        try:
            family, kind, proto, _, where = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            bound = socket.socket(family, kind, proto)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(where)
        except OSError as error:
            if bound is not None:
                bound.close()
            raise UserError(f"cannot listen on {self.host} port {self.port}: {error}", "--port N") from error
        return bound


def run(
    address: Address,
    folder: Path,
    name: str,
    model: ArmorModel,
    processor: ArmorProcessor,
    settings: GenerationSettings,
    limits: ServeLimits,
    say: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from armor_model.serve.app import Service, create_app

    service = Service(model, processor, name, settings, limits, sha256_folder(folder)[:16])
    server = server_of(create_app(service, address.token, address.hosts))
    bound = address.listening()
    shown = f"[{address.host}]" if ":" in address.host else address.host
    say(f"serving {name} at http://{shown}:{address.port}/v1 - chat at http://{shown}:{address.port}/ - Ctrl-C ends")
    server.run(sockets=[bound])


def server_of(app: Starlette) -> uvicorn.Server:
    """The HTTP server of an application, not yet running."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=1024,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=5,
    )
    return uvicorn.Server(config)


# ---- the guard

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
        from starlette.responses import JSONResponse

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
