"""`--limit N`: fewer items without breaking what belongs together (rotations, pairs, sets), seeded, and stamped."""

from __future__ import annotations

import random
from collections import defaultdict

from armor_eval.runs.schema import Subset
from armor_eval.tasks.understanding.table import Row, Table
from armor_model.base.errors import UserError

UNITS = {
    "circular-group": "group of rotations",
    "image_path": "picture with its pair of questions",
    "image": "picture with its questions",
    "hallusion-set": "set of figures and questions",
    "item": "question",
}
"""What one unit of the limit is, by cluster rule."""


def limit_table(table: Table, limit: int | None, seed: int) -> tuple[Table, Subset | None]:
    """The table cut to `limit` clusters, spread evenly over the categories; None where nothing is cut off."""
    by_cluster: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_cluster[row.cluster].append(row)
    if limit is None or limit >= len(by_cluster):
        return table, None
    order = _spread(table, by_cluster, seed)
    if table.benchmark.dataset == "MMVet":
        order = _covering_first(by_cluster, order, limit)
    chosen = set(order[:limit])
    cut = table.select({row.id for row in table.rows if row.cluster in chosen})
    rule = f"{table.benchmark.name} {UNITS[table.benchmark.cluster]}"
    return cut, Subset(rule=rule, limit=limit, seed=seed, items=len(cut.rows), of_items=len(table.rows))


def _spread(table: Table, by_cluster: dict[str, list[Row]], seed: int) -> list[str]:
    """All clusters in an order whose every beginning takes from each category in turn."""
    generator = random.Random(seed)
    by_group: dict[str, list[str]] = defaultdict(list)
    for cluster in sorted(by_cluster):
        by_group[str(by_cluster[cluster][0].fields.get(table.benchmark.group))].append(cluster)
    queues = [by_group[group] for group in sorted(by_group)]
    for queue in queues:
        generator.shuffle(queue)
    generator.shuffle(queues)
    order = []
    while queues:
        order += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return order


def _covering_first(by_cluster: dict[str, list[Row]], order: list[str], limit: int) -> list[str]:
    """MM-Vet divides by the number of items of each capability: the first clusters must hold all six."""
    from armor_eval.stats.composite import MMVET_CAPABILITIES

    def held(cluster: str) -> set[str]:
        text = ",".join(str(row.fields.get("category")) for row in by_cluster[cluster])
        return {capability for capability in MMVET_CAPABILITIES if capability in text}

    lacking, first = set(MMVET_CAPABILITIES), []
    while lacking:
        best = max(order, key=lambda cluster: len(held(cluster) & lacking))
        if not held(best) & lacking:
            break
        first.append(best)
        lacking -= held(best)
    if len(first) > limit:
        raise UserError(f"--limit {limit} cannot hold MMVet's six capabilities", f"use at least --limit {len(first)}")
    return first + [cluster for cluster in order if cluster not in first]
