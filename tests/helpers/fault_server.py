"""A local OpenAI-compatible server that answers well, slowly, wrongly or not at all, as the model's name says."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def good_reply(prompt: str) -> str:
    """A valid verdict on any of VLMEvalKit's judge prompts, a function of the prompt alone."""
    number = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
    if "Correctness" in prompt and "Ground truth" in prompt:
        return f"{number % 11 / 10}"
    if "[Assistant 2]" in prompt:
        return f"{number % 5 + 5} {number % 9 + 1}\nbecause it says so"
    if "Yes / No" in prompt:
        return ("Yes", "No")[number % 2]
    if "Extracted answer:" in prompt:
        return ("A", "1", "-1.0", "0", "B", "It is 1.", "[]", "red")[number % 8]
    return "AB"[number % 2]


class FaultServer:
    """`with FaultServer() as server: server.url`; `server.asked` counts requests, `server.bodies` keeps them."""

    def __init__(self) -> None:
        self.asked, self.bodies, self.headers = 0, [], []
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer._answer(self, body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict) -> None:
        content = body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else "".join(p.get("text", "<image>") for p in content)
        with self._lock:
            self.asked += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            times = self._seen[prompt] = self._seen.get(prompt, 0) + 1
        mode, reply = body["model"], good_reply(prompt)
        if mode == "slow":
            time.sleep(0.05)
        if mode in ("500", "429") and times < 3:
            return self._send(handler, int(mode), b"{}", {"Retry-After": "0"} if mode == "429" else {})
        if mode == "dead":
            return self._send(handler, 500, b"{}")
        if mode == "refused":
            return self._send(handler, 401, b"{}")
        if mode == "garbage":
            reply = "lorem ipsum dolor"
        if mode == "garbage-once" and times < 2:
            reply = "hm"
        if mode == "correctness":
            reply = f"Correctness: {reply}"
        if mode == "not-json":
            return self._send(handler, 200, b"<html>")
        text = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
        if mode == "half" and times < 2:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text[: len(text) // 2])
            handler.close_connection = True
            return None
        if mode == "null":
            text = b'{"choices": [{"message": {"content": null}}]}'
        return self._send(handler, 200, text)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, code: int, body: bytes, headers: dict | None = None) -> None:
        handler.send_response(code)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
