"""Atomic writing of whole files and whole folders: a reader, or a kill at any instant, meets the old state or the new.

with whole_folder(Path("model")) as draft:
    save_file(tensors, draft / "model.safetensors")
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from armor_model.base.errors import RunFailed, UserError, disk_is_full

DRAFT = ".draft-"
"""How the names of files and folders begin that are being written; what a kill leaves of them may be removed."""


@contextmanager
def whole_file(path: Path, sync: bool = True) -> Iterator[Path]:
    """A draft beside `path`, of the same suffix, that takes its place when the block ends without an error.

    With `sync` the content is on the disk before the name is, so that a power cut leaves no empty file either. An
    OSError names `path`, not the draft.
    """
    draft = path.with_name(f"{DRAFT}{secrets.token_hex(4)}-{path.name}")
    try:
        yield draft
        if sync:
            sync_path(draft)
        draft.replace(path)
        if sync:
            sync_path(path.parent)
    except OSError as error:
        if error.filename in (str(draft), draft):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes, sync: bool = True) -> None:
    """Write a whole file, text as UTF-8 (lone surrogates, as models utter them, included); see `whole_file`."""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    with whole_file(path, sync) as draft:
        draft.write_bytes(raw)


@contextmanager
def whole_folder(
    out: Path, replaces: str | None = None, last: str = "config.json", no_space: str = ""
) -> Iterator[Path]:
    """A draft to write into, which becomes `out` when the block ends without an error; else nothing is left of it.

    The draft lies beside `out` and is renamed. In an empty folder that exists already it lies inside (it may be a
    mount, which no rename can replace) and its files move one by one, `last` as the last.

    Args:
        out: the folder; UserError, before the block begins, where it holds anything or cannot be written.
        replaces: a file's name; a folder that holds it may be replaced, and is until then intact.
        last: the file without which the folder counts as nothing.
        no_space: what RunFailed says where the disk is full.
    """
    check_free(out, replaces)
    final = out.resolve()
    inside = final.is_dir() and all(path.name.startswith(DRAFT) for path in final.iterdir())
    draft = (final if inside else final.parent) / f"{DRAFT}{os.getpid()}-{final.name}"
    stale = rf"{re.escape(DRAFT)}(\d+)" + ("" if inside else f"-{re.escape(final.name)}$")
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        for left in draft.parent.iterdir():  # behind by a kill
            if (match := re.match(stale, left.name)) and not _other_process(int(match[1])):
                shutil.rmtree(left)
        draft.mkdir()
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}") from error
    try:
        yield draft
        for path in [*draft.rglob("*"), draft]:
            sync_path(path)
        check_free(out, replaces)  # another process may have been first
        if inside:
            for path in sorted(draft.iterdir(), key=lambda path: path.name == last):
                path.rename(final / path.name)
            draft.rmdir()
        else:
            _swap(draft, final)
        sync_path(draft.parent)
    except BaseException as error:
        there = draft.is_dir() and os.access(draft, os.W_OK)
        shutil.rmtree(draft, ignore_errors=True)
        if disk_is_full(error):
            raise RunFailed(no_space or f"no space left on the disk; nothing was written to {out}") from error
        if isinstance(error, OSError) and not there:
            raise RunFailed(_GONE.format(out=out, why=error.strerror)) from error
        raise


def _other_process(pid: int) -> bool:
    """Whether another process of this machine has the number and runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def _swap(draft: Path, out: Path) -> None:
    """Put a draft in the place of `out`, which is whole at any instant; what was there is removed last."""
    if not out.exists():
        draft.rename(out)
    elif _exchange(draft, out):
        shutil.rmtree(draft, ignore_errors=True)
    else:  # a file system that cannot: for an instant the old one stands under another name only
        old = out.with_name(f"{draft.name}-old")
        out.rename(old)
        draft.rename(out)
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step (Linux's renameat2 with RENAME_EXCHANGE); False where that is not to be had."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2
    return rename is not None and rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def check_free(folder: Path, replaces: str | None = None) -> None:
    """Raise UserError where `folder` is a file, or holds anything but drafts and not the file that says it may go."""
    try:
        names = {path.name for path in folder.iterdir() if not path.name.startswith(DRAFT)}
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}", "choose another folder") from error
    if names and replaces not in names:
        raise UserError(f"{folder} is not empty", "choose a new folder: nothing is written over")


def make_folder(folder: Path) -> Path:
    """The folder, created if need be. Raises UserError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"{DRAFT}{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except FileExistsError as error:
        raise UserError(f"cannot write into {folder}: it is a file", "choose another folder") from error
    except OSError as error:
        if disk_is_full(error):
            raise RunFailed(f"no space left on the disk for {folder}") from error
        raise UserError(f"cannot write into {folder}: {error.strerror}", "choose another folder") from error
    return folder


@contextmanager
def hold_folder(folder: Path, what: str, part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """A lock on a folder, or on the work of part (I, N) in it; the operating system lets go however the process ends.
    Raises UserError where another `what` holds it."""
    locks = {".lock": fcntl.LOCK_EX}
    if part[1] > 1:
        locks = {".lock": fcntl.LOCK_SH, f".lock-{part[0]}": fcntl.LOCK_EX}
    with ExitStack() as stack:
        for name, kind in locks.items():
            lock = stack.enter_context((folder / name).open("w"))
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"another {what} is writing {folder}", "wait for it, or choose another") from error
        if part[1] == 1:  # so nobody else is writing, and a kill left these
            for left in folder.rglob(f"{DRAFT}*"):
                left.unlink()
        yield


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """For what a run writes into `out` long after it began: an OSError is RunFailed then, no mistake of who typed it.

    A full disk stays the OSError, which `run_app` names.
    """
    try:
        yield
    except OSError as error:
        if disk_is_full(error):
            raise
        raise RunFailed(_GONE.format(out=out, why=error.strerror or error)) from error


def refuse_pointer(file: Path) -> None:
    """Raise UserError where a git-lfs pointer, three lines of text, lies where weights should be."""
    with file.open("rb") as opened:
        if opened.read(32).startswith(b"version https://git-lfs"):
            raise UserError(f"{file} is a git-lfs pointer, not the file itself", "fetch it: git lfs pull")


def check_in_place(path: Path, descriptor: int) -> os.stat_result:
    """The state of an open file. RunFailed where its name means another file by now, or its folder is read-only: what
    is written then would be gone with the process, or could not be finished."""
    here = os.fstat(descriptor)
    try:
        there = path.stat()
    except OSError as error:
        raise RunFailed(_GONE.format(out=path, why=error.strerror)) from error
    if (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino):
        raise RunFailed(_GONE.format(out=path, why="another file has its name"))
    if not os.access(path.parent, os.W_OK):
        raise RunFailed(_GONE.format(out=path.parent, why="read-only"))
    return here


_GONE = "cannot write {out} any more ({why}): removed or replaced, or made read-only, while the run was going"


def sync_path(path: Path) -> None:
    """Return once a file, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
