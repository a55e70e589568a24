"""Writes, resumes and reads a run bundle (`run.json`, `items.jsonl`, `scores.json`, `images/`).

    with Bundle.open(folder, run) as bundle:
        for question in [q for q in questions if q.id not in bundle.items]:
            bundle.append(Item(...))
        bundle.finish(list(bundle.items.values()), scores)

Opening a folder that holds the same run resumes it; one that holds another run is refused, naming the field.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from armor_eval.base.images import is_whole_image
from armor_eval.runs import provenance
from armor_eval.runs.journal import Journal, read_journal, rewrite_journal, write_run
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import SCHEMA_VERSION, Item, Run, RunKind, RunStatus, Scores, decoding_of
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.files import make_folder, write_file, writing
from armor_model.base.parsing import fault_of, json_of

if TYPE_CHECKING:
    from PIL import Image


HEARTBEAT_SECONDS = 10.0
"""How often run.json's costs are brought up to date: what a kill -9 can take from the accounting."""

SAME_RUN: dict[str, Callable[[Run], object]] = {
    "kind of run": lambda run: run.kind,
    "benchmark": lambda run: run.benchmark,
    "profile": lambda run: run.profile,
    "subset (--limit, --seed)": lambda run: run.subset,
    "data (sha256)": lambda run: (run.data.name, run.data.sha256),
    "prompts (hash)": lambda run: run.prompt_sha256,
    "model (fingerprint)": lambda run: run.model.fingerprint,
    "decoding": decoding_of,
    "dtype": lambda run: run.model.dtype,
    "options of the model": lambda run: run.extras.get("drawing", {}).get("asked", {}),
    "seeds": lambda run: run.seeds,
    "protocol": lambda run: ", ".join(f"{name} {value}" for name, value in sorted(protocol_of(run).items())),
    "shard": lambda run: run.extras.get("shard"),
    "answers that are judged (run or sha256)": lambda run: run.extras.get("graded_answers"),
}
"""What must agree for two runs to share a folder."""

_SAME_SCORING: dict[str, Callable[[Run], object]] = {"scorer": lambda run: run.scorer, "judge": lambda run: run.judge}
"""What must agree too where verdicts are there: once scores are written, and where items are judged as they come. The
answers of an unfinished understanding run have none yet: another judge simply scores them."""


