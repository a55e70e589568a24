"""Asks a model, batch by batch or as its rows become free; of a batch that fails only the culprit is lost."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from armor_eval.engine.batches import Size
from armor_eval.engine.task import Conversation, Prompt, Ready, Request, Unit
from armor_eval.models.base import (
    Answer,
    AnswersAsTheyFinish,
    AnswersQuestions,
    Decoding,
    DrawsImages,
    ModelUnavailable,
    Question,
    RespondsAsTheyFinish,
    RespondsFreely,
    Source,
)
from armor_eval.models.drawing import one_by_one, one_line, out_of_memory
from armor_eval.runs.schema import Item
from armor_model.base.errors import ArmorError

if TYPE_CHECKING:
    from armor_eval.models.base import Model

log = logging.getLogger(__name__)

Requests = Sequence[Request | Exception]


def batch_by_batch(model: Model, decoding: Decoding) -> Callable[[Prepared[Requests]], Iterator[Asked]]:
    """For `asked_batches`: what was prepared of a batch are its requests."""

    def serve(prepared: Prepared[Requests]) -> Iterator[Asked]:
        while (batch := prepared.next()) is not None:
            units, requests = batch
            assert requests is not None, "a batch that was waited for"
            began, gone = time.monotonic(), None
            try:
                outputs = ask(model, requests, decoding)
            except ModelUnavailable as error:
                gone, outputs = error, error.answers
            yield Asked(units, requests, outputs, time.monotonic() - began, gone)

    return serve


@dataclass(frozen=True)
class Streaming:
    """How a model takes the requests of one kind as its rows become free."""

    kind: type[Question] | type[Conversation]
    encode: Callable[[list[Any], Decoding], Sequence[object]]
    """All that is to be done before the model, one entry a request; runs in worker threads."""
    outputs: Callable[[Source[object], Decoding, int], Iterator[tuple[int, object]]]
    """`AnswersAsTheyFinish.answers`, or what has its form."""


def streaming(model: Model, kind: type | None) -> Streaming | None:
    """How the model streams requests of a kind; None where it takes them in whole batches."""
    if kind is Question and isinstance(model, AnswersAsTheyFinish):
        return Streaming(Question, model.encode, model.answers)
    if kind is Conversation and isinstance(model, RespondsAsTheyFinish):
        encode = model.encode_conversations
        return Streaming(
            Conversation,
            lambda some, how: encode([c.messages for c in some], [c.seed for c in some], how),
            model.responses,
        )
    return None


Entry = tuple[Unit, Request | Exception, object]
"""A unit, its request, and that as the model encoded it."""
Encoded = tuple[Requests, list[object]]
"""The requests of a batch, and each as the model encoded it."""


class AsTheyFinish:
    """For `asked_batches`: requests take the rows of finished ones, and each output is given as it comes. What was
    prepared of a batch: its requests, and each as the model encoded it.

    A round is one call of the model, with the rows that the longest request of its first batch allows; a batch that
    allows another number begins the next. Where a round fails, what was under way is asked one by one; where memory ran
    out, in rounds of half the rows from then on.
    """

    def __init__(self, model: Model, streaming: Streaming, decoding: Decoding, size: Size) -> None:
        self._model, self._streaming, self._decoding, self._size = model, streaming, decoding, size
        self._under_way: list[Entry | None] = []
        """By the number that the model knows them by; None once it is answered."""
        self._next: list[Entry] | None = None
        """What the next round begins with."""
        self._at_once: list[Asked] = []

    def encoded(self, requests: Requests) -> Encoded:
        """Runs in worker threads: all that comes before the model. None stands for what is not of the kind."""
        of_kind = {at: request for at, request in enumerate(requests) if isinstance(request, self._streaming.kind)}
        by_place = dict(zip(of_kind, self._streaming.encode(list(of_kind.values()), self._decoding), strict=True))
        return requests, [by_place.get(at) for at in range(len(requests))]

    def __call__(self, prepared: Prepared[Encoded]) -> Iterator[Asked]:
        while entries := self._next or self._arrived(prepared, wait=True):
            self._under_way, self._next = [], None
            rows = self._size.rows_for([unit for unit, *_ in entries])
            try:
                yield from self._round(prepared, entries, rows)
                continue
            except ArmorError:
                raise
            except Exception as error:
                again = [entry for entry in self._under_way if entry is not None]
                if not again:
                    raise
                tried = min(rows, len(again))
                if out_of_memory(error) and tried > 1:
                    self._size.halve(tried, [unit for unit, *_ in again])
                    self._next = again + (self._next or [])
                    log.warning("out of memory: asking %d at a time from here on (--batch-size)", tried // 2)
                    continue
                log.warning("%d requests under way failed (%s): asked one by one", len(again), one_line(error))
            for unit, request, _ in again:
                began = time.monotonic()
                yield Asked([unit], [request], ask(self._model, [request], self._decoding), time.monotonic() - began)
        yield from self._taken()

    def _source(self, prepared: Prepared[Encoded], first: list[Entry], rows: int) -> Source[object]:
        """What the model takes its requests from: these, and the batches after them that the same rows hold."""

        def source(wait: bool) -> list[object] | None:
            if self._next is not None:
                return None
            entries = first[:] or self._arrived(prepared, wait)
            first.clear()
            if entries and self._size.rows_for([unit for unit, *_ in entries]) != rows and self._under_way:
                self._next, entries = entries, None
            if entries is not None:
                self._under_way += entries
            return None if entries is None else [encoded for *_, encoded in entries]

        return source

    def _arrived(self, prepared: Prepared[Encoded], wait: bool) -> list[Entry] | None:
        """The requests of the next batch; what needs no model is answered at once."""
        while (batch := prepared.next(wait)) is not None:
            units, encoded_batch = batch
            if encoded_batch is None:
                return []
            open_ones: list[Entry] = []
            for unit, request, encoded in zip(units, *encoded_batch, strict=True):
                failed = isinstance(encoded, Answer | Exception)
                if isinstance(request, self._streaming.kind) and not failed:
                    open_ones.append((unit, request, encoded))
                    continue
                output = encoded if failed else ask(self._model, [request], self._decoding)[0]
                self._at_once.append(Asked([unit], [request], [output], 0.0))
            if open_ones:
                return open_ones
        return None

    def _round(self, prepared: Prepared[Encoded], first: list[Entry], rows: int) -> Iterator[Asked]:
        began, source = time.monotonic(), self._source(prepared, first, rows)
        for number, answer in self._streaming.outputs(source, self._decoding, rows):
            entry = self._under_way[number]
            assert entry is not None, f"answer {number} came twice"
            self._under_way[number] = None
            now = time.monotonic()
            yield Asked([entry[0]], [entry[1]], [answer], now - began)
            began = now
            yield from self._taken()
        yield from self._taken()

    def _taken(self) -> Iterator[Asked]:
        while self._at_once:
            yield self._at_once.pop(0)


def ask(model: Model, requests: Sequence[Request | Exception], decoding: Decoding) -> list[Any]:
    """One output a request, in order; an exception stands for a unit that has none.

    Where the model is gone ModelUnavailable passes, its `answers` being one entry a request: None is still to be asked.
    """
    outputs: list[object] = [
        r.output if isinstance(r, Ready) else r if isinstance(r, Exception) else None for r in requests
    ]
    for kind, one_kind in ((Question, _answer), (Prompt, _draw), (Conversation, _respond)):
        places = [at for at, request in enumerate(requests) if isinstance(request, kind)]
        if places:
            of_kind = [requests[at] for at in places]
            gone = None
            try:
                answered = one_by_one(lambda some, one_kind=one_kind: one_kind(model, some, decoding), of_kind)
            except ModelUnavailable as error:  # a request that was asked alone says nothing of its batch
                gone, answered = error, error.answers if len(error.answers) == len(of_kind) else [None] * len(of_kind)
            for at, output in zip(places, answered, strict=True):
                outputs[at] = output
            if gone is not None:
                gone.answers = outputs
                raise gone
    return outputs


def _answer(model: AnswersQuestions, questions: list[Question], decoding: Decoding) -> Sequence[object]:
    return model.answer(questions, decoding)


def _draw(model: DrawsImages, prompts: list[Prompt], decoding: Decoding) -> Sequence[object]:
    return model.draw([p.text for p in prompts], [p.seed for p in prompts], decoding)


def _respond(model: RespondsFreely, conversations: list[Conversation], decoding: Decoding) -> Sequence[object]:
    return model.respond([c.messages for c in conversations], [c.seed for c in conversations], decoding)


# --- the pipeline: prepared in worker threads some ahead, asked in a thread of its own, judged meanwhile -------------


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


def in_thread(entries: Generator[R], waiting: int, name: str) -> Iterator[R]:
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
            with closing(entries):  # at once, where the taker has stopped: what prepares them ends too
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

    def served() -> Generator[Asked]:
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

    def started() -> Generator[tuple[Asked, Future[list[Item]]]]:
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
