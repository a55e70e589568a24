"""A run's log: one JSON line a step, TensorBoard beside it when asked, and a progress bar on a terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm


class RunLog:
    """`log.jsonl` in the run's directory; the records are flat: step, name -> number."""

    def __init__(self, root: Path | None, tensorboard: bool = False) -> None:
        self.path = None if root is None else root / "log.jsonl"
        self._file = None
        self._board = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")
            if tensorboard:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(self.path.parent / "tensorboard")

    def forget_after(self, step: int) -> None:
        """Drop records of steps beyond `step`: a resumed run writes them again. A line cut by a kill goes too."""
        if self.path is None:
            return
        self._file.close()
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["step"] <= step:
                kept.append(line)
        draft = self.path.with_suffix(".draft")
        draft.write_text("".join(line + "\n" for line in kept))
        draft.replace(self.path)
        self._file = self.path.open("a")

    def write(self, step: int, values: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: Any) -> None:
        """Keep a sample (a PIL image) of this step: the paper's Figure 6."""
        if self.path is None:
            return
        folder = self.path.parent / "samples"
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"step-{step:08d}-{name}.png")

    def close(self) -> None:
        for part in (self._file, self._board):
            if part is not None:
                part.close()


def progress(total: int, done: int, name: str, enabled: bool) -> tqdm:
    """A bar with ETA on a terminal, silent elsewhere."""
    return tqdm(total=total, initial=done, desc=name, disable=not (enabled and sys.stderr.isatty()), dynamic_ncols=True)
