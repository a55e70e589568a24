"""`--limit N`: fewer items without breaking what belongs together (rotations, pairs, sets), seeded, and stamped."""

from __future__ import annotations

import random
from collections import defaultdict

from armor_eval.runs.schema import Subset
from armor_eval.tasks.understanding.table import Row, Table


def limit_table(table: Table, limit: int | None, seed: int) -> tuple[Table, Subset | None]:
    """The table cut to `limit` clusters, spread evenly over the categories; None where nothing is cut off."""
    by_cluster: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        by_cluster[row.cluster].append(row)
    if limit is None or limit >= len(by_cluster):
        return table, None
    benchmark = table.benchmark
    order = _spread(table, by_cluster, seed)
    order = benchmark.scoring.order(by_cluster, order, limit)
    chosen = set(order[:limit])
    cut = table.select({row.id for row in table.rows if row.cluster in chosen})
    rule = f"{benchmark.name} {benchmark.clusters.unit}"
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
