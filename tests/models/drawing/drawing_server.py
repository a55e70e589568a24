"""A local server that draws as its model's name says: by `/images/generations`, or in chat answers of three forms."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


def drawn(prompt: str, seed: int, size=(16, 12), form="PNG") -> bytes:
    """An image that hangs on prompt and seed."""
    random = np.random.default_rng([seed, *prompt.encode()])
    buffer = io.BytesIO()
    pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class DrawingServer:
    """`with DrawingServer() as server: server.url`; `server.bodies` keeps the requests."""

    def __init__(self) -> None:
        self.bodies, self.paths, self.fetched = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.paths.append(self.path)
                images = self.path.endswith("/images/generations")
                status, reply = outer.images(body) if images else outer.chat(body)
                self._send(status, json.dumps(reply).encode())

            def do_GET(self) -> None:
                outer.fetched.append(self.path)
                self._send(200, b"{}")

            def _send(self, status: int, raw: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> DrawingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def images(self, body: dict) -> tuple[int, dict]:
        name, prompt = body["model"], body["prompt"]
        if name == "chat-only":
            return 404, {"detail": "Not Found"}
        if name == "moderated" and "bad" in prompt:
            return 400, {"error": {"message": "blocked by the safety system", "code": "moderation_blocked"}}
        for field in ("seed", "response_format"):
            if name == "strict" and field in body:
                return 400, {"error": {"message": f"Unknown parameter: '{field}'.", "param": field}}
        size = tuple(int(side) for side in body.get("size", "16x12").split("x"))
        if name == "stubborn":
            size = (16, 12)
        raw = drawn(prompt, body.get("seed", 0), size, "JPEG" if name == "jpeg" else "PNG")
        entry = {"b64_json": base64.b64encode(raw[:40] if name == "cut" else raw).decode()}
        if name == "rewriter":
            entry["revised_prompt"] = f"A lavish {prompt}"
        if name == "linker":
            entry = {"url": f"{self.url}/secret.png", "b64_json": None}
        return 200, {"created": 1, "data": [entry] * {"twice": 2, "none": 0}.get(name, 1)}

    def chat(self, body: dict) -> tuple[int, dict]:
        name, content = body["model"], body["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else " ".join(p.get("text", "") for p in content)
        data = base64.b64encode(drawn(prompt, body.get("seed", 0))).decode()
        url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        more = base64.b64encode(drawn(prompt, 99)).decode()
        link = f"{self.url}/secret.png"
        message = {
            "images": {"content": "Here it is.", "images": [{**url, "index": 0}]},
            "list": {"content": [{"type": "text", "text": "First"}, url, {"type": "text", "text": "then"}]},
            "both": {"content": [url], "images": [url]},
            "text": {"content": f"Look: ![a]({url['image_url']['url']}) nice"},
            "bare": {"content": url["image_url"]["url"]},
            "words": {"content": "I cannot draw this."},
            "two": {
                "content": "",
                "images": [url, {"type": "image_url", "image_url": f"data:image/png;base64,{more}"}],
            },
            "refusal": {"content": None, "refusal": "I will not."},
            "linker": {"content": "", "images": [{"type": "image_url", "image_url": {"url": link}}]},
            "markdown": {"content": f"![a]({link})"},
        }[name]
        reply = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", **message}}
        return 200, {"object": "chat.completion", "choices": [reply]}
