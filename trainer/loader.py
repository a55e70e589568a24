"""The data loader: which conversation is read at which step, a pure function of the seed and the step, so that a
resumed run needs no position; and this process's micro-batches of it, made several steps ahead in worker processes.

Lengths and types deal a step's conversations out to micro-batches and processes; a process reads its own only, so its
cost does not grow with the number of processes.

Each pass takes exactly the stage's count from each pool (round and round where a pool is smaller) and shuffles. Batches
are not sorted by length: where length goes with the kind of question, that makes every batch one kind, and the answers
swing from one constant to another (armor-nano's base after 190 CPU-seconds: .49 of the questions right, sorted .42 to
.46). Padding is saved inside a step: by micro-batches of like length or by packing.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from armor_model.base.errors import ArmorError, RunFailed, UserError
from trainer.batches import DROPPED, Batch, Example, Sizes, collate
from trainer.config import Optimization
from trainer.data.shards import ShardPool

log = logging.getLogger(__name__)

T = TypeVar("T")


def counts_of(shares: Mapping[str, int], how: Optimization) -> dict[str, int]:
    """Conversations of each type for a whole run, in these shares."""
    total, whole = how.steps * how.batch_size, sum(shares.values())
    return {kind: -(-n * total // whole) for kind, n in shares.items()}


class Pool(Protocol):
    """Examples of one type, by index: a list, or tokenised shards on disk, whose `sizes` need no reading."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


def sizes_of(pool: Pool, indices_N: np.ndarray) -> Sizes:
    """What a pool's examples measure: as it knows itself, else one by one."""
    if isinstance(pool, ShardPool):
        return pool.sizes(indices_N)
    examples = [pool[int(i)] for i in indices_N]
    columns = zip(*((len(e), e.request, e.kind in DROPPED) for e in examples), strict=True)
    return Sizes(*map(np.array, columns))


class Chosen(NamedTuple):
    """A step's conversations, none of them read yet."""

    pools: np.ndarray
    """(B,) number of each one's pool."""
    indices: np.ndarray
    """(B,) where each stands in it."""
    emptied: np.ndarray
    """(B,) whether its request is emptied."""
    lengths: np.ndarray
    """(B,) positions, as emptied."""


