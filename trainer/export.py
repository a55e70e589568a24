"""A whole checkpoint folder, written beside and renamed: what a killed export leaves is never taken for a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from trainer.errors import TrainingError, disk_is_full


def save_whole(model: Any, processor: Any, folder: Path) -> None:
    """Write model and processor; an older folder of that name is replaced. Raises TrainingError where the disk is
    full."""
    from armor_model import save

    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        save(model, processor, draft)
    except Exception as error:
        shutil.rmtree(draft, ignore_errors=True)
        if disk_is_full(error):
            raise TrainingError(
                f"no space left for the model in {folder.parent}; its checkpoints are intact"
            ) from error
        raise
    if folder.exists():
        shutil.rmtree(folder)
    draft.rename(folder)
