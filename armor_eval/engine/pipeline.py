"""Batches in order, prepared in worker threads some ahead, asked in a thread of their own while others are judged."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from armor_eval.engine.task import Request, Unit

T = TypeVar("T")

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


def asked_batches(prepared: Prepared[T], serve: Callable[[Prepared[T]], Iterator[Asked]]) -> Iterator[Asked]:
    """What `serve` makes of the prepared batches, made in a thread of its own. What it raises is raised here; then
    nothing more is asked."""
    ready: queue.Queue[Asked | BaseException | None] = queue.Queue(maxsize=WAITING)
    stop = threading.Event()

    def offer(entry: Asked | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in serve(prepared):
                if not offer(batch) or batch.gone is not None:
                    return
            offer(None)
        except BaseException as error:  # handed to the consumer, which raises it
            offer(error)
        finally:
            prepared.close()

    thread = threading.Thread(target=work, name="asking", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
            if entry.gone is not None:
                raise entry.gone
    finally:
        stop.set()
        thread.join(timeout=LEAVE_SECONDS)