class Mixture:
    """Batches of a stage's mixture."""

    def __init__(
        self,
        pools: Mapping[str, Pool],
        counts: Mapping[str, int],
        batch_size: int,
        seed: int,
        condition_dropout: float = 0.0,
    ) -> None:
        """pools: type -> examples. counts: type -> examples in one pass."""
        self.counts = {kind: n for kind, n in counts.items() if n}
        missing = [kind for kind in self.counts if kind not in pools or not len(pools[kind])]
        if missing:
            raise ValueError(f"the mixture asks for {', '.join(missing)}, of which there is no data")
        if sum(self.counts.values()) < batch_size:
            raise ValueError(
                f"one pass holds {sum(self.counts.values())} conversations, fewer than a batch of {batch_size}"
            )
        self.pools, self.batch_size, self.seed = pools, batch_size, seed
        self.condition_dropout = condition_dropout
        self.kinds = sorted(self.counts)
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        """Steps of one pass; a last incomplete batch is left out."""
        return sum(self.counts.values()) // self.batch_size

    def chosen(self, step: int) -> Chosen:
        """What optimizer step `step`, from 0, reads."""
        epoch, at = divmod(step, len(self))
        pools_B, indices_B = self._plan(epoch)[at].T
        sizes_3B = np.zeros((3, self.batch_size), dtype=np.int64)
        for number in np.unique(pools_B):
            mine = pools_B == number
            sizes_3B[:, mine] = sizes_of(self.pools[self.kinds[number]], indices_B[mine])
        lengths_B, requests_B, droppable_B = sizes_3B[0], sizes_3B[1], sizes_3B[2].astype(bool)
        emptied_B = np.zeros(self.batch_size, dtype=bool)
        if self.condition_dropout:
            rng = np.random.default_rng([self.seed, 2, step])
            emptied_B[droppable_B] = rng.random(droppable_B.sum()) < self.condition_dropout
        return Chosen(pools_B, indices_B, emptied_B, lengths_B - np.where(emptied_B, requests_B, 0))

    def read(self, chosen: Chosen, at: int, further: int = 0) -> Example:
        """One of a step's conversations; `further`: the record that stands that far behind it in its pool."""
        pool = self.pools[self.kinds[chosen.pools[at]]]
        example = pool[(int(chosen.indices[at]) + further) % len(pool)]
        return example.without_prompt() if chosen.emptied[at] else example

    def batch(self, step: int) -> list[Example]:
        """All examples of optimizer step `step`, from 0."""
        chosen = self.chosen(step)
        return [self.read(chosen, at) for at in range(self.batch_size)]

    def contents(self) -> dict[str, str]:
        """Size and digest of each pool, over eight of its examples: a resumed run has to read the same data."""
        digests = {}
        for kind in self.kinds:
            pool, digest = self.pools[kind], hashlib.sha256()
            for i in range(8):
                digest.update(pool[(len(pool) - 1) * i // 7].input_ids.numpy().tobytes())
            digests[kind] = f"{len(pool)} {digest.hexdigest()[:16]}"
        return digests

    def _plan(self, epoch: int) -> np.ndarray:
        """(steps, batch_size, 2): pool number and index of every example of a pass."""
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._make_plan(epoch))
        return self._epoch[1]

    def _make_plan(self, epoch: int) -> np.ndarray:
        rows = []
        for number, kind in enumerate(self.kinds):
            count, size = self.counts[kind], len(self.pools[kind])
            first = epoch * count  # go on where the last pass stopped, so a pool larger than its count is used in full
            rounds = range(first // size, (first + count - 1) // size + 1)
            orders = [np.random.default_rng([self.seed, 0, number, r]).permutation(size) for r in rounds]
            indices = np.concatenate(orders)[first % size :][:count]
            rows.append(np.stack([np.full(count, number), indices], axis=1))
        order = np.concatenate(rows)
        shuffled = np.random.default_rng([self.seed, 1, epoch]).permutation(len(order))
        steps = len(self)
        return order[shuffled[: steps * self.batch_size]].reshape(steps, self.batch_size, 2)


@dataclass
class Images:
    """How reading the images to look at went, in this process."""

    read: int = 0
    """Conversations whose images were asked for."""
    retried: int = 0
    """Of these, the ones that needed another try, and then went well."""
    replaced: int = 0
    """Of these, the ones that stayed bad, so that the next record took their place."""
    reasons: list[str] = field(default_factory=list)
    """Of the first that were replaced."""

    def add(self, other: Images) -> None:
        self.read, self.retried = self.read + other.read, self.retried + other.retried
        self.replaced, self.reasons = self.replaced + other.replaced, (self.reasons + other.reasons)[:10]

    def check(self, share: float, where: str = "") -> None:
        """Raises RunFailed where more than this share was replaced."""
        if self.replaced > share * max(self.read, GRACE):
            raise RunFailed(
                f"{self.replaced:,} of {self.read:,} {where}conversations had bad images, more than "
                f"{share:.2%} of {max(self.read, GRACE):,}; the last: {self.reasons[-1]}"
            )


Prepared = tuple[list[Batch], Images] | Exception
"""Micro-batches of a step and how their images were, or what was wrong."""

PAUSES = (0.1, 1.0)
"""Seconds before an image is asked for again: a network's file system may have been busy."""
GRACE = 1_000
"""Images from which on a share is one: before, as if so many had been read."""


def opened(example: Example, images: Images) -> Example | None:
    """An example with its images read, counted in `images`; None where they are bad and stay so."""
    if not callable(example.pixels):
        return example
    images.read += 1
    for attempt, pause in enumerate((*PAUSES, None)):
        try:
            found = replace(example, pixels=example.pixels())
        except ArmorError as error:
            if pause is None:
                images.replaced += 1
                images.reasons.append(str(error))
            else:
                time.sleep(pause)
            continue
        images.retried += attempt > 0
        return found
    return None


class DataLoader:
    """This process's share of each step's conversations, collated into micro-batches; while a step computes, the next
    ones' images are opened, in worker processes or a thread. Closed when the run ends."""

    def __init__(
        self,
        mixture: Mixture,
        how: Optimization,
        rank_of: tuple[int, int],
        token_ids: tuple[int, int],
        pack_to: int | None = None,
        workers: int = 0,
        ahead: int = 2,
        bad_images: float = 0.001,
    ) -> None:
        """rank_of: this process's rank, and how many there are. token_ids: of padding and of <imgbos>. workers:
        processes that make batches; 0 a thread. ahead: steps that each prepares. bad_images: largest share of
        conversations whose images may be bad and are replaced."""
        self.mixture, self.how, self.pack_to = mixture, how, pack_to
        self.rank, self.world = rank_of
        self.pad_id, self.image_start_id = token_ids
        self.workers, self.ahead, self.bad_images = workers, ahead, bad_images
        self.images = Images()
        self._stream: Generator[tuple[list[Batch], Images] | Exception] | None = None
        self._next = -1

    def close(self) -> None:
        """End the processes, or the thread."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None

    def micro_batches(self, step: int) -> list[Batch]:
        """Of a step, from 0; the next steps' are begun. Raises UserError, and RunFailed for too many bad images."""
        if self._stream is None or step != self._next:
            self.mixture.chosen(step)  # the pass's plan, made once before it is shared with the workers
            self.close()
            self._stream = self._in_processes(step) if self.workers else self._in_a_thread(step)
        self._next = step + 1
        made = next(self._stream)
        if isinstance(made, Exception):
            raise made
        micro, images = made
        self.images.add(images)
        for reason in images.reasons:
            log.warning("an image is bad, the next record takes its place: %s", reason)
        self.images.check(self.bad_images)
        return micro

    def _in_processes(self, first: int) -> Generator[Prepared]:
        from torch.utils.data import DataLoader as Processes

        yield from Processes(
            _Steps(self),
            batch_size=None,
            sampler=range(first, self.how.steps),
            num_workers=self.workers,
            prefetch_factor=self.ahead,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",
        )

    def _in_a_thread(self, first: int) -> Generator[Prepared]:
        with ThreadPoolExecutor(1, "prefetch") as thread:
            steps = iter(range(first, self.how.steps))
            made = deque(thread.submit(self.make, step) for step in itertools.islice(steps, self.ahead + 1))
            try:
                while made:
                    yield made.popleft().result()
                    made.extend(thread.submit(self.make, step) for step in itertools.islice(steps, 1))
            finally:
                thread.shutdown(cancel_futures=True)

    def make(self, step: int) -> Prepared:
        """This process's micro-batches of a step, and how their images were; or what was wrong, which a worker process
        would pass on with its traceback in the text."""
        chosen, images = self.mixture.chosen(step), Images()
        # Micro-batches of like length pad least; their sum is the step's gradient in any order.
        order_B = np.argsort(chosen.lengths, kind="stable")
        size = self.how.batch_size // self.how.accumulate
        micro = [order_B[i * size + self.rank : (i + 1) * size : self.world] for i in range(self.how.accumulate)]
        try:
            read = ([self._read(chosen, at, images) for at in own] for own in micro)
            return [collate(e, self.pad_id, self.image_start_id, self.pack_to) for e in read], images
        except ValueError as error:
            return UserError(str(error))
        except ArmorError as error:
            return error

    def _read(self, chosen: Chosen, at: int, images: Images) -> Example:
        """A conversation with its images, or the next one of its pool whose images are good."""
        for further in range(100):
            example = opened(self.mixture.read(chosen, at, further), images)
            if example is not None:
                return example
        raise RunFailed(f"a hundred records in a row have bad images, the last: {images.reasons[-1]}")


class _Steps:
    """What torch's worker processes read: step -> batches."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __getitem__(self, step: int) -> Prepared:
        return self.loader.make(step)


def _as_it_is(made: T) -> T:
    return made
