"""Preemption: SIGTERM (a cluster takes the machine) and SIGUSR1 (SLURM's --signal) end a run behind its current step,
with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from armor_model.base.errors import ArmorError


class Preempted(ArmorError):  # noqa: N818 - nothing went wrong
    """The run was asked to end and can go on where it stopped. Exit code 75, sysexits.h's "try again later"."""

    exit_code = 75


class StopRequest:
    """While it is entered, either signal is noted instead of ending the process; only a main thread can do so."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.name = ""
        """Of the signal that came, empty for none."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
