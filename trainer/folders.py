"""Folders that are whole or absent: written beside, put on disk and renamed, so that what a kill leaves is never taken
for a checkpoint or a model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import DataError, TrainingError, disk_is_full

DRAFT = ".draft-"


@contextmanager
def whole_folder(final: Path, no_space: str) -> Iterator[Path]:
    """A draft to write into, which takes `final`'s place (an older model's too) when the block ends without an error.

    Raises DataError where `final` is something else than a model's folder, and TrainingError(no_space) where the disk
    is full; whatever the error, Ctrl-C too, the draft is gone.
    """
    check_free(final, "config.json")
    draft = final.with_name(f"{DRAFT}{final.name}-{os.getpid()}")
    try:
        for left in final.parent.glob(f"{DRAFT}{final.name}-*"):  # behind by a kill
            shutil.rmtree(left, ignore_errors=True)
        draft.mkdir(parents=True)
        yield draft
        for path in draft.rglob("*"):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        draft.rename(final)
        _sync(final.parent)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if disk_is_full(error):
            raise TrainingError(no_space) from error
        raise


def check_free(folder: Path, replaceable: str | None = None) -> None:
    """Raise DataError where `folder` is a file, or holds anything and not the file that says it may be replaced."""
    if folder.is_dir():
        held = {path.name for path in folder.iterdir()}
        if held and replaceable not in held:
            raise DataError(f"{folder} is not empty; choose another folder")
    elif folder.exists():
        raise DataError(f"{folder} is a file; choose another folder")


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write model and processor as a whole folder. Raises TrainingError where the disk is full."""
    from armor_model import save

    with whole_folder(folder, f"no space left for the model in {folder.parent}; its checkpoints are intact") as draft:
        save(model, processor, draft)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
