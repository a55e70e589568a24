"""A new checkpoint's folder: never over something that is there, and no checkpoint before it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from armor_model.errors import ArmorError

DRAFT = ".draft-"


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A draft to write into, whose files move to `out` when the block ends without an error; else it is gone.

    The draft lies inside `out`: an empty folder that is there may be a mount, which no rename can replace. config.json
    moves last, and without one a folder is no checkpoint: a kill leaves none that looks whole.
    Raises ArmorError, before the block begins, where `out` holds anything or cannot be written.
    """
    draft = out / f"{DRAFT}{os.getpid()}"
    try:
        there = out.exists()
        if there and not all(path.name.startswith(DRAFT) for path in out.iterdir()):
            raise ArmorError(f"{out} is not empty", hint="--out must be a new folder: nothing is written over")
        for left in out.glob(f"{DRAFT}*"):  # behind by a kill
            shutil.rmtree(left)
        draft.mkdir(parents=True)
    except OSError as error:
        raise ArmorError(f"cannot write into {out}: {error.strerror or error}") from error
    try:
        yield draft
        for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):
            path.rename(out / path.name)
        draft.rmdir()
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if not there:
            with suppress(OSError):
                out.rmdir()
        if isinstance(error, OSError):  # a full disk, say
            raise ArmorError(f"no checkpoint was written to {out}: {error}") from error
        raise
