"""The read side of the Hugging Face hub on the loopback interface: folders by id, as `HF_ENDPOINT` reaches them."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from huggingface_hub import constants

PATIENCE = ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT")


class HubServer:
    """`repositories`: id -> revision -> folder. `asked`: paths of files whose content was fetched."""

    def __init__(self, repositories: dict[str, dict[str, Path]]) -> None:
        self.repositories, self.asked = repositories, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self, body=True)

            def do_HEAD(self) -> None:
                outer._answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def used_by(self, monkeypatch, cache: Path) -> None:
        """Send this process's hub client here."""
        monkeypatch.setattr(constants, "ENDPOINT", self.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        for name in PATIENCE:  # 10 s each, which a busy machine may take
            monkeypatch.setattr(constants, name, 600)

    def environment(self, cache: Path) -> dict[str, str]:
        """For another process."""
        patience = dict.fromkeys(PATIENCE, "600")
        return {"HF_ENDPOINT": self.url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", **patience}

    def commit(self, repository: str, revision: str) -> str:
        return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()

    def _folder(self, repository: str, revision: str) -> Path | None:
        """By a revision's name or its commit."""
        for name, folder in self.repositories.get(repository, {}).items():
            if revision in (name, self.commit(repository, name)):
                return folder
        return None

    def _answer(self, handler: BaseHTTPRequestHandler, body: bool) -> None:
        parts = unquote(urlsplit(handler.path).path).strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        if len(parts) < (6 if api else 5):
            return self._send(handler, 404, b"{}", body)
        repository = "/".join(parts[2:4] if api else parts[:2])
        revision = parts[5] if api else parts[3]
        folder = self._folder(repository, revision)
        if folder is None:
            code = "RevisionNotFound" if repository in self.repositories else "RepoNotFound"
            return self._send(handler, 404, b"{}", body, {"X-Error-Code": code})
        commit = next(c for n in self.repositories[repository] if revision in (n, c := self.commit(repository, n)))
        if api and parts[4] == "revision":
            return self._send(handler, 200, json.dumps({"id": repository, "sha": commit}).encode(), body)
        if api:
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            tree = [
                {"type": "file", "path": str(f.relative_to(folder)), "size": f.stat().st_size, "oid": _digest(f)}
                for f in files
            ]
            return self._send(handler, 200, json.dumps(tree).encode(), body)
        name = "/".join(parts[4:])
        if body:
            self.asked.append(name)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_digest(folder / name)}"'}
        return self._send(handler, 200, (folder / name).read_bytes(), body, headers)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, data: bytes, body: bool, headers: dict | None = None):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if body:
            handler.wfile.write(data)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
