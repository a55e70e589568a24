"""A program in a terminal of its own (a pty), where a key is a key."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

CTRL_C = b"\x03"
SIZE = (24, 80, 640, 384)
"""Rows, columns, and pixels from left to right and from top to bottom."""


class Terminal:
    """`Terminal(words)`; `until("text")`, `press(CTRL_C)`, `end()` -> (exit code, everything shown)."""

    def __init__(self, words: Sequence[str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE))
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: _own_terminal(slave),
        )
        os.close(slave)
        self.shown = ""

    def until(self, text: str, seconds: float = 600) -> None:
        """Read until the text is shown."""
        end = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < end and self._read(), self.shown

    def press(self, key: bytes) -> None:
        os.write(self._master, key)

    def end(self) -> tuple[int, str]:
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(600), self.shown

    def _read(self) -> bool:
        select.select([self._master], [], [], 60)
        try:
            piece = os.read(self._master, 4096)
        except OSError:  # the other side is closed
            return False
        self.shown += piece.decode(errors="replace")
        return bool(piece)


def _own_terminal(slave: int) -> None:
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
