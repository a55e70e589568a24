"""Processors for several threads: a fast tokenizer's padding is its own state, so each serves one thread at a time."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from armor_eval.models.hf_prompts import Prompter

log = logging.getLogger(__name__)


class Copies:
    """One prompter, and as many copies of it as threads were ever at work at once."""

    def __init__(self, first: Prompter) -> None:
        self._idle, self._change = [first], threading.Condition()
        self._waited = False
        """Whether a thread had to wait since a copy was made: only then another one is worth its time and memory."""
        self._copyable = True

    @contextmanager
    def lent(self) -> Iterator[Prompter]:
        """A prompter that no other thread uses."""
        with self._change:
            while not self._idle:
                self._waited = True
                self._change.wait()
            one = self._idle.pop()
        try:
            yield one
        finally:
            with self._change:
                self._idle.append(one)
                if self._waited and self._copyable:
                    self._copy(one)
                self._waited = False
                self._change.notify_all()

    def _copy(self, resting: Prompter) -> None:
        try:
            self._idle.append(replace(resting, processor=copy.deepcopy(resting.processor)))
        except Exception as error:  # code from the hub may hold what cannot be copied: threads then take turns
            log.debug("a processor cannot be copied: %s", error)
            self._copyable = False
