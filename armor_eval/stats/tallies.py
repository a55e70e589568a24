"""Items to per-cluster sums, one function a kind of score: the part of a composite that reads items.

Each returns `cluster -> its S sums` and names its columns in its docstring. An item without a score (None) counts
nowhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from armor_eval.runs.schema import Item


def _extra(item: Item, key: str) -> Any:
    try:
        return item.extras[key]
    except KeyError:
        raise ValueError(f"item {item.id}: extras has no {key!r}, which its benchmark's score needs") from None


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


def tally_mme(categories: tuple[str, ...], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (right, n, pairs right, pairs) for each category in turn."""
    at = {c: 4 * i for i, c in enumerate(categories)}
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (4 * len(categories)))
    pairs: dict[tuple[str, str, str], list[float | None]] = defaultdict(list)
    for it in items:
        if it.group not in at:
            if it.score is None:
                continue
            raise ValueError(f"item {it.id}: group {it.group!r} is not one of MME's categories {', '.join(categories)}")
        pairs[it.cluster, it.group, str(it.extras.get("pair", it.cluster))].append(it.score)
        if it.score is not None:
            row, k = table[it.cluster], at[it.group]
            row[k] += it.score
            row[k + 1] += 1
    for (cluster, category, _), scores in pairs.items():
        # An image asked once (its other question lost) has no pair; the official rule multiplies the first two.
        if len(scores) >= 2 and scores[0] is not None and scores[1] is not None:
            row, k = table[cluster], at[category]
            row[k + 2] += scores[0] * scores[1]
            row[k + 3] += 1
    return table


def tally_hallusion(items: Sequence[Item], own: bool = False) -> dict[str, list[float]]:
    """Columns (right, n, figures right, figures, questions right, questions).

    `own`: by the benchmark's own grouping, which keeps VD's and VS's sets apart (VLMEvalKit's key has no category and
    merges their `ocr`: 332 figures and 429 questions of 346 and 455). The category is the first piece of an item's id.
    """
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 6)
    whole: dict[tuple[str, int, str], bool | None] = {}
    for it in items:
        if it.score is not None:
            row = table[it.cluster]
            row[0] += it.score
            row[1] += 1
        for column, key in ((2, "figure"), (4, "question")):
            category = it.id.split("_")[0] if own else ""
            at = (it.cluster, column, f"{category}_{_extra(it, key)}")
            before = whole.get(at, True)
            whole[at] = None if it.score is None or before is None else before and bool(it.score)
    for (cluster, column, _), right in whole.items():
        if right is not None:
            table[cluster][column] += right
            table[cluster][column + 1] += 1
    return table


def tally_pope(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (tp, fp, fn, right, n), an item counted once for every category it belongs to, as officially."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 5)
    for it in items:
        if it.score is not None:
            _add_yes_no(table[it.cluster], 0, it, it.score, len((it.group or "").split(",")))
    return table


def tally_pope_categories(categories: tuple[str, ...], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (tp, fp, fn, right, n) for each category in turn."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (5 * len(categories)))
    for it in items:
        if it.score is not None:
            own = (it.group or "").split(",")
            for place, category in enumerate(categories):
                if category in own:
                    _add_yes_no(table[it.cluster], 5 * place, it, it.score, 1)
    return table


def _add_yes_no(row: list[float], at: int, item: Item, right: float, weight: int) -> None:
    gold, said = _extra(item, "answer") == "Yes", _extra(item, "extracted") == "Yes"
    row[at] += weight * (gold and said)
    row[at + 1] += weight * (said and not gold)
    row[at + 2] += weight * (gold and not said)
    row[at + 3] += weight * right
    row[at + 4] += weight


def tally_llavabench(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of the model's marks, sum of the reference's marks, n)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 3)
    for it in items:
        if it.score is not None:
            row = table[it.cluster]
            row[0] += it.score
            row[1] += float(_extra(it, "reference_score"))
            row[2] += 1
    return table
