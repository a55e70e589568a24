"""A server in a process of its own that answers as a function of the prompt, or fails at seeded random requests."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import socket
import struct
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "429", "html", "null", "half", "reset", "slow")


class RandomFaults:
    """`with RandomFaults(share, seed) as server: server.url`; `begin` changes how many requests fail."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed, self.count = (multiprocessing.Value("d", 0.0) for _ in range(3))
        self.begin(share, seed)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def begin(self, share: float, seed: int) -> None:
        self.share.value, self.seed.value, self.count.value = share, seed, 0

    def __enter__(self) -> RandomFaults:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._server.serve_forever()
            finally:
                os._exit(0)
        self._server.socket.close()
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def _fault(self) -> str | None:
        with self.count.get_lock():
            self.count.value += 1
            number = int(self.count.value)
        chance = random.Random(f"{self.seed.value} {number}")
        return chance.choice(FAULTS) if chance.random() < self.share.value else None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                content = asked["messages"][-1]["content"]
                number = int(hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), 16)
                fault = outer._fault()
                reply = {"message": {"role": "assistant", "content": "ABCD"[number % 4]}, "finish_reason": "stop"}
                body = json.dumps({"choices": [reply]}).encode()
                if fault == "slow":
                    time.sleep(0.05)
                if fault == "html":
                    body = b"<html>busy</html>"
                if fault == "null":
                    body = b'{"choices": [{"message": {"content": null}}]}'
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True  # http.server then closes it
                    return
                self.send_response(int(fault) if fault in ("500", "429") else 200)
                if fault == "429":
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if fault == "half" else body)
                self.close_connection = fault == "half"

            def log_message(self, *_: object) -> None:
                pass

        return Handler
