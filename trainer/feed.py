"""What a process computes at each step: its share of the step's conversations, collated into micro-batches. While a
step computes, the next one's pictures are opened in a thread."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from trainer.batches import Batch, collate
from trainer.errors import DataError
from trainer.mixture import Mixture
from trainer.optim import Optimization


class Feed:
    """Micro-batches by step; closed when the run ends."""

    def __init__(
        self,
        mixture: Mixture,
        how: Optimization,
        place: tuple[int, int],
        ids: tuple[int, int],
        pack_to: int | None = None,
    ) -> None:
        """place: this process's rank, and how many there are. ids: of padding and of <imgbos>."""
        self.mixture, self.how, self.pack_to = mixture, how, pack_to
        self.rank, self.world = place
        self.pad_id, self.image_start_id = ids
        self._thread = ThreadPoolExecutor(1, "feed")
        self._ahead: dict[int, Future[list[Batch]]] = {}

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def micro_batches(self, step: int) -> list[Batch]:
        """Of a step, from 0; the next step's are begun. Raises DataError."""
        ahead = self._ahead.pop(step, None)
        micro = self._make(step) if ahead is None else ahead.result()
        if step + 1 < self.how.steps:
            self._ahead = {step + 1: self._thread.submit(self._make, step + 1)}
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
            raise DataError(str(error)) from error
