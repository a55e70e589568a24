"""A run's log: one JSON line a step, TensorBoard beside it when asked, and a progress bar on a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

COST = "cost/"
"""Before the names of what a run has used so far (trainer.loop.Cost)."""


class RunLog:
    """`log.jsonl` in the run's directory; the records are flat: step, name -> number."""

    def __init__(self, root: Path | None, tensorboard: bool = False) -> None:
        self.path = None if root is None else root / "log.jsonl"
        self._file = None
        self._board, self._wants_board, self._purge = None, tensorboard and root is not None, None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")

    @property
    def board(self) -> Any:
        """TensorBoard's writer, opened at the first record; None where it was not asked for."""
        if self._wants_board and self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(self.path.parent / "tensorboard", purge_step=self._purge)
        return self._board

    def forget_after(self, step: int) -> dict[str, float]:
        """Drop records of steps beyond `step`: a resumed run writes them again. A line cut by a kill goes too.

        Returns the last means that are kept: what a run that is done already has to report.
        """
        if self.path is None:
            return {}
        self._file.close()
        self._purge = step + 1  # TensorBoard hides what an interrupted run wrote from there on
        kept, last = [], {}
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["step"] <= step:
                kept.append(line)
                last = record if "lr_share" in record else last
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(line + "\n" for line in kept))
        draft.replace(self.path)
        self._file = self.path.open("a")
        return {name: value for name, value in last.items() if name != "step" and not name.startswith(COST)}

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: Any) -> None:
        """Keep a sample (a PIL image) of this step: the paper's Figure 6."""
        if self.path is None:
            return
        folder = self.path.parent / "samples"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"step-{step:08d}-{name}.png")
        if self.board is not None:
            self.board.add_image(f"samples/{name}", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        for part in (self._file, self._board):
            if part is not None:
                part.close()


def progress(total: int, done: int, name: str, enabled: bool) -> tqdm:
    """A bar with ETA on a terminal, silent elsewhere."""
    return tqdm(total=total, initial=done, desc=name, disable=not (enabled and sys.stderr.isatty()), dynamic_ncols=True)