class Bundle:
    """One run's folder, held by one command at a time."""

    def __init__(self, path: Path, run: Run, items: dict[str, Item], journal: Journal, lock: int | None) -> None:
        self.path = path
        self.run = run
        self.items = items
        self._journal = journal
        self._lock = lock
        self._clock = provenance.Clock()
        self._base = (run.wall_seconds, run.cpu_seconds, run.peak_memory_bytes)
        self._beat = time.monotonic()
        self.asked_seconds = 0.0
        """How long this process waited for the model, for tasks that report it."""

    @classmethod
    def open(cls, path: Path, run: Run, *, anew: bool = False) -> Self:
        """Create the folder, or resume the same run in it; costs add up over resumes.

        Items that ended as `error`, and those whose images are cut, are forgotten, so that resuming tries them again; a
        complete run that lost items since is taken up again. With `anew` an earlier record in the folder is replaced:
        for a command that resumes by files of its own. Raises UserError when the folder holds another run, a newer
        schema, something else, lies inside another run, or is in use.
        """
        refuse_nesting(path)
        make_folder(path)
        archive = is_archive(path)
        lock = _take_lock(path)
        try:
            for name in ("run.json", "scores.json", "items.jsonl", "series.jsonl") if anew else ():
                (path / name).unlink(missing_ok=True)
            earlier = _read_run(path) if (path / "run.json").exists() else None
            if earlier is None and (path / "items.jsonl").exists():
                raise UserError(f"{path} holds items.jsonl without run.json", "give another --out or remove it")
            items, dropped = read_journal(path / "items.jsonl")
            if earlier is not None:
                if earlier.status == "complete" and not archive:
                    earlier = as_found(path, *read_head(path), len(items))
                run = _continue(path, earlier, run)
            kept = items
            if run.status != "complete":
                run = write_run(
                    path, run, seal=False
                )  # before the journal: no reader takes a resumed run for a scored one
                kept = {i: item for i, item in items.items() if item.status != "error" and _has_images(path, item)}
            if dropped or len(kept) != len(items):
                rewrite_journal(path / "items.jsonl", kept.values())
            return cls(path, run, kept, Journal(path / "items.jsonl"), lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def join(cls, path: Path) -> Self:
        """A further process of the same run: it appends to the journal, and leaves everything else to the first."""
        items, _ = read_journal(path / "items.jsonl")
        return cls(path, _read_run(path), items, Journal(path / "items.jsonl"), None)

    @property
    def complete(self) -> bool:
        return self.run.status == "complete"

    def append(self, item: Item) -> None:
        """Journal one item. An id that is there already is a bug of the caller and raises ValueError."""
        if item.id in self.items:
            raise ValueError(f"item {item.id} is in the journal already")
        self._journal.append(item)
        self.items[item.id] = item
        if self._lock is not None and time.monotonic() - self._beat > HEARTBEAT_SECONDS:
            self._write_run()

    def forget(self, ids: Iterable[str]) -> None:
        """Take items out of the journal, so that they are made again."""
        if gone := set(ids):
            self.items = {id: item for id, item in self.items.items() if id not in gone}
            self._rewrite(self.items.values())

    def _rewrite(self, items: Iterable[Item]) -> None:
        self._journal.close()
        rewrite_journal(self.path / "items.jsonl", items)
        self._journal = Journal(self.path / "items.jsonl")

    def adopt(self) -> None:
        """Read what other processes of this run appended."""
        self.items, _ = read_journal(self.path / "items.jsonl")

    def add_image(self, image: Image.Image) -> str:
        """Store an image under the hash of its PNG and return its path inside the bundle."""
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        name = f"images/{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.png"
        target = self.path / name
        with writing(self.path):
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                temporary = target.with_suffix(f".{os.getpid()}.tmp")
                temporary.write_bytes(buffer.getvalue())
                temporary.replace(target)
        return name

    def update(self, **fields: object) -> None:
        """Change fields of run.json (extras, training ...), validated, and write it."""
        self.run = Run.model_validate({**self.run.model_dump(), **fields})
        self._write_run()

    def leave_partial(self, reason: str) -> None:
        """End without scores: a part of a run that is scored elsewhere."""
        self._journal.sync()
        fields = {"status": "partial", "status_reason": reason, "finished": provenance.now()}
        self.run = self.run.model_copy(update=fields)
        self._write_run()

    def finish(self, items: Iterable[Item], scores: Scores, reason: str | None = None) -> RunStatus:
        """Write the scored items and the scores, then - last - the status that marks the bundle as whole.

        `partial` when items are missing, a headline is withheld, or a reason is given; else `complete`.
        """
        items = list(items)
        missing = scores.expected_items - len(items)
        reason = (
            reason or scores.withheld or (f"{missing} of {scores.expected_items} items missing" if missing else None)
        )
        with writing(self.path):
            self._rewrite(items)
            self.items = {item.id: item for item in items}
            write_file(self.path / "scores.json", scores.model_dump_json(indent=1) + "\n")
        status: RunStatus = "partial" if reason else "complete"
        self.run = self.run.model_copy(update={"status": status, "status_reason": reason, "finished": provenance.now()})
        self._write_run()
        return status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Leave the folder resumable: an interrupt stays `running`, an error is recorded as `failed`."""
        try:
            if kind is not None and self._lock is not None and self.run.status == "running":
                if issubclass(kind, Exception):
                    reason = " ".join(f"{kind.__name__}: {error}".split())[:300]
                    self.run = self.run.model_copy(update={"status": "failed", "status_reason": reason})
                else:
                    self.run = self.run.model_copy(update={"status_reason": "interrupted"})
                self._write_run()
        except (OSError, RunFailed):  # what ended the run is what is told
            if kind is None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_run(self) -> None:
        wall, cpu, peak = self._base
        self.run = self.run.model_copy(
            update={
                "wall_seconds": round(wall + self._clock.wall(), 3),
                "cpu_seconds": round(cpu + self._clock.cpu(), 3),
                "peak_memory_bytes": max(peak, provenance.peak_memory_bytes()),
            }
        )
        scored = self.run.status in ("complete", "partial") and (self.path / "scores.json").is_file()
        with writing(self.path):
            self.run = write_run(self.path, self.run, seal=scored)
        self._beat = time.monotonic()


def _has_images(path: Path, item: Item) -> bool:
    """Whether the item's images are there to their last byte: a machine that lost power may leave zeros."""
    return all(is_whole_image(path / name) for name in item.output_images)


def refuse_used_folder(path: Path) -> None:
    """UserError where the folder is a file or holds anything."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} is not empty", "give a new folder with --out")


def refuse_other_kind(path: Path, kind: RunKind) -> None:
    """UserError where the folder holds a run of another kind: for commands that open their bundle hours later."""
    earlier = _read_run(path).kind if (path / "run.json").exists() else kind
    if earlier != kind:
        what = f"kind of run differs ({earlier} there, {kind} now)"
        raise UserError(f"{path} holds another run: {what}", "give another --out or remove it")


def read_bundle(path: Path) -> tuple[Run, list[Item], Scores | None]:
    """Everything a finished or unfinished run wrote; scores are None until it was scored. Raises UserError."""
    run, scores = read_head(path)
    items, _ = read_journal(path / "items.jsonl")
    return as_found(path, run, scores, len(items)), list(items.values()), scores


def is_archive(path: Path) -> bool:
    """Whether items were left out on purpose: no journal, nor the .lock that every measured folder keeps."""
    return not (path / "items.jsonl").exists() and not (path / ".lock").exists()


def as_found(path: Path, run: Run, scores: Scores | None, items: int) -> Run:
    """The record as its journal bears it out: a complete run is `partial` once it holds fewer items than were scored.

    Whoever shows a run shows this one.
    """
    if run.status != "complete" or scores is None or items >= scores.expected_items or is_archive(path):
        return run
    reason = f"the folder holds {items} items, its scores are of {scores.expected_items}"
    return run.model_copy(update={"status": "partial", "status_reason": reason})


def read_head(path: Path) -> tuple[Run, Scores | None]:
    """The record and the scores without the items, which is all that a table needs. Raises UserError."""
    if not (path / "run.json").is_file():
        raise UserError(f"{path} is not a run bundle: it has no run.json")
    run = _read_run(path)
    scores_file = path / "scores.json"
    if not scores_file.exists() or run.status in ("running", "failed"):
        return run, None
    try:
        return run, Scores.model_validate_json(scores_file.read_bytes())
    except ValidationError as error:
        raise UserError(f"{scores_file} is damaged: {fault_of(error)}") from error


def _read_run(path: Path) -> Run:
    file = path / "run.json"
    try:
        raw = json_of(file.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise UserError(f"{file} has schema version {version}, this program reads {SCHEMA_VERSION}")
        return Run.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{file} is damaged: {fault_of(error)}", "measure that run again, elsewhere") from error
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}", "measure that run again, elsewhere") from error


def _continue(path: Path, earlier: Run, run: Run) -> Run:
    """The earlier record, back to `running` unless complete; UserError naming what differs."""
    unjudged = earlier.status != "complete" and run.kind == "understanding"
    fields = SAME_RUN if unjudged else {**SAME_RUN, **_SAME_SCORING}
    for name, get in fields.items():
        if get(earlier) != get(run):
            what = f"{_short(get(earlier))} there, {_short(get(run))} now"
            raise UserError(f"{path} holds another run: {name} differs ({what})", "give another --out or remove it")
    if earlier.status == "complete":
        return earlier
    return earlier.model_copy(
        update={
            "status": "running",
            "status_reason": None,
            "scorer": run.scorer,
            "judge": run.judge,
            "command": run.command,
            "packages": run.packages,
            "device": run.device,
            "git_commit": run.git_commit,
        }
    )


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _take_lock(path: Path) -> int:
    """Hold the folder for this process; the operating system lets go of it however the process ends."""
    try:
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write into {path}: {error.strerror}", "give another --out") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise UserError(f"another command is writing {path}", "wait for it, or give another --out") from error
    return descriptor


def run_folder(out: Path, name: str) -> Path:
    """Where a run lies: always `OUT/NAME`, also where it is the only one, so that no run hides another.

    A run that `OUT` itself holds, of the same name, is one of before this rule and is resumed where it lies; NAME
    inside of any other is refused.
    """
    folder = out / folder_name(name)
    if (out / "run.json").is_file() and read_head(out)[0].benchmark == name:
        return out
    refuse_nesting(folder)
    return folder


# --- run folders: every run at and below a folder, each in a folder of its own and none inside another ---------------


def find_runs(path: Path) -> list[Path]:
    """The folders with a run.json at and below `path`, sorted; [] where there is none.

    UserError where a run lies inside another one: whoever reads the outer as one run would not see the inner.
    """
    found = sorted(file.parent for file in path.rglob("run.json")) if path.is_dir() else []
    for run in found:
        refuse_nesting(run)
    return found


def refuse_nesting(folder: Path) -> None:
    """UserError where the folder of a run lies inside another run's."""
    for above in folder.absolute().parents:
        if (above / "run.json").is_file():
            raise UserError(f"{folder} is a run inside the run {above}", "give every run a folder of its own")


def folder_name(benchmark: str) -> str:
    """A benchmark's name as a folder's: `dpg-vqa:NAME` has a character that not every file system takes."""
    return benchmark.replace(":", "-").replace("/", "-")
