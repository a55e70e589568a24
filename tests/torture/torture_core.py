"""What a torture is made of: a command, forked children of it, and the checks of what they leave behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 300.0
"""Longer than any child takes: one that is still there is a hang, which is a failure."""
WRONG = ("lost", "double", "invented", "unequal", "traceback", "wrong end")


@dataclass(frozen=True)
class Target:
    """A command under torture."""

    name: str
    main: Callable[[list[str]], int]
    argv: Callable[[Path], list[str]]
    """Its arguments, by the folder it writes; the same ones resume."""
    state: Callable[[Path], list[tuple[str, str]]]
    """What is on the disk for good, also of an unfinished run: (key, content), a key twice where it is there twice."""
    result: Callable[[Path], Any]
    """What a finished run is compared by."""
    processes: bool = False
    """Whether torchrun may start several of it."""
    same: Callable[[Any, Any], bool] = lambda ours, theirs: ours == theirs
    """Equal results where the number of processes was another one."""
    server: Callable[[Path, str], list[str]] | None = None
    """Its arguments with a model behind a server at an address."""
    again: int = 0
    """Its exit code where the folder holds a finished run already."""


@dataclass
class Row:
    """A line of the table: one kind of event on one command."""

    command: str
    event: str
    n: int = 0
    finished: int = 0
    """Events that came too late: the run was done."""
    wrong: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str, note: str) -> None:
        self.wrong[kind] += 1
        self.notes.append(f"{kind}: {note}"[:400])


class Child:
    """A forked run of a command, in a process group of its own."""

    def __init__(self, target: Target, argv: list[str], log: Path, before: Callable[[], None] | None = None) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setpgid(0, 0)
                file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, 1)
                os.dup2(file, 2)
                if before is not None:
                    before()
                code = target.main(argv)
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        with suppress(PermissionError, ProcessLookupError):  # both sides: whoever is first
            os.setpgid(self.pid, self.pid)
        self.code: int | None = None

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float = DEADLINE_SECONDS) -> bool:
        """Until it ended or the time is over; whether it ended."""
        end = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def send(self, number: int) -> None:
        if not self.ended():
            os.killpg(self.pid, number)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self) -> list[str]:
        """What the command says for itself."""
        return [
            line
            for line in self.text().splitlines()
            if line.startswith(("armor-eval: ", "armor-train: ", "armor-model: "))
        ]


class Torture:
    """All events on one command, against the undisturbed run that is made first."""

    def __init__(self, target: Target, root: Path, seed: int) -> None:
        self.target, self.root = target, root / target.name
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.random = random.Random(f"{seed} {target.name}")
        self.rows: list[Row] = []
        self.number = 0
        self.expected, self.whole, self.seconds = self._undisturbed(target.argv)

    def _undisturbed(self, argv: Callable[[Path], list[str]]) -> tuple[dict[str, str], Any, float]:
        """State, result and seconds of a run that nothing disturbs: the second of two, as the first fills caches."""
        for name in ("first", "undisturbed"):
            out, began = self.root / name, time.monotonic()
            shutil.rmtree(out, ignore_errors=True)
            child = self.start(out, argv=argv(out))
            if not child.wait() or child.code not in (0, 1) or "Traceback" in child.text():
                raise SystemExit(f"{self.target.name} fails undisturbed ({child.code}): {child.text()[-2000:]}")
            seconds = time.monotonic() - began
        return dict(self.target.state(out)), self.target.result(out), seconds

    def start(self, out: Path, argv: list[str] | None = None, before: Callable[[], None] | None = None) -> Child:
        self.number += 1
        return Child(self.target, argv or self.target.argv(out), self.root / f"{self.number:04d}.log", before)

    def fresh(self, row: Row) -> Path:
        return self.root / f"{row.event}-{row.n}".replace(" ", "-")

    def row(self, event: str) -> Row:
        self.rows.append(Row(self.target.name, event))
        return self.rows[-1]

    def moment(self, share: float = 0.95) -> float:
        return self.random.uniform(0.02, share) * self.seconds

    def check(self, row: Row, out: Path, before: dict[str, str] | None = None) -> dict[str, str]:
        """The state on the disk, held against the undisturbed run's and against an earlier one of the same folder."""
        pairs = self.target.state(out)
        state = dict(pairs)
        if len(state) != len(pairs):
            row.count("double", str([key for key, n in Counter(key for key, _ in pairs).items() if n > 1][:3]))
        if wrong := [key for key, content in state.items() if self.expected.get(key) != content]:
            row.count("invented", f"{out.name}: {wrong[:3]}")
        if lost := [key for key in before or {} if key not in state]:
            row.count("lost", f"{out.name}: {lost[:3]}")
        return state

    def judge_end(self, row: Row, child: Child, codes: Sequence[int], said: str = "") -> None:
        """A child that ended by itself: its code is one of these, no traceback, one line where it failed."""
        where = f"{child.log.name} ({child.code})"
        if "Traceback" in child.text() or "Error ignored" in child.text():
            row.count("traceback", f"{where}: {child.text()[-300:]}")
        elif child.code not in codes:
            row.count("wrong end", f"{where}, not in {list(codes)}: {child.text()[-300:]}")
        elif child.code and sum(said in line for line in child.lines()) != 1:
            row.count("wrong end", f"{where} has not one line with {said!r}: {child.text()[-300:]}")

    def finish(self, row: Row, out: Path, before: dict[str, str], argv: list[str] | None = None) -> None:
        """Resume to the end; the result has to be the undisturbed one."""
        child = self.start(out, argv)
        if not child.wait():
            child.send(signal.SIGKILL)
            row.count("wrong end", f"{child.log.name} hangs")
            return
        self.judge_end(row, child, (0, self.target.again))
        self.check(row, out, before)
        try:
            equal = self.target.result(out) == self.whole
        except OSError as error:
            equal = False
            row.notes.append(str(error))
        if not equal:
            row.count("unequal", f"{out.name}, {child.log.name}")
        else:
            shutil.rmtree(out)
