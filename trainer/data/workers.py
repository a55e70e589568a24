"""Independent pieces of work in this process or in several, their results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from armor_model.base.errors import RunFailed
from armor_model.base.runtime import die_with_parent

T = TypeVar("T")

_state: Any = None
"""Of a worker process: what `begin` gave."""


def in_order(
    work: Callable[..., T], pieces: Iterable[tuple[Any, ...]], state: Any, workers: int = 1, begin: Any = None
) -> Generator[T]:
    """`work(state, *piece)` for each piece; with several workers each makes a `state` of its own by `begin()`.

    Raises RunFailed where a worker dies. A caller that stops early closes it: what is begun is then done, and no more.
    """
    if workers == 1:
        for piece in pieces:
            yield work(state, *piece)
        return
    # Spawned: after a fork, CUDA and OpenMP of the parent do not work in a child.
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (begin,)) as pool:
        running: deque[Future[T]] = deque()
        try:
            for piece in pieces:
                running.append(pool.submit(_work, work, piece))
                if len(running) >= 2 * workers:  # more would hold the whole input in memory
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            raise RunFailed(
                "a worker process died, maybe out of memory; the same command with fewer --workers goes on"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[[], Any] | None) -> None:
    global _state
    die_with_parent()
    _state = begin() if begin is not None else None


def _work(work: Callable[..., T], piece: tuple[Any, ...]) -> T:
    return work(_state, *piece)
