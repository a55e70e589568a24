"""The data loader: which conversation is read at which step, a pure function of the seed and the step, so that a
resumed run needs no position; and this process's micro-batches of it, prefetched in a thread.

Each pass takes exactly the stage's count from each pool (round and round where a pool is smaller) and shuffles. Batches
are not sorted by length: where length goes with the kind of question, that makes every batch one kind, and the answers
swing from one constant to another (armor-nano's base after 190 CPU-seconds: .49 of the questions right, sorted .42 to
.46). Padding is saved inside a step: by micro-batches of like length or by packing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from armor_model.base.errors import UserError
from trainer.batches import Batch, Example, collate
from trainer.config import Optimization

DROPPED = ("t2i",)
"""Types whose request may be emptied: the answer is an image only, so nothing else loses its condition."""


def counts_of(shares: Mapping[str, int], how: Optimization) -> dict[str, int]:
    """Conversations of each type for a whole run, in these shares."""
    total, whole = how.steps * how.batch_size, sum(shares.values())
    return {kind: -(-n * total // whole) for kind, n in shares.items()}


class Pool(Protocol):
    """Examples of one type, by index: a list, or tokenised shards on disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Example: ...


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

    def batch(self, step: int) -> list[Example]:
        """The examples of optimizer step `step`, from 0."""
        epoch, at = divmod(step, len(self))
        rng = np.random.default_rng([self.seed, 2, step])
        examples = []
        for kind, index in self._plan(epoch)[at]:
            example = self.pools[self.kinds[kind]][int(index)]
            if self.condition_dropout and example.kind in DROPPED and rng.random() < self.condition_dropout:
                example = example.without_prompt()
            examples.append(example)
        return examples

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


class DataLoader:
    """This process's share of each step's conversations, collated into micro-batches; while a step computes, the
    next one's images are opened in a thread. Closed when the run ends."""

    def __init__(
        self,
        mixture: Mixture,
        how: Optimization,
        rank_of: tuple[int, int],
        token_ids: tuple[int, int],
        pack_to: int | None = None,
    ) -> None:
        """rank_of: this process's rank, and how many there are. token_ids: of padding and of <imgbos>."""
        self.mixture, self.how, self.pack_to = mixture, how, pack_to
        self.rank, self.world = rank_of
        self.pad_id, self.image_start_id = token_ids
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._prefetched: dict[int, Future[list[Batch]]] = {}

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def micro_batches(self, step: int) -> list[Batch]:
        """Of a step, from 0; the next step's are begun. Raises UserError."""
        prefetched = self._prefetched.pop(step, None)
        micro = self._make(step) if prefetched is None else prefetched.result()
        if step + 1 < self.how.steps:
            self._prefetched = {step + 1: self._thread.submit(self._make, step + 1)}
        return micro

    def _make(self, step: int) -> list[Batch]:
        # Micro-batches of like length pad least; their sum is the step's gradient in any order.
        examples = sorted(self.mixture.batch(step), key=len)
        size = self.how.batch_size // self.how.accumulate
        try:
            return [
                collate(
                    examples[i * size + self.rank : (i + 1) * size : self.world],
                    self.pad_id,
                    self.image_start_id,
                    self.pack_to,
                )
                for i in range(self.how.accumulate)
            ]
        except ValueError as error:
            raise UserError(str(error)) from error
