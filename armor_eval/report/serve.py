"""Pages of runs over HTTP (starlette): a table of all runs under some folders, and each run's page with full images.

    armor-eval view runs/

It reads bundles and their questions, and writes nothing. It answers requests that were made to this machine's own name
(no DNS rebinding), gives out images that a record of a bundle names and nothing else, and allows no script but its own.
"""

from __future__ import annotations

import fcntl
import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from armor_eval.profiles import profile_of
from armor_eval.report import page, viewer
from armor_eval.report.doc import interval_text, value_text
from armor_eval.report.loading import RunView, inside, load_runs
from armor_eval.report.question_images import QuestionImages, is_reference
from armor_eval.runs.bundle import as_found, find_runs, read_head
from armor_eval.runs.schema import Run
from armor_eval.tasks.understanding.images import BadImageError, image_cells
from armor_eval.tasks.understanding.table import Row
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOSTS = ["127.0.0.1", "localhost"]
"""Names that a request may have been made to."""
IMAGE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""What a file must be, by its content, to be given out."""


@dataclass
class _Tally:
    """A journal's items by status, read on from where it was left: a run that is going on only appends."""

    identity: tuple[int, int] = (0, 0)
    """(device, inode): another file in its place, as a finished run writes one, is counted anew."""
    offset: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def read(self, file: Path) -> Counter[str]:
        try:
            with file.open("rb") as journal:
                state = file.stat()
                if (state.st_dev, state.st_ino) != self.identity or state.st_size < self.offset:
                    self.identity, self.offset, self.counts = (state.st_dev, state.st_ino), 0, Counter()
                journal.seek(self.offset)
                for line in journal:
                    if not line.endswith(b"\n"):
                        break
                    self.offset += len(line)
                    if (status := _status(line)) is not None:  # else torn: its item is asked again
                        self.counts[status] += 1
        except FileNotFoundError:
            return Counter()
        return self.counts


def _status(line: bytes) -> str | None:
    """Of an item's line; None where it is none. Text of a model may hold what a strict reader refuses."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return None
    status = item.get("status") if isinstance(item, dict) else None
    return status if status in viewer.STATUSES else None


class Library:
    """The runs at and below some folders, each by a key that names no path. For several threads."""

    def __init__(self, roots: Iterable[Path], data: Path | None = None) -> None:
        self.roots = [root.absolute() for root in roots]
        self.data = data
        self._tallies: dict[str, _Tally] = {}
        self._questions: dict[str, Row] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._lock = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Key -> folder of every run that is there now. UserError where a run lies inside another one."""
        by_path = {folder.resolve(): None for root in self.roots for folder in find_runs(root)}
        return {sha256_text(str(folder))[:16]: folder for folder in by_path}

    def rows(self) -> list[JsonObject]:
        """A record a run, the newest first; of one that cannot be read only its name and why."""
        with self._lock:
            rows = [self._row(key, folder) for key, folder in self.folders().items()]
        return sorted(rows, key=lambda row: row["date"], reverse=True)

    def _row(self, key: str, folder: Path) -> JsonObject:
        row: JsonObject = dict.fromkeys(("date", "model", "benchmark", "score", "interval", "unit", "state", "why"), "")
        row |= {"key": key, "folder": self._name(folder), "value": None, "items": 0, "of": None, "counts": {}}
        try:
            run, scores = read_head(folder)
        except UserError as error:
            return row | {"state": "unreadable", "why": error.line()}
        counts = self._tallies.setdefault(key, _Tally()).read(folder / "items.jsonl")
        run = as_found(folder, run, scores, counts.total())
        view = RunView(folder, run, scores)
        metric = view.primary
        row |= {
            "date": run.started,
            "model": view.who,
            "benchmark": f"{run.benchmark}{profile_of(run.profile).label}",
            "state": state_of(folder, run) + (", a subset" if run.subset else ""),
            "why": run.status_reason or "",
            "items": counts.total(),
            "of": _expected(run),
            "counts": dict(counts),
        }
        if metric is not None:
            row |= {"score": value_text(metric), "interval": interval_text(metric), "value": metric.value}
        return row

    def _name(self, folder: Path) -> str:
        """The folder as a reader knows it: below the root that it was found under."""
        for root in map(Path.resolve, self.roots):
            if folder.is_relative_to(root):
                return str(Path(root.name) / folder.relative_to(root))
        return folder.name

    def page(self, keys: Iterable[str]) -> str:
        """The report of these runs, images by address. UserError for a run that is not there or cannot be read."""
        folders = self.folders()
        keys = list(dict.fromkeys(keys))
        if unknown := [key for key in keys if key not in folders]:
            raise UserError(f"no run {unknown[0][:40]!r} here", "go back to the table of all runs")
        views = load_runs([folders[key] for key in keys])
        live = [key for key, view in zip(keys, views, strict=True) if state_of(view.path, view.run) == "running"]
        title = views[0].label if len(views) == 1 else f"{len(views)} runs"
        return page.render_page(views, title=title, data=self.data, served=page.Served(self._link, live))

    def _link(self, folder: Path, name: str, key: str, questions: QuestionImages) -> list[str]:
        """The addresses of an image that a record names; from then on it is given out."""
        if not is_reference(name):
            run = sha256_text(str(folder))[:16]
            self._files[run, name] = folder
            return [f"/image/{run}/{quote(name, safe='')}"]
        row = self._questions[key] = questions.rows[key]
        cell = row.image or ""
        try:
            parts = len(image_cells(cell)) if cell.startswith("[") else 1
        except BadImageError:
            parts = 0
        return [f"/question/{key}/{part}" for part in range(parts)]

    def image(self, run: str, name: str) -> tuple[bytes, str] | None:
        """(content, type) of an image that a shown record of the run names; None for anything else."""
        from PIL import Image, UnidentifiedImageError

        folder = self._files.get((run, name))
        path = inside(folder, name) if folder is not None else None
        if path is None:
            return None
        try:
            data = path.read_bytes()
            with Image.open(io.BytesIO(data)) as image:
                kind = IMAGE_TYPES.get(image.format or "")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
            return None
        return (data, kind) if kind is not None else None

    def question(self, key: str, part: int) -> bytes | None:
        """An image of a shown question as PNG, as the model was shown it."""
        row = self._questions.get(key)
        try:
            images = row.images() if row is not None else []
        except BadImageError:
            return None
        if not 0 <= part < len(images):
            return None
        buffer = io.BytesIO()
        images[part].save(buffer, format="PNG", compress_level=1)
        return buffer.getvalue()


