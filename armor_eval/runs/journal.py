"""The append-only journal of a run, a line an item, safe against a kill at any instant and against several writers; and
the seal: hashes by which a record that was edited is told from one that was measured.

The seal guards against accidents - an editor, a script, a half-copied folder -, not against a forger, who can seal
again.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from armor_eval.runs.schema import Item, Run, Seal
from armor_model.base.files import check_in_place, write_file
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.parsing import json_of

log = logging.getLogger(__name__)

_EVERY_FIELD = set(Item.model_fields)
FSYNC_SECONDS = 1.0
"""A killed process loses nothing that was written; a machine that loses power loses at most this much."""


class Journal:
    """Appends whole lines with one write call each, so that concurrent processes can share the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._synced = time.monotonic()

    def append(self, item: Item) -> None:
        """Write one record; on return the operating system has it. A torn line left by a killed writer is closed.

        RunFailed where the file is no longer in its place (`check_in_place`).
        """
        line = (item.model_dump_json() + "\n").encode("utf-8")
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            size = check_in_place(self.path, self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = os.write(self._descriptor, line)
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        if time.monotonic() - self._synced > FSYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = time.monotonic()

    def close(self) -> None:
        if self._descriptor >= 0:
            self.sync()
            os.close(self._descriptor)
            self._descriptor = -1


def read_journal(path: Path) -> tuple[dict[str, Item], int]:
    """Records by id in the order written, and how many lines were torn or repeated (those items count as not done)."""
    items, dropped = check_journal(path)
    if dropped:
        log.warning("%s: %d torn or repeated lines were left out", path, dropped)
    return items, dropped


def check_journal(path: Path) -> tuple[dict[str, Item], int]:
    """As read_journal, for a caller that tells the reader itself."""
    items: dict[str, Item] = {}
    dropped = 0
    if not path.exists():
        return items, dropped
    collecting = gc.isenabled()
    gc.disable()  # a hundred thousand live records hold no cycle, and walking them again and again takes half the time
    try:
        with path.open("rb") as lines:
            for line in lines:
                if not line.strip():
                    continue
                item = _parsed(line)
                if item is None:
                    dropped += 1
                    continue
                if items.setdefault(item.id, item) is not item:
                    dropped += 1
                # pydantic's own set of the names that were given takes half of an item's memory; nothing here asks it
                object.__setattr__(item, "__pydantic_fields_set__", _EVERY_FIELD)
    finally:
        if collecting:
            gc.enable()
    return items, dropped


def _parsed(line: bytes) -> Item | None:
    """The record of a line; None where it is torn, no record, or nested too deep."""
    try:
        return Item.model_validate_json(line)
    except ValidationError:
        pass
    try:  # slower, but takes the lone surrogates that models utter
        return Item.model_validate(json_of(line))
    except ValueError:
        return None


def rewrite_journal(path: Path, items: Iterable[Item]) -> None:
    write_file(path, "".join(item.model_dump_json() + "\n" for item in items))


SEALED = {"items": "items.jsonl", "scores": "scores.json"}


def write_run(folder: Path, run: Run, *, seal: bool) -> Run:
    """Write run.json as a whole, sealed over the files beside it where `seal`; returns the record as written."""
    run = run.model_copy(update={"seal": None})
    if seal:
        hashes = {part: sha256_file(folder / name) for part, name in SEALED.items() if (folder / name).is_file()}
        record = json.loads(run.model_dump_json())
        run = run.model_copy(update={"seal": Seal(**hashes, run=_record_hash(record))})
    write_file(folder / "run.json", run.model_dump_json(indent=1) + "\n")
    return run


def changed_files(folder: Path, run: Run) -> list[str]:
    """The files of a bundle that are not as they were when it was scored; a file that is gone is not a changed one.

    Empty for a bundle without a seal: of before there was one, or not scored yet.
    """
    if run.seal is None:
        return []
    changed = [
        name
        for part, name in SEALED.items()
        if (expected := getattr(run.seal, part)) is not None
        and (folder / name).is_file()
        and sha256_file(folder / name) != expected
    ]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8", errors="surrogatepass"))
    return changed if _record_hash(record) == run.seal.run else [*changed, "run.json"]


def _record_hash(record: dict[str, object]) -> str:
    """Of the record as JSON without its seal: a later version's new fields do not break the seals of older runs."""
    return sha256_json({name: value for name, value in record.items() if name != "seal"})
