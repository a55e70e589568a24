"""Which units are asked together, in which order and by which process; and how many at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from armor_eval.engine.task import Unit
from armor_eval.models.base import Decoding, KnowsItsRoom, Model
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject


def in_asking_order(units: Sequence[Unit]) -> list[Unit]:
    """Units of one image together, so that a batch decodes and encodes it once; longest first, so that padding is small
    and a batch too large for memory shows at once. Units without a length keep their order."""
    by_shared: dict[object, list[Unit]] = defaultdict(list)
    for unit in units:
        by_shared[("unit", unit.id) if unit.shared is None else unit.shared].append(unit)
    if not any(unit.length for unit in units):
        return [unit for together in by_shared.values() for unit in together]
    sorted_groups = [sorted(together, key=lambda u: (-u.length, u.id)) for together in by_shared.values()]
    sorted_groups.sort(key=lambda together: (-together[0].length, together[0].id))
    return [unit for together in sorted_groups for unit in together]


def batches_of(
    units: Sequence[Unit],
    done: Container[str],
    size: int,
    rank: int,
    world: int,
    *,
    shard: tuple[int, int] = (0, 1),
    whole: bool,
    cut: Callable[[Sequence[Unit]], Iterable[list[Unit]]] | None = None,
) -> list[list[Unit]]:
    """This process's batches of what is not done. A unit's process hangs on the whole list alone: no two ask the same,
    and a run, or a shard of one, begun by three processes is finished by one or eight.

    `shard`: (index from 0, of how many); what a shard holds does not hang on its processes. `whole`: a batch with
    anything undone is kept as it is; else what is undone is batched anew, by `cut` where it is given.
    """
    ordered = in_asking_order(units)
    mine = [ordered[i : i + size] for i in range(0, len(ordered), size)][shard[0] :: shard[1]][rank::world]
    if whole:
        return [batch for batch in mine if any(unit.id not in done for unit in batch)]
    open_units = [unit for batch in mine for unit in batch if unit.id not in done]
    if cut is not None:
        return list(cut(open_units))
    return [open_units[i : i + size] for i in range(0, len(open_units), size)]


# --- how many are asked at once: so many rows, or (`--batch-size auto`) what a model's memory holds ------------------


AUTO: Final = "auto"
BatchSize = int | Literal["auto"]
SPLIT = 16
"""Units that go to one process or shard together where the size is the memory's: what each is asked must hang on the
data alone, not on a machine."""
CHARACTERS = 4
"""Of a unit's length, to a token."""
ANSWER = 512
"""Tokens of room for an answer: most are shorter, and caches grow where one is not. Twice that where rows refill."""


@dataclass
class Size:
    """The most that is asked at once; lowered where memory runs out, which the run remembers."""

    rows: int
    tokens: int | None = None
    """Of prompts and answers together, all rows padded to the longest; None: `rows` alone counts."""
    answer: int = 0
    lowered: bool = False

    def rows_for(self, units: Sequence[Unit]) -> int:
        """Rows for these and shorter ones: by tokens a power of two, so that it seldom changes."""
        if self.tokens is None:
            return self.rows
        held = max(1, self.tokens // self._tokens(units))
        return min(self.rows, 1 << (held.bit_length() - 1))

    def batches(self, units: Sequence[Unit]) -> Iterator[list[Unit]]:
        """Cut, in order."""
        batch: list[Unit] = []
        for unit in units:
            if batch and len(batch) >= self.rows_for([*batch, unit]):
                yield batch
                batch = []
            batch.append(unit)
        if batch:
            yield batch

    def halve(self, rows: int, units: Sequence[Unit]) -> None:
        """So many rows of these were too many."""
        self.lowered = True
        if self.tokens is None:
            self.rows = rows // 2
        else:
            self.tokens = rows // 2 * self._tokens(units)

    def remembered(self) -> JsonObject:
        return {"rows": self.rows} if self.tokens is None else {"tokens": self.tokens}

    def remember(self, earlier: JsonObject) -> None:
        """What an earlier part of this run ran out of memory with is not tried again."""
        self.rows = min(self.rows, earlier.get("rows", self.rows))
        if self.tokens is not None:
            self.tokens = min(self.tokens, earlier.get("tokens", self.tokens))

    def _tokens(self, units: Sequence[Unit]) -> int:
        return max(unit.length for unit in units) // CHARACTERS + self.answer


def size_of(model: Model, batch_size: BatchSize, decoding: Decoding) -> Size:
    """The size that was asked for. The model is loaded where its memory decides."""
    if batch_size != AUTO:
        return Size(batch_size)
    assert isinstance(model, KnowsItsRoom)
    room = model.room()
    return Size(room.rows, room.tokens, 2 * min(ANSWER, decoding.max_new_tokens))


def check_auto(model: Model, units: Sequence[Unit], whole: bool) -> None:
    """UserError where a size cannot be chosen by memory."""
    if whole:
        raise UserError("--batch-size auto: images are judged batch by batch, and numbers hang on it", "give a number")
    if not isinstance(model, KnowsItsRoom):
        raise UserError(f"--batch-size auto: {model.info.name} is not in this process's memory", "give a number")
    if not any(unit.length for unit in units):
        raise UserError("--batch-size auto: nothing says how long these requests are", "give a number")