def state_of(folder: Path, run: Run) -> str:
    """The run's status; one that nobody writes any more is `interrupted`, not `running`."""
    if run.status != "running":
        return run.status
    try:
        with (folder / ".lock").open("rb") as lock:  # held for no longer than the asking
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except OSError:
        pass
    return "interrupted"


def _expected(run: Run) -> int | None:
    """Items of the whole run, where one process or several measure all of it."""
    if "shard" in run.extras:
        return None
    return run.subset.items if run.subset is not None else run.data.items


def make_app(library: Library) -> Starlette:
    """The server: `/` the table, `/runs?run=KEY&run=KEY` a page, `/api/runs` the table as JSON, and the images."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import Response
    from starlette.routing import Route

    def html(text: str, scripts: list[str], status: int = 200) -> Response:
        headers = {"Content-Security-Policy": page.policy(scripts, True) + "; frame-ancestors 'none'"}
        return Response(text, status, _SAFE | headers, "text/html; charset=utf-8")

    def table(request: Request) -> Response:
        script = page.asset("live.js")
        return html(_table(library, script), [script])

    def runs(request: Request) -> Response:
        scripts = [page.asset("viewer.js"), page.asset("live.js")]
        return html(library.page(request.query_params.getlist("run")), scripts)

    def rows(request: Request) -> Response:
        return Response(json.dumps(library.rows()), 200, _SAFE, "application/json")

    def image(request: Request) -> Response:
        stored = library.image(request.path_params["run"], request.path_params["name"])
        return _missing() if stored is None else Response(stored[0], 200, _SAFE, stored[1])

    def question(request: Request) -> Response:
        stored = library.question(request.path_params["key"], request.path_params["part"])
        return _missing() if stored is None else Response(stored, 200, _SAFE, "image/png")

    def mistake(request: Request, error: Exception) -> Response:
        return Response(str(error), 404, _SAFE, "text/plain; charset=utf-8")

    def _missing() -> Response:
        return Response("no such image", 404, _SAFE, "text/plain")

    places: dict[str, Callable[[Request], Response]] = {
        "/": table,
        "/runs": runs,
        "/api/runs": rows,
        "/image/{run}/{name:path}": image,
        "/question/{key}/{part:int}": question,
    }
    return Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in places.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
        exception_handlers={UserError: mistake},
    )


_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


def _table(library: Library, script: str) -> str:
    from markupsafe import Markup

    return (
        page.environment()
        .get_template("runs.html.j2")
        .render(
            rows=library.rows(),
            roots=[root.name or str(root) for root in library.roots],
            policy=page.policy([script], True),
            style=Markup(page.asset("page.css")),
            script=Markup(script),
        )
    )
