"""Several armor-nanos side by side, and what their drawing owes to an understanding base; tables from training.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

GROUPS = ("questions", "modality", "modality_last_turn", "modality_new_wordings", "drawings")


def seeds_text(records: Sequence[dict[str, Any]]) -> str:
    """Several trainings side by side, each cell with its 95 % Wilson interval; a pure function of their training.json.

    The one to bundle is the median by the mean of understanding, modality choice and held-out drawing, not the best.
    Random-backbone twins are compared with the trainings of their seeds in a table of their own.
    """
    twins = [r for r in records if r["recipe"]["random_backbone"]]
    records = [r for r in records if not r["recipe"]["random_backbone"]]
    lines = _side_by_side(records) if records else _side_by_side(twins)
    if len(records) > 2:
        middle = sorted(records, key=overall)[(len(records) - 1) // 2]
        means = ", ".join(f"{overall(r):.3f}" for r in records)
        lines += [
            f"Mean of understanding, modality and drawing: {means}; the median is seed {middle['recipe']['seed']}.",
            "",
        ]
    return "\n".join(lines + (_twins(records, twins) if records and twins else []))


def _side_by_side(records: Sequence[dict[str, Any]]) -> list[str]:
    names = [
        f"seed {r['recipe']['seed']}{', random backbone' if r['recipe']['random_backbone'] else ''}" for r in records
    ]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(records)]
    lines.append("| CPU-seconds | " + " | ".join(f"{r['cpu_seconds']:.0f}" for r in records) + " |")
    for group in GROUPS:
        means = (f"{r['scores']['mean'][group]:.3f}" for r in records)
        lines.append(f"| **{group.replace('_', ' ')}**, mean | " + " | ".join(means) + " |")
        for task in sorted(records[0]["scores"][group]):
            cells = []
            for record in records:
                rate = record["scores"][group][task]
                cells.append(f"{rate['value']:.2f} [{rate['ci95'][0]:.2f}, {rate['ci95'][1]:.2f}]")
            lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _twins(records: Sequence[dict[str, Any]], twins: Sequence[dict[str, Any]]) -> list[str]:
    """What drawing owes to understanding: the same stages on a base that learned and on one that did not. Differences
    are paired by seed; the interval is Student's over seeds."""
    from scipy import stats

    untrained = {r["recipe"]["seed"]: r for r in twins}
    pairs = [(r, untrained[r["recipe"]["seed"]]) for r in records if r["recipe"]["seed"] in untrained]
    if not pairs:
        return []
    seeds = ", ".join(str(r["recipe"]["seed"]) for r, _ in pairs)
    lines = [
        f"| mean over seeds {seeds} | trained base | random backbone | difference, 95 % over seeds |",
        "|---|---|---|---|",
    ]

    def row(name: str, score: Callable[[dict[str, Any]], float]) -> str:
        ours, theirs = ([score(r["scores"]) for r in side] for side in zip(*pairs, strict=True))
        differences = np.subtract(ours, theirs)
        said = f"{differences.mean():+.2f}"
        if len(pairs) > 1:
            half = stats.t.ppf(0.975, len(pairs) - 1) * differences.std(ddof=1) / len(pairs) ** 0.5
            said += f" [{differences.mean() - half:+.2f}, {differences.mean() + half:+.2f}]"
        return f"| {name} | {np.mean(ours):.2f} | {np.mean(theirs):.2f} | {said} |"

    for group in GROUPS:
        lines.append(row(f"**{group.replace('_', ' ')}**, mean", lambda s, g=group: s["mean"][g]))
    for task in sorted(pairs[0][0]["scores"]["drawings"]):
        lines.append(row(task, lambda s, t=task: s["drawings"][t]["value"]))
    return [*lines, ""]


def overall(record: dict[str, Any]) -> float:
    """What seeds are ordered by."""
    mean = record["scores"]["mean"]
    return float(np.mean([mean["questions"], mean["modality"], mean["drawings"]]))
