"""A run's log: one JSON line a step, TensorBoard beside it when asked, a progress bar on a terminal; and the loss
meter, what one line averages over."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from armor_model.base.devices import peak_resident_bytes
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.files import check_in_place
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.optional import not_none
from armor_model.base.parsing import json_of
from armor_model.losses import IGNORE, Sums
from trainer.batches import SEGMENTS, TURNS, Batch
from trainer.stages import KINDS

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

COST = "cost/"
"""Before the names of what a run has used so far (trainer.loop.Cost)."""


class RunLog:
    """`log.jsonl` in the run's directory; the records are flat: step, name -> number."""

    def __init__(self, root: Path | None, tensorboard: bool = False, trackers: Sequence[GeneralTracker] = ()) -> None:
        """trackers: from `open_trackers`."""
        self.trackers = trackers
        self.path = None if root is None else root / "log.jsonl"
        self._file: TextIO | None = None
        self._board: SummaryWriter | None = None
        self._wants_board = tensorboard and root is not None
        self._purge: int | None = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")

    @property
    def board(self) -> SummaryWriter | None:
        """TensorBoard's writer, opened at the first record; None where it was not asked for."""
        if self._wants_board and self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(not_none(self.path).parent / "tensorboard", purge_step=self._purge)
        return self._board

    def forget_after(self, step: int) -> dict[str, float]:
        """Drop records of steps beyond `step`: a resumed run writes them again. A line cut by a kill goes too.

        Returns the last means that are kept: what a run that is done already has to report.
        """
        if self.path is None or self._file is None:
            return {}
        self._file.close()
        self._purge = step + 1  # TensorBoard hides what an interrupted run wrote from there on
        kept: list[str] = []
        last: dict[str, float] = {}
        for line in self.path.read_text().splitlines():
            try:
                record = json_of(line)
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

    def check(self) -> None:
        """RunFailed where the run's directory was removed or made read-only since."""
        if self._file is not None:
            check_in_place(not_none(self.path), self._file.fileno())

    def write(self, step: int, values: JsonObject) -> None:
        self.check()
        if self._file is not None:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for tracker in self.trackers:
            tracker.log({k: v for k, v in values.items() if isinstance(v, int | float)}, step=step)
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: Image.Image) -> None:
        """Keep a sample of this step, a PIL image or a text: the paper's Figure 6."""
        if self.path is None:
            return
        folder = self.path.parent / "samples"
        folder.mkdir(exist_ok=True)
        if isinstance(image, str):
            (folder / f"step-{step:08d}-{name}.txt").write_text(image + "\n", encoding="utf-8")
            return
        image.save(folder / f"step-{step:08d}-{name}.png")
        if self.board is not None:
            self.board.add_image(f"samples/{name}", np.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        for part in (self._file, self._board):
            if part is not None:
                part.close()
        for tracker in self.trackers:
            tracker.finish()


def open_trackers(names: Sequence[str], root: Path | None, run: JsonView) -> list[GeneralTracker]:
    """accelerate's trackers of these names, told what is run (`name` and settings). Raises UserError for one that is
    not known, or whose package is not here."""
    from accelerate import tracking

    opened = []
    for name in names:
        known = {str(kind): made for kind, made in tracking.LOGGER_TYPE_TO_CLASS.items()}
        if name not in known:
            raise unknown_name("tracker", name, known)
        if name not in map(str, tracking.get_available_trackers()):
            raise UserError(f"--track {name}: its package is not installed", f"pip install {name}")
        where = [str(root)] if known[name].requires_logging_directory else []
        tracker = known[name](str(run["name"]), *where)
        tracker.start()
        tracker.store_init_configuration(dict(run))
        opened.append(tracker)
    return opened


def progress(total: int, done: int, name: str, enabled: bool, bar_format: str | None = None) -> tqdm:
    """A bar with ETA on a terminal, silent elsewhere."""
    hidden = not (enabled and sys.stderr.isatty())
    return tqdm(total=total, initial=done, desc=name, disable=hidden, dynamic_ncols=True, bar_format=bar_format)


@contextmanager
def told_on_stderr(logger: str) -> Iterator[None]:
    """Print what a logger says: the plan of a run and, where no progress bar is seen, its steps."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    found = logging.getLogger(logger)
    before = found.level, found.propagate
    found.addHandler(handler)
    found.setLevel(logging.INFO)
    found.propagate = False  # whoever listens at the root would say it twice
    try:
        yield
    finally:
        found.removeHandler(handler)
        found.setLevel(before[0])
        found.propagate = before[1]


HEADS = ("text", "image")
BREAKDOWNS = (KINDS, SEGMENTS, TURNS)
"""Losses of a head are also told by type of conversation, by segment of the answer, by turn."""


class LossMeter:
    """Losses by head and its BREAKDOWNS, speed and memory, since the last log line."""

    def __init__(self) -> None:
        self.sums = torch.zeros(2, sum(map(len, BREAKDOWNS)), 2, dtype=torch.float64)
        """Head x name of a breakdown x (summed loss in nats, positions)."""
        self.tokens, self.seconds, self.gradient_norm, self.lr_share = 0, 0.0, 0.0, 0.0
        self.steps, self.flops = 0, 0.0
        """flops: of the mathematics, a process (trainer.plan)."""

    def add(self, sums: Sums, batch: Batch, lr_share: float) -> None:
        """Count one micro-batch; `lr_share` is the learning rate's share of its peak."""
        self.lr_share = lr_share
        for head, (losses_N, labels_BT) in enumerate(
            ((sums.text_each, batch.text_labels), (sums.image_each, batch.image_labels))
        ):
            if losses_N is None or not len(losses_N):
                continue
            asked_BT = labels_BT != IGNORE
            kinds = torch.tensor([KINDS.index(name) for name in batch.kind_names], device=asked_BT.device)
            first = 0
            for names, index_N in zip(
                BREAKDOWNS, (kinds[batch.kinds[asked_BT]], batch.segments[asked_BT], batch.turns[asked_BT]), strict=True
            ):
                part = self.sums[head, first : first + len(names)]
                for at, values_N in enumerate((losses_N.double(), torch.ones_like(losses_N, dtype=torch.float64))):
                    part[:, at] += torch.bincount(index_N, values_N, minlength=len(names)).cpu()
                first += len(names)

    def means(self, accelerator: Accelerator, peak: float | None = None) -> dict[str, float]:
        """`loss_means` over all processes under `loss/`, gradient norm, share of the peak learning rate, tokens a
        second, peak bytes of a process; with `peak`, a device's operations a second, the model FLOPs utilisation
        (`mfu`)."""
        sums: Tensor = accelerator.reduce(self.sums.to(accelerator.device), "sum").cpu()
        values = {f"loss/{name}": value for name, value in loss_means(sums).items()}
        values["gradient_norm"] = self.gradient_norm
        values["lr_share"] = self.lr_share
        values["tokens_per_second"] = self.tokens / max(self.seconds, 1e-9)
        if peak is not None:
            values["mfu"] = self.flops / max(self.seconds, 1e-9) / peak
        values["memory_bytes"] = peak_memory(accelerator.device)
        return values


def loss_means(sums: Tensor) -> dict[str, float]:
    """`text`, `image`, `<head>/<type>`, `<head>/<segment>` and `<head>/<turn>`, in nats a position, of a LossMeter's
    sums; segments and turns where there is more than one."""
    means = {}
    for head, of_head in zip(HEADS, sums, strict=True):
        first = 0
        for names in BREAKDOWNS:
            part = of_head[first : first + len(names)]
            first += len(names)
            told = {f"{head}/{name}": loss / n for name, (loss, n) in zip(names, part.tolist(), strict=True) if n}
            if names is KINDS and told:
                loss, n = part.sum(dim=0).tolist()
                means[head] = loss / n
            if names is KINDS or len(told) > 1:
                means |= told
    return means


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: of the accelerator where there is one, else resident memory of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_resident_bytes()
