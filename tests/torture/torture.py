"""Torture: kills and faults at seeded random times; what is left, resumed, must equal the undisturbed run.

python tests/torture/torture.py --kills 50 --faults 20 [--only understanding,stage] [--out reports/torture]

Children are forked from this process, which has imported what the commands import, so that a kill costs a run and not
an import. Every event is checked: nothing that a child had on the disk is lost, double or invented, no child prints a
traceback, one that fails prints one line, and the resumed run ends as the undisturbed one did. The table goes to
`torture.json` and `torture.md` after every event: a torture that is cut short has shown what it reached.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
HERE = Path(__file__).resolve().parent
for shared in ("torture", "helpers", "train", "model"):
    sys.path.append(str(HERE.parent / shared))
sys.path.append(str(HERE.parents[1]))

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
    """A forked run of a command, in a session of its own."""

    def __init__(self, target: Target, argv: list[str], log: Path, before: Callable[[], None] | None = None) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.setsid()
                file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.dup2(file, 1)
                os.dup2(file, 2)
                if before is not None:
                    before()
                code = target.main(argv)
                sys.stdout.flush()
            except BaseException:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
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
        """A child that ended by itself: its code is one of these, it printed no traceback, and one line if it failed."""
        where = f"{child.log.name} ({child.code})"
        if "Traceback" in child.text() or "Error ignored" in child.text():
            row.count("traceback", f"{where}: {child.text()[-300:]}")
        elif child.code not in codes:
            row.count("wrong end", f"{where}, not in {list(codes)}: {child.text()[-300:]}")
        elif child.code and said and not any(said in line for line in child.lines()):
            row.count("wrong end", f"{where} does not say {said!r}: {child.text()[-300:]}")

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

    # ---- events

    def kills(self, n: int, each: int = 5) -> None:
        """kill -9 at random times, up to `each` times before a folder is left to finish."""
        row = self.row("kill -9")
        while row.n < n:
            out, before = self.fresh(row), {}
            for _ in range(min(each, n - row.n)):
                child = self.start(out)
                child.wait(self.moment())
                row.n += 1
                if child.ended():
                    row.finished += 1
                    self.judge_end(row, child, (0, self.target.again))
                child.send(signal.SIGKILL)
                child.wait()
                before = self.check(row, out, before)
            self.finish(row, out, before)

    def stops(self, n: int) -> None:
        """SIGSTOP, SIGCONT: nothing happens but time."""
        row = self.row("SIGSTOP")
        while row.n < n:
            out = self.fresh(row)
            child = self.start(out)
            for _ in range(2):
                child.wait(self.moment(0.5))
                child.send(signal.SIGSTOP)
                time.sleep(0.05)
                child.send(signal.SIGCONT)
            row.n += 1
            child.wait()
            self.judge_end(row, child, (0,))
            self.finish(row, out, self.check(row, out))

    def signals(self, n: int) -> None:
        """Ctrl-C and SIGTERM, once, twice, three times quickly: one line, 130 and 143."""
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            row = self.row(signal.Signals(number).name)
            while row.n < (n + 1) // 2:
                out = self.fresh(row)
                child = self.start(out)
                child.wait(self.moment())
                for _ in range(1 + row.n % 3):
                    child.send(number)
                    time.sleep(0.01)
                row.n += 1
                child.wait()
                row.finished += child.code == 0
                self.judge_end(row, child, (0, code), "continue with: ")
                if child.code and sum("continue with: " in line for line in child.lines()) != 1:
                    row.count("wrong end", f"{child.log.name}: {child.text()[-300:]}")
                self.finish(row, out, self.check(row, out))

    def full_disk(self, n: int) -> None:
        """No file may grow beyond a random size: EFBIG, as a full disk or a quota would say."""
        row = self.row("full disk")
        largest = max(path.stat().st_size for path in (self.root / "undisturbed").rglob("*") if path.is_file())
        while row.n < n:
            out, size = self.fresh(row), int(largest * self.random.uniform(0.02, 0.98))
            child = self.start(out, before=lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
            row.n += 1
            child.wait()
            row.finished += child.code == 0
            self.judge_end(row, child, (0, 1), "no space left")
            self.finish(row, out, self.check(row, out))

    def moved(self, n: int) -> None:
        """The folder gets another name while the run is going: it ends at once; with the old name back it resumes."""
        row = self.row("renamed")
        while row.n < n:
            out = self.fresh(row)
            child = self.start(out)
            while not child.ended() and not out.exists():
                time.sleep(0.002)
            child.wait(self.moment(0.7))
            away = out.with_name(f"{out.name}-away")
            row.n += 1
            if out.exists():
                out.rename(away)
            child.wait()
            row.finished += child.code == 0
            self.judge_end(row, child, (0, 1))
            if away.exists():
                if out.exists():
                    row.finished += 1
                    shutil.rmtree(out)  # a command that writes a folder whole was not hit
                away.rename(out)
            self.finish(row, out, self.check(row, out))

    def read_only(self, n: int) -> None:
        """The folder cannot be written any more (as nobody: root may write everywhere)."""
        row = self.row("read-only")

        temporary = self.root / "temporary"
        temporary.mkdir(exist_ok=True)
        temporary.chmod(0o777)

        def nobody() -> None:
            os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)

        while row.n < n:
            out = self.fresh(row)
            out.mkdir(mode=0o777)
            out.chmod(0o777)
            child = self.start(out, before=nobody)
            child.wait(self.moment(0.8))
            folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
            for folder in folders:
                folder.chmod(0o555)
            row.n += 1
            child.wait()
            row.finished += child.code == 0
            self.judge_end(row, child, (0, 1, 2))
            for folder in folders:
                if folder.exists():
                    folder.chmod(0o777)
            self.finish(row, out, self.check(row, out))

    def two(self, n: int) -> None:
        """Two processes in one folder: one of them does the work, the other says so in a line, or finds it done."""
        row = self.row("two at once")
        while row.n < n:
            out = self.fresh(row)
            first = self.start(out)
            first.wait(self.moment(0.6))
            second = self.start(out)
            row.n += 1
            first.wait()
            second.wait()
            self.judge_end(row, first, (0, 1, 2))
            self.judge_end(row, second, (0, 1, 2))
            if 0 not in (first.code, second.code):
                row.count("wrong end", f"both failed: {first.text()[-150:]} {second.text()[-150:]}")
            self.finish(row, out, self.check(row, out))

    def launched(self, n: int) -> None:
        """Two processes as torchrun starts them, one is killed, torchrun ends the other; one process goes on alone."""
        row = self.row("rank dies, other world size")
        while self.target.processes and row.n < n:
            out = self.fresh(row)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            pair = [self.start(out, before=lambda rank=rank: _launched(rank, 2, port)) for rank in range(2)]
            victim = self.random.randrange(2)
            pair[victim].wait(self.moment() * 2)
            row.n += 1
            row.finished += pair[victim].ended()
            pair[victim].send(signal.SIGKILL)
            if not pair[1 - victim].ended():
                pair[1 - victim].send(signal.SIGTERM)  # as torchrun does once a process died
                if not pair[1 - victim].wait(30):
                    pair[1 - victim].send(signal.SIGKILL)  # so too, after 30 seconds
            for child in pair:
                child.wait()
            if "\nTraceback" in pair[1 - victim].text() and pair[1 - victim].code == 0:
                row.count("traceback", pair[1 - victim].text()[-300:])
            self.finish_rounded(row, out)

    def finish_rounded(self, row: Row, out: Path) -> None:
        """As finish, where the sums of another number of processes differ in rounding."""
        if self.target.same is Target.same:
            self.finish(row, out, self.check(row, out))
            return
        keys = {key for key, _ in self.target.state(out)}
        child = self.start(out)
        child.wait()
        self.judge_end(row, child, (0,))
        after = [key for key, _ in self.target.state(out)]
        if lost := keys - set(after):
            row.count("lost", f"{out.name}: {sorted(lost)[:3]}")
        if len(after) != len(set(after)):
            row.count("double", out.name)
        if not self.target.same(self.target.result(out), self.whole):
            row.count("unequal", f"{out.name}, {child.log.name}")
        else:
            shutil.rmtree(out)

    def served(self, n: int) -> None:
        """A server that refuses, stalls, cuts and lies at random; runs are repeated until one is complete."""
        if self.target.server is None:
            return
        from torture_server import RandomFaults

        row = self.row("server faults")
        with RandomFaults(0.0, 0) as server:
            argv = lambda out: self.target.server(out, server.url)  # noqa: E731
            whole, expected = self.whole, self.expected
            self.expected, self.whole, _ = self._undisturbed(argv)
            try:
                while row.n < n:
                    out, before = self.fresh(row), {}
                    server.begin(0.3, self.random.randrange(10**6))
                    for _ in range(2):
                        child = self.start(out, argv(out))
                        child.wait()
                        self.judge_end(row, child, (0, 1))
                        before = self.check(row, out, before)
                    row.n += 1
                    server.begin(0.0, 0)
                    self.finish(row, out, before, argv(out))
            finally:
                self.whole, self.expected = whole, expected


def _launched(rank: int, size: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip


EVENTS: dict[str, Callable[[Torture, int], None]] = {
    "SIGSTOP": Torture.stops,
    "signals": Torture.signals,
    "full disk": Torture.full_disk,
    "renamed": Torture.moved,
    "read-only": Torture.read_only,
    "two at once": Torture.two,
    "rank dies": Torture.launched,
    "server faults": Torture.served,
}


def torture(targets: Sequence[Target], root: Path, kills: int, faults: int, seed: int = 0,
            report: Callable[[list[Row]], None] = lambda rows: None, events: Sequence[str] = ()) -> list[Row]:  # fmt: skip
    """Every command in turn: `kills` kills and about `faults` faults of each kind's share. Returns the table."""
    rows: list[Row] = []
    chosen = [event for event in EVENTS if not events or event in events]
    for target in targets:
        one = Torture(target, root, seed)
        rows.append(Row(target.name, f"undisturbed ({one.seconds:.1f} s)", 1))
        if kills:
            one.kills(kills)
            report(rows + one.rows)
        each = -(-faults // len(chosen))
        for event in chosen if faults else ():
            EVENTS[event](one, each)
            report(rows + one.rows)
        rows += [row for row in one.rows if row.n]
        report(rows)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    head = ["command", "event", "n", "too late", *WRONG]
    lines = [head, ["---"] * len(head)]
    lines += [[r.command, r.event, str(r.n), str(r.finished), *(str(r.wrong[w]) for w in WRONG)] for r in rows if r.n]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    from torture_targets import TARGETS, make_targets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--faults", type=int, default=8, help="of all kinds together, a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--events", default="", help=f"of {', '.join(EVENTS)}")
    parser.add_argument("--work", type=Path, default=Path("runs/torture"))
    parser.add_argument("--out", type=Path, default=Path("runs/torture"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    def report(rows: list[Row]) -> None:
        (asked.out / "torture.md").write_text(table(rows))
        record = [vars(row) | {"wrong": dict(row.wrong)} for row in rows if row.n]
        (asked.out / "torture.json").write_text(json.dumps(record, indent=1) + "\n")

    targets = make_targets(asked.work.resolve(), asked.only.split(","))
    events = [event for event in asked.events.split(",") if event]
    rows = torture(targets, asked.work.resolve(), asked.kills, asked.faults, asked.seed, report, events)
    sys.stdout.write(table(rows))
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
