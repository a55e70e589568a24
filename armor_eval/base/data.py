"""Where the declared data lies; and published files from their declared addresses, on request only: resumed where a
transfer was cut, checked whole."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ConfigDict

from armor_model.base.errors import RunFailed
from armor_model.base.files import make_folder

if TYPE_CHECKING:
    import httpx


class Declared(BaseModel):
    """What a file of ours or of a user's declares: unknown keys are refused, and nothing is changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


PATIENCE_SECONDS = 60.0
"""Without a byte from the server for this long the transfer ends; the same command resumes it."""
Progress = Callable[[int, int | None], None]
"""Called with (bytes there, bytes of the whole file where the server says)."""


def fetch(url: str, target: Path, fault: Callable[[Path], str | None], progress: Progress | None = None) -> None:
    """Fetch a file to `target`, which appears only whole: what came so far stays in `TARGET.part` for the next try.

    `fault` says what is wrong with the complete file (its hash), None where it is the published one. Raises RunFailed
    in one line where the server fails, or sends another file (which is removed).
    """
    import httpx

    make_folder(target.parent)
    part = target.with_name(f"{target.name}.part")
    try:
        with httpx.Client(timeout=PATIENCE_SECONDS, follow_redirects=True) as client, part.open("ab") as file:
            _hold(file, part)
            _append(client, url, file, progress)
    except (httpx.HTTPError, OSError) as error:
        kept = part.stat().st_size if part.exists() else 0
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunFailed(
            f"cannot download {url} ({why}); {kept:,} bytes are kept", "the same command resumes, or give a local copy"
        ) from error
    wrong = fault(part)
    if wrong is not None:
        part.unlink()
        raise RunFailed(f"{url} sent another file than the published one: {wrong}", "give a local copy")
    part.replace(target)


def _hold(file: BinaryIO, part: Path) -> None:
    """Keep a second command from writing to the same partial file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFailed(f"another command is writing {part}", "wait for it") from error


def _append(client: httpx.Client, url: str, file: BinaryIO, progress: Progress | None) -> None:
    """Add what the partial file lacks; begin anew where the server cannot send a part."""
    there = file.seek(0, 2)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={there}-"} if there else {})}
    with client.stream("GET", url, headers=headers) as reply:
        if reply.status_code == 416:  # nothing is missing, or the part is longer than the file: its hash tells
            return
        reply.raise_for_status()
        if reply.status_code != 206:
            there = 0
            file.truncate(0)
        length = reply.headers.get("Content-Length", "")
        total = there + int(length) if length.isdigit() else None
        for block in reply.iter_raw():
            file.write(block)
            there += len(block)
            if progress is not None:
                progress(there, total)


def benchmarks_dir() -> Path:
    """The folder of declared benchmarks, claims and profile data.

    A top-level `benchmarks` package would clash in site-packages, so a wheel carries it as `armor_eval/benchmarks`.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "benchmarks"
    return installed if installed.is_dir() else package.parent / "benchmarks"
