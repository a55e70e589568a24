"""Threads that encode at once each have a processor of their own, and no more are copied than were ever at work."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from armor_eval.models.hf_prompts import Copies, Prompter


class Processor:
    copies = 0

    def __deepcopy__(self, memo):
        Processor.copies += 1
        return Processor()


class Uncopyable:
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle")


def clashes_of(copies: Copies, threads: int, rounds: int) -> int:
    """How often two threads held the same prompter."""
    held, clashes, lock = [], 0, threading.Lock()

    def encode(_):
        nonlocal clashes
        with copies.lent() as prompter:
            with lock:
                clashes += any(one is prompter.processor for one in held)
                held.append(prompter.processor)
            threading.Event().wait(0.005)
            with lock:
                held.remove(prompter.processor)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(encode, range(rounds)))
    return clashes


def lend(copies: Copies, number: int) -> set[int]:
    """As many prompters at once; returns which processors they are."""
    with ExitStack() as held:
        return {id(held.enter_context(copies.lent()).processor) for _ in range(number)}


def lend_with_one_waiting(copies: Copies, number: int) -> None:
    """As many prompters at once, all that there are, until a further thread waits for one."""
    end = time.monotonic() + 600
    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        for _ in range(number):
            held.enter_context(copies.lent())
        pool.submit(lend, copies, 1)
        while not copies._waited:
            assert time.monotonic() < end
            time.sleep(0.001)


def prompter_of(processor) -> Prompter:
    return Prompter("plain", processor, lambda rows: [], False, None)


def test_threads_encode_at_once_with_a_processor_each() -> None:
    Processor.copies = 0
    copies = Copies(prompter_of(Processor()))
    assert clashes_of(copies, 1, 3) == 0 and Processor.copies == 0, "alone, nothing is copied"
    for number in (1, 2):
        lend_with_one_waiting(copies, number)
        assert Processor.copies == number
    assert len(lend(copies, 3)) == 3
    assert clashes_of(copies, 3, 60) == 0 and Processor.copies == 2


def test_threads_take_turns_with_what_cannot_be_copied() -> None:
    copies = Copies(prompter_of(Uncopyable()))
    lend_with_one_waiting(copies, 1)
    lend_with_one_waiting(copies, 1)
    assert clashes_of(copies, 3, 12) == 0
