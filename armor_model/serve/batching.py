"""Continuous batching of requests that come one at a time: one thread runs the engine, others hand in and listen."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from armor_model.generation.api import UNCONDITIONAL, GenerationSettings, Response, render, response_of
from armor_model.generation.engine import Engine
from armor_model.generation.prefixes import PrefixCache
from armor_model.generation.state import Request, Row

if TYPE_CHECKING:
    from PIL.Image import Image

    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor

log = logging.getLogger(__name__)


class BusyError(Exception):
    """As many requests wait as may."""


class ClosedError(Exception):
    """The server is ending."""


@dataclass(eq=False)
class Job:
    """One answer under way. `send` is called on the engine's thread: with a text or an image as it comes where `live`
    says so, at last with the Response, or with the exception that ended it."""

    request: Request
    send: Callable[[str | Image | Response | Exception], None]
    live: bool = False
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are no part of it."""
    dropped: bool = False
    """Nobody listens any more: its row goes to the next one."""
    parts: Parts | None = None


class Batcher:
    """Runs jobs through one engine, at most `batch_size` at a time, at most `queue` more wait.

    Args:
        settings: what requests may differ from (see `Request.settings`); its lengths are the most that one may ask for.
    """

    def __init__(
        self, model: ArmorModel, processor: ArmorProcessor, settings: GenerationSettings, batch_size: int, queue: int
    ) -> None:
        self.model, self.processor, self.settings = model.eval(), processor, settings
        self.batch_size, self.queue = batch_size, queue
        self.counts: Counter[str] = Counter()
        """`prompt_tokens`, `text_tokens`, `images`, `answers`, `dropped`, `failures` since the start."""
        self._waiting: deque[Job] = deque()
        self._running: dict[int, Job] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End what runs and waits with a ClosedError."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=30)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    @property
    def load(self) -> tuple[int, int]:
        """Answers under way, requests that wait."""
        return len(self._running), len(self._waiting)

    def submit(self, jobs: list[Job]) -> None:
        """Hand in jobs, all or none. BusyError where the queue is full."""
        with self._changed:
            if not self.alive:
                raise ClosedError
            free = max(0, self.batch_size - len(self._running))
            if len(self._waiting) + len(jobs) > self.queue + free:
                raise BusyError
            self._waiting.extend(jobs)
            self._changed.notify()

    def drop(self, jobs: list[Job]) -> None:
        """Nobody waits for these: they leave the queue, and their rows end after the present step."""
        with self._changed:
            for job in jobs:
                job.dropped = True
            self._waiting = deque(job for job in self._waiting if not job.dropped)

    # ---- on the engine's thread ----------------------------------------------------------------------------

    def _work(self) -> None:
        unconditional = self.processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
        while not self._closing:
            try:
                stops, prefixes = self.processor.stop_ids, PrefixCache()
                engine = Engine(
                    self.model, self.settings, stops, unconditional, self.batch_size, compile=False, prefixes=prefixes
                )
                self._serve(engine)
            except Exception as error:  # out of memory, or a bug: it costs what is under way, not the server
                log.exception("the engine failed; it starts again")
                self.counts["failures"] += 1
                self._fail(error)
        with self._changed:
            self._running.update(enumerate(self._waiting, start=1 << 62))
            self._waiting.clear()
        self._fail(ClosedError())

    def _fail(self, error: Exception) -> None:
        while self._running:
            self._running.popitem()[1].send(error)

    def _serve(self, engine: Engine) -> None:
        self._arrived = 0
        together: dict[int, Response] = {}  # their images are decoded together
        for number, row in engine.feed(self._next, self._watch):
            together[number] = response_of(row)
            if (parts := self._running[number].parts) is not None:
                parts.take(row, last=True)
            if not engine.done:
                whole = [n for n in together if self._running[n].parts is None and not self._running[n].dropped]
                render([together[n] for n in whole], self.processor)
                for n, response in together.items():
                    self._finish(self._running[n], response)
                    with self._changed:
                        del self._running[n]
                together = {}

    def _finish(self, job: Job, response: Response) -> None:
        if job.parts is not None:
            response.parts = job.parts.done
        self.counts["dropped" if job.dropped else "answers"] += 1
        self.counts["prompt_tokens"] += len(job.request.ids)
        self.counts["text_tokens"] += response.stats["text_tokens"]
        self.counts["images"] += len(response.codes)
        job.send(ClosedError() if self._closing else response)

    def _next(self, wait: bool) -> list[Request] | None:
        """What the engine takes in: never more than it has rows for, so that whoever waits can still leave."""
        with self._changed:
            while wait and not self._waiting and not self._closing:
                self._changed.wait()
            if self._closing:
                return None
            free = self.batch_size - len(self._running)
            jobs = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            for job in jobs:
                if job.live or job.stop:
                    job.parts = Parts(self.processor, job.stop, job.send if job.live else None)
                self._running[self._arrived] = job
                self._arrived += 1
        return [job.request for job in jobs]

    def _watch(self, rows: list[Row]) -> None:
        """Send what has come; end rows that nobody waits for, that said a stop text, or all where the server ends."""
        for row in rows:
            job = self._running[row.request]
            if job.dropped or self._closing:
                row.finish = "dropped"
            elif job.parts is not None and job.parts.take(row):
                row.finish = "stop"


@dataclass
class Parts:
    """An answer's parts as they come: texts up to the first stop text, and images."""

    processor: ArmorProcessor
    stop: tuple[str, ...]
    send: Callable[[str | Image], None] | None
    done: list[str | Image] = field(default_factory=list)
    stopped: bool = False
    _at: int = 0
    _pending: list[int] = field(default_factory=list)
    _sent: str = ""
    """Of the text that is not yet among `done`."""
    _drawn: int = 0

    def take(self, row: Row, last: bool = False) -> bool:
        """Take the row's new tokens; whether a stop text came."""
        new, self._at = row.tokens[self._at :], len(row.tokens)
        for token in new:
            if self.stopped:
                break
            if token == self.processor.imgend_id:
                self._text(whole=True)
                if not self.stopped:
                    self._image(row.images[self._drawn])
            elif token < self.processor.imgbos_id:
                self._pending.append(token)
            elif token == self.processor.imgbos_id:
                self._text(whole=True)
        if not self.stopped and (new or last):
            self._text(whole=last)
        return self.stopped

    def _text(self, whole: bool) -> None:
        if not self._pending:
            return
        text = self.processor.decode_text(self._pending)
        ends = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, whole, text = True, True, text[: min(ends)]
        elif not whole:
            # half a character, and what may be the beginning of a stop text, are held back
            text = text.rstrip("\ufffd")
            text = text[: len(text) - max((len(stop) - 1 for stop in self.stop), default=0)]
        new = text[len(self._sent) :] if text.startswith(self._sent) else ""
        if new and self.send is not None:
            self.send(new if self._sent or not self._texts else "\n" + new)
        if new:
            self._sent = text
        if whole:
            if text:
                self.done.append(text)
            self._pending, self._sent = [], ""

    @property
    def _texts(self) -> int:
        return sum(isinstance(part, str) for part in self.done)

    def _image(self, codes: list[int]) -> None:
        side = self.processor.settings.image_grid
        [image] = self.processor.decode_codes(torch.tensor(codes).view(1, side, side))
        self._drawn += 1
        self.done.append(image)
        if self.send is not None:
            self.send(image)
