"""Batches in order: prepared in worker threads some ahead, asked in a thread of their own, judged meanwhile, where the
task allows several side by side."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar

from armor_eval.engine.task import Request, Unit
from armor_eval.runs.schema import Item

T = TypeVar("T")
R = TypeVar("R")

MOST_THREADS = 8
"""Threads that make requests where nothing else is asked for: images are decoded and cut outside of Python's lock."""
WAITING = 16
"""Batches, or single answers, that may wait to be judged."""
LEAVE_SECONDS = 1.0
"""How long an interrupted run waits for the batch in flight; its thread ends with the process."""


@dataclass(frozen=True)
class Asked:
    """Some units with their requests and what came back."""

    units: list[Unit]
    requests: Sequence[Request | Exception]
    outputs: Sequence[object]
    seconds: float
    """Wall seconds of asking, all of them."""
    gone: Exception | None = None
    """Why nothing is asked after this; None among its outputs is still to be asked."""


class Prepared(Generic[T]):
    """Batches with what was made of each in worker threads, in order. One batch a thread is made ahead, and one more:
    that bounds the images in memory."""

    def __init__(
        self, batches: Sequence[list[Unit]], prepare: Callable[[list[Unit]], T], threads: int | None = None
    ) -> None:
        self._threads = threads or min(MOST_THREADS, max(2, len(os.sched_getaffinity(0))))
        self._waiting, self._prepare = iter(batches), prepare
        self._ahead: deque[tuple[list[Unit], Future[T]]] = deque()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="prepare")

    def next(self, wait: bool = True) -> tuple[list[Unit], T | None] | None:
        """The next batch; no units and None where it is not ready and `wait` is false; None after the last. Raises
        what its preparation raised."""
        while len(self._ahead) <= self._threads and (units := next(self._waiting, None)) is not None:
            self._ahead.append((units, self._pool.submit(self._prepare, units)))
        if not self._ahead:
            return None
        units, future = self._ahead[0]
        if not wait and not future.done():
            return [], None
        self._ahead.popleft()
        return units, future.result()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def in_thread(entries: Iterator[R], waiting: int, name: str) -> Iterator[R]:
    """The same entries, made in a daemon thread that is at most `waiting` ahead. What making one raises is raised here,
    behind those before it; where the taker stops, nothing more is made."""
    ready: queue.Queue[R | BaseException | None] = queue.Queue(maxsize=waiting)
    stop = threading.Event()

    def offer(entry: R | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            if all(offer(entry) for entry in entries):
                offer(None)
        except BaseException as error:  # handed to the consumer, which raises it
            offer(error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stop.set()
        thread.join(timeout=LEAVE_SECONDS)


def asked_batches(prepared: Prepared[T], serve: Callable[[Prepared[T]], Iterator[Asked]]) -> Iterator[Asked]:
    """What `serve` makes of the prepared batches, made in a thread of its own. What it raises is raised here; then
    nothing more is asked."""

    def served() -> Iterator[Asked]:
        with closing(prepared):
            for batch in serve(prepared):
                yield batch
                if batch.gone is not None:
                    return

    for batch in in_thread(served(), WAITING, "asking"):
        yield batch
        if batch.gone is not None:
            raise batch.gone


def judged_batches(
    asked: Iterator[Asked], judge: Callable[[Asked], list[Item]], threads: int
) -> Iterator[tuple[Asked, list[Item]]]:
    """Batches with their items, in order; with several threads, that many are judged side by side."""
    if threads == 1:
        yield from ((batch, judge(batch)) for batch in asked)
        return
    free = threading.Semaphore(threads)

    def started() -> Iterator[tuple[Asked, Future[list[Item]]]]:
        for batch in asked:
            free.acquire()
            future: Future[list[Item]] = Future()
            threading.Thread(target=work, args=(batch, future), name="judging", daemon=True).start()
            yield batch, future

    def work(batch: Asked, future: Future[list[Item]]) -> None:
        try:
            future.set_result(judge(batch))
        except BaseException as error:  # handed to the consumer, which raises it
            future.set_exception(error)
        finally:
            free.release()

    for batch, future in in_thread(started(), threads, "handing out"):
        yield batch, future.result()
