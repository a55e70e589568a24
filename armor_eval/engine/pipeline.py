"""Batches in order, each prepared in worker threads and asked in another, while the one before is judged."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from armor_eval.engine.task import Unit

PREPARING_THREADS = 2
PREPARED_AHEAD = 2
"""Batches whose requests are made before they are needed: bounds memory to three batches of images."""
LEAVE_SECONDS = 1.0
"""How long an interrupted run waits for the batch in flight; its thread ends with the process."""


@dataclass(frozen=True)
class Asked:
    """A batch with its requests and what came back."""

    units: list[Unit]
    requests: list[Any]
    outputs: list[Any]
    seconds: float
    """Wall seconds of asking, the whole batch."""
    gone: Exception | None = None
    """Why nothing is asked after this batch; None among its outputs is still to be asked."""


def asked_batches(
    batches: Sequence[list[Unit]],
    prepare: Callable[[list[Unit]], list[Any]],
    ask: Callable[[list[Any]], tuple[list[Any], float, Exception | None]],
) -> Iterator[Asked]:
    """Every batch in order. What `prepare` or `ask` raises is raised here; nothing is asked after that."""
    ready: queue.Queue[Asked | BaseException | None] = queue.Queue(maxsize=1)
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
        pool = ThreadPoolExecutor(PREPARING_THREADS, thread_name_prefix="prepare")
        try:
            for units, requests in _prepared(pool, batches, prepare):
                if stop.is_set():
                    return
                asked = Asked(units, requests, *ask(requests))
                if not offer(asked) or asked.gone is not None:
                    return
            offer(None)
        except BaseException as error:  # handed to the consumer, which raises it
            offer(error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

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


def _prepared(
    pool: ThreadPoolExecutor, batches: Sequence[list[Unit]], prepare: Callable[[list[Unit]], list[Any]]
) -> Iterator[tuple[list[Unit], list[Any]]]:
    ahead: deque[tuple[list[Unit], Future[list[Any]]]] = deque()
    waiting = iter(batches)
    while True:
        while len(ahead) <= PREPARED_AHEAD and (units := next(waiting, None)) is not None:
            ahead.append((units, pool.submit(prepare, units)))
        if not ahead:
            return
        units, future = ahead.popleft()
        yield units, future.result()
