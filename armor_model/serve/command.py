"""`armor-model serve`: where to listen and who may speak, checked before a model is loaded."""

from __future__ import annotations

import ipaddress
import math
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

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
