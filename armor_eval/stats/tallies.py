"""Items to per-cluster sums, one function a kind of score: the part of a composite that reads items.

Each returns `cluster -> its S sums` and names its columns in its docstring. An item without a score (None) counts
nowhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from armor_eval.runs.schema import Item


def scored_in_all(*runs: Mapping[str, Item]) -> list[list[Item]]:
    """Each run's items, without the score where another run has none: a circular group is then left out of all."""
    scored = set.intersection(*({i for i, it in run.items() if it.score is not None} for run in runs))
    return [
        [it if i in scored or it.score is None else it.model_copy(update={"score": None}) for i, it in run.items()]
        for run in runs
    ]


def tally_mean(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of scores, n)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for it in items:
        if it.score is not None:
            row = table[it.cluster]
            row[0] += it.score
            row[1] += 1
    return table


def tally_all_right(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (1 where every item of the cluster is right, 1): a circular group (left out with an unmeasured row)."""
    right: dict[str, bool | None] = {}
    for it in items:
        before = right.get(it.cluster, True)
        right[it.cluster] = None if it.score is None or before is None else before and bool(it.score)
    return {c: [float(r), 1.0] for c, r in right.items() if r is not None}


def tally_any_right(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (1 where any item of the cluster is right, 1): GenEval's % correct prompts."""
    table: dict[str, list[float]] = {}
    for it in items:
        if it.score is not None:
            table.setdefault(it.cluster, [0.0, 1.0])
            table[it.cluster][0] = max(table[it.cluster][0], float(bool(it.score)))
    return table


def tally_by_group(groups: tuple[str, ...], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (right, n) for each group in turn."""
    at = {g: 2 * i for i, g in enumerate(groups)}
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (2 * len(groups)))
    for it in items:
        if it.score is not None:
            if it.group not in at:
                raise ValueError(f"item {it.id}: group {it.group!r} is not one of {', '.join(groups)}")
            row, k = table[it.cluster], at[it.group]
            row[k] += it.score
            row[k + 1] += 1
    return table
