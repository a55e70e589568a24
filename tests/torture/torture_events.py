"""The events of a torture, each a function of (the torture, how often): it disturbs runs, then checks and resumes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ports import free_port
from torture_core import Row, Target, Torture
from torture_server import RandomFaults


def kill(one: Torture, n: int, each: int = 5) -> None:
    """kill -9 at random times, up to `each` times before a folder is left to finish."""
    row = one.row("kill -9")
    while row.n < n:
        out, before = one.fresh(row), {}
        for _ in range(min(each, n - row.n)):
            child = one.start(out)
            if child.wait(one.moment()):  # not killed, so not counted
                row.finished += 1
                one.judge_end(row, child, (0, one.target.again))
                break
            row.n += 1
            child.send(signal.SIGKILL)
            child.wait()
            before = one.check(row, out, before)
        one.finish(row, out, before)


def stops(one: Torture, n: int) -> None:
    """SIGSTOP, SIGCONT: nothing happens but time."""
    row = one.row("SIGSTOP")
    while row.n < n:
        out = one.fresh(row)
        child = one.start(out)
        for _ in range(2):
            child.wait(one.moment(0.5))
            child.send(signal.SIGSTOP)
            time.sleep(0.05)
            child.send(signal.SIGCONT)
        row.n += 1
        child.wait()
        one.judge_end(row, child, (0,))
        one.finish(row, out, one.check(row, out))


def signals(one: Torture, n: int) -> None:
    """Ctrl-C and SIGTERM, once, twice, three times quickly: one line, 130 and 143."""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        row = one.row(signal.Signals(number).name)
        while row.n < (n + 1) // 2:
            out = one.fresh(row)
            child = one.start(out)
            child.wait(one.moment())
            for _ in range(1 + row.n % 3):
                child.send(number)
                time.sleep(0.01)
            row.n += 1
            child.wait()
            row.finished += child.code == 0
            one.judge_end(row, child, (0, code), "continue with: ")
            one.finish(row, out, one.check(row, out))


def full_disk(one: Torture, n: int) -> None:
    """No file may grow beyond a random size: EFBIG, as a full disk or a quota would say."""
    row = one.row("full disk")
    largest = max(path.stat().st_size for path in (one.root / "undisturbed").rglob("*") if path.is_file())
    while row.n < n:
        out, size = one.fresh(row), int(largest * one.random.uniform(0.02, 0.98))
        child = one.start(out, before=lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
        row.n += 1
        child.wait()
        row.finished += child.code == 0
        one.judge_end(row, child, (0, 1), "no space left")
        one.finish(row, out, one.check(row, out))


def moved(one: Torture, n: int) -> None:
    """The folder gets another name while the run is going: it ends at once; with the old name back it resumes."""
    row = one.row("renamed")
    while row.n < n:
        out = one.fresh(row)
        child = one.start(out)
        while not child.ended() and not out.exists():
            time.sleep(0.002)
        child.wait(one.moment(0.4))
        away = out.with_name(f"{out.name}-away")
        row.n += 1
        if out.exists():
            out.rename(away)
        child.wait()
        row.finished += child.code == 0
        one.judge_end(row, child, (0, 1))
        if away.exists():
            if out.exists():
                row.finished += 1
                shutil.rmtree(out)  # a command that writes a folder whole was not hit
            away.rename(out)
        one.finish(row, out, one.check(row, out))


def read_only(one: Torture, n: int) -> None:
    """The folder cannot be written any more (as nobody: root may write everywhere)."""
    row = one.row("read-only")

    temporary = one.root / "temporary"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o777)

    def nobody() -> None:
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)

    while row.n < n:
        out = one.fresh(row)
        out.mkdir(mode=0o777)
        out.chmod(0o777)
        child = one.start(out, before=nobody)
        child.wait(one.moment(0.8))
        folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        row.n += 1
        child.wait()
        row.finished += child.code == 0
        one.judge_end(row, child, (0, 1, 2))
        for folder in folders:
            if folder.exists():
                folder.chmod(0o777)
        one.finish(row, out, one.check(row, out))


def two(one: Torture, n: int) -> None:
    """Two processes in one folder: one of them does the work, the other says so in a line, or finds it done."""
    row = one.row("two at once")
    while row.n < n:
        out = one.fresh(row)
        first = one.start(out)
        first.wait(one.moment(0.6))
        second = one.start(out)
        row.n += 1
        first.wait()
        second.wait()
        one.judge_end(row, first, (0, 1, 2))
        one.judge_end(row, second, (0, 1, 2))
        if 0 not in (first.code, second.code):
            row.count("wrong end", f"both failed: {first.text()[-150:]} {second.text()[-150:]}")
        one.finish(row, out, one.check(row, out))


def launched(one: Torture, n: int) -> None:
    """Two processes as torchrun starts them, one is killed, torchrun ends the other; one process goes on alone."""
    row = one.row("rank dies, other world size")
    while one.target.processes and row.n < n:
        out = one.fresh(row)
        port = free_port()
        pair = [one.start(out, before=partial(_launched, rank, 2, port)) for rank in range(2)]
        victim = one.random.randrange(2)
        pair[victim].wait(one.moment(1.2))
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
        finish_rounded(one, row, out)


def finish_rounded(one: Torture, row: Row, out: Path) -> None:
    """As finish, where the sums of another number of processes differ in rounding."""
    if one.target.same is Target.same:
        one.finish(row, out, one.check(row, out))
        return
    keys = {key for key, _ in one.target.state(out)}
    child = one.start(out)
    child.wait()
    one.judge_end(row, child, (0,))
    after = [key for key, _ in one.target.state(out)]
    if lost := keys - set(after):
        row.count("lost", f"{out.name}: {sorted(lost)[:3]}")
    if len(after) != len(set(after)):
        row.count("double", out.name)
    if not one.target.same(one.target.result(out), one.whole):
        row.count("unequal", f"{out.name}, {child.log.name}")
    else:
        shutil.rmtree(out)


def served(one: Torture, n: int) -> None:
    """A server that refuses, stalls, cuts and lies at random; runs are repeated until one is complete."""
    if one.target.server is None:
        return
    row = one.row("server faults")
    with RandomFaults(0.0, 0) as server:
        argv = lambda out: one.target.server(out, server.url)  # noqa: E731
        whole, expected = one.whole, one.expected
        one.expected, one.whole, _ = one._undisturbed(argv)
        try:
            while row.n < n:
                out, before = one.fresh(row), {}
                server.begin(0.3, one.random.randrange(10**6))
                for _ in range(2):
                    child = one.start(out, argv(out))
                    child.wait()
                    one.judge_end(row, child, (0, 1))
                    before = one.check(row, out, before)
                row.n += 1
                server.begin(0.0, 0)
                one.finish(row, out, before, argv(out))
        finally:
            one.whole, one.expected = whole, expected


def _launched(rank: int, size: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        ACCELERATE_USE_CPU="true",
    )


EVENTS: dict[str, Callable[[Torture, int], None]] = {
    "SIGSTOP": stops,
    "signals": signals,
    "full disk": full_disk,
    "renamed": moved,
    "read-only": read_only,
    "two at once": two,
    "rank dies": launched,
    "server faults": served,
}
