"""Threads that encode at once each have a processor of their own, and no more are copied than were ever at work."""

import threading
from concurrent.futures import ThreadPoolExecutor

from armor_eval.models.hf_copies import Copies
from armor_eval.models.hf_prompts import Prompter


class Processor:
    copies = 0

    def __deepcopy__(self, memo):
        Processor.copies += 1
        return Processor()


class Uncopyable:
    def __deepcopy__(self, memo):
        raise TypeError("cannot pickle")


def at_work(copies: Copies, threads: int, rounds: int) -> tuple[int, int]:
    """The most threads that held a prompter at once, and how often two held the same one."""
    held, most, clashes, lock = [], 0, 0, threading.Lock()

    def encode(_):
        nonlocal most, clashes
        with copies.lent() as prompter:
            with lock:
                clashes += any(one is prompter.processor for one in held)
                held.append(prompter.processor)
                most = max(most, len(held))
            threading.Event().wait(0.005)
            with lock:
                held.remove(prompter.processor)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(encode, range(rounds)))
    return most, clashes


def prompter_of(processor) -> Prompter:
    return Prompter("plain", processor, lambda rows: [], False, None)


def test_threads_encode_at_once_with_a_processor_each() -> None:
    Processor.copies = 0
    copies = Copies(prompter_of(Processor()))
    assert at_work(copies, 1, 3) == (1, 0) and Processor.copies == 0, "alone, nothing is copied"
    assert at_work(copies, 3, 60) == (3, 0)
    assert Processor.copies <= 2


def test_threads_take_turns_with_what_cannot_be_copied() -> None:
    assert at_work(Copies(prompter_of(Uncopyable())), 3, 12) == (1, 0)
