"""A local HTTP server that answers as a test's function says: JSON, bytes, or pieces that come when they come."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """One request. `count`: how many POSTs came before it."""

    method: str
    path: str
    body: Any
    headers: dict[str, str]
    count: int

    @property
    def text(self) -> str:
        """All text of the last message."""
        content = self.body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]


def chat(content: Any = "B", finish: str | None = "stop", **message: Any) -> Reply:
    return 200, {"choices": [{"finish_reason": finish, "message": {"content": content, **message}}]}


def refusal(status: int, words: str, **fields: Any) -> Reply:
    return status, {"error": {"message": words, **fields}}


def events(*payloads: Any, end: bool = True) -> Reply:
    """Server-sent events, with a comment first, as keep-alive does."""
    lines = [": ping\n\n", *(f"data: {json.dumps(p)}\n\n" for p in payloads), *(["data: [DONE]\n\n"] if end else [])]
    return 200, "".join(lines).encode(), {"content-type": "text/event-stream"}


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@contextmanager
def nobody() -> Iterator[str]:
    """An address at which nobody listens. Its port is taken meanwhile: that of a server which has ended may soon be
    another test's."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


class ScriptedServer:
    """`with ScriptedServer(script) as server: server.url`; `server.asked` keeps every request.

    `script` makes (status, payload[, headers]) of a request: a payload of bytes is sent as it is, an iterable in chunks
    as it comes, all else as JSON. None: the connection is held open, silent, until the server is closed.
    """

    def __init__(self, script: Callable[[Asked], Reply | None]) -> None:
        self.script, self.asked, self.closing = script, [], threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize, disable_nagle_algorithm = 1 << 16, True  # a reply in one packet, else each costs 40 ms

            def do_POST(self) -> None:
                outer._handle(self)

            do_GET = do_POST  # noqa: N815 - http.server's name

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, request_queue_size = True, 64

            def handle_error(self, *_: object) -> None:
                """A client that went away is what these tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            posts = sum(one.method == "POST" for one in self.asked)
            asked = Asked(handler.command, handler.path, json.loads(raw) if raw else None, headers, posts)
            self.asked.append(asked)
        reply = self.script(asked)
        if reply is None:
            self.closing.wait()
            handler.close_connection = True
            return
        status, payload, own = (*reply, {})[:3]
        pieces: Iterable[bytes] | None = None
        if not isinstance(payload, (bytes, dict, list, str)):
            pieces = payload
        body = b"" if pieces is not None else payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        length = {"transfer-encoding": "chunked"} if pieces is not None else {"content-length": str(len(body))}
        handler.send_response(status)
        for name, value in {"content-type": "application/json", **length, **own}.items():
            handler.send_header(name, value)
        handler.end_headers()
        for piece in pieces if pieces is not None else ():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n" if pieces is not None else body)
