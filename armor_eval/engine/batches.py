"""Which units are asked together, in which order and by which process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence

from armor_eval.engine.task import Unit


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
