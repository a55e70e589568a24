"""Signals. Ctrl-C and SIGTERM as one KeyboardInterrupt, so that a command's cleaning up is not itself interrupted; and
preemption, which ends a run behind its current step.

with Interrupts("interrupted") as interrupts:
    work()
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Self

Handler = Callable[[int, FrameType | None], object] | int | None

PATIENCE_SECONDS = 3.0
"""Presses within it are one wish (a double click, torchrun's own signal); a later one ends without cleaning up."""


class Interrupts:
    """While entered, the first signal raises KeyboardInterrupt in the main thread.

    A signal that follows within PATIENCE_SECONDS is ignored; a later one prints the line, unless it was printed, and
    ends the process: every file is whole or a journal at any instant, so that costs nothing either. SIGINT that the
    caller's shell ignores (a job in the background) stays ignored; a forked child has the usual handlers. A command
    that first writes a checkpoint sets a handler of its own, which calls the one that it replaced when it is done.
    """

    def __init__(self, line: str) -> None:
        self.number = signal.SIGINT
        """The signal that came, SIGINT where none did."""
        self._line, self._said = f"{line}\n", False
        self._since: float | None = None
        self._before: dict[signal.Signals, Handler] = {}

    @property
    def code(self) -> int:
        """What a shell reads of a process that the signal ended: 130 Ctrl-C, 143 SIGTERM."""
        return 128 + self.number

    @property
    def came(self) -> bool:
        return self._since is not None

    def end(self) -> int:
        """Print the line and return the exit code."""
        sys.stderr.write(self._line)
        sys.stderr.flush()
        self._said = True
        return self.code

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            pid = os.getpid()
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, lambda n, frame: self._came(pid, n, frame))
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back, but not after a signal: the next press must not hit Python's own shutting down."""
        if not self.came:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _came(self, pid: int, number: int, frame: FrameType | None) -> None:
        if os.getpid() != pid:  # a worker forked from this process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now = time.monotonic()
        if self._since is None:
            self._since, self.number = now, signal.Signals(number)
            raise KeyboardInterrupt
        if now - self._since > PATIENCE_SECONDS:
            if not self._said:
                with suppress(OSError):  # not sys.stderr, which this may have interrupted while it writes
                    os.write(2, self._line.encode())
            os._exit(self.code)


class StopRequest:
    """Preemption: while it is entered, SIGTERM (a cluster takes the machine) or SIGUSR1 (SLURM's --signal) is noted
    instead of ending the process, for who can end behind a step; only a main thread can do so."""

    SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.name = ""
        """Of the signal that came, empty for none."""
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
