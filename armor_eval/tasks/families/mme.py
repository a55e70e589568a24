"""MME: yes or no, two questions an image; points of accuracy and of images whose two answers are both right."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, ratio
from armor_eval.tasks.families.base import Clusters
from armor_eval.tasks.families.yes_no import YesNo
from armor_eval.tasks.understanding import parse
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.tasks.understanding.table import Row

MME_PERCEPTION = (
    "OCR",
    "artwork",
    "celebrity",
    "color",
    "count",
    "existence",
    "landmark",
    "position",
    "posters",
    "scene",
)
MME_REASONING = ("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation")


def _image_path(row: Row) -> str:
    return str(row.fields.get("image_path", row.id))


class Mme(YesNo):
    """Sum over 14 categories of 100 (acc + acc+)."""

    name = "mme"
    columns = (*YesNo.columns, "image_path")
    clusters = (Clusters("image_path", "picture with its pair of questions", _image_path),)
    stand_in = "MME"
    scored_whole = "cluster"  # an image that lacks a question ends VLMEvalKit's program
    second_lines = (*YesNo.second_lines, ("mme", "MME's own rule"))
    second_of_all = frozenset({"mme"})  # perception and cognition were published by it, each for itself

    def composites(self) -> list[Composite]:
        total = _points("perception + reasoning", MME_PERCEPTION + MME_REASONING, 2800.0, primary=True)
        return [total, _perception(primary=False), _points("reasoning", MME_REASONING, 800.0)]

    def problem(self, row: Row) -> str | None:
        if (category := row.fields.get("category")) in MME_PERCEPTION + MME_REASONING:
            return None
        return f"has the category {category!r}, not one of MME's 14 (the total would leave it out)"

    def problems(self, rows: Sequence[Row]) -> dict[str, str]:
        """Rows of an image that is not asked about twice: acc+ is over pairs."""
        pairs = {row.id: (row.fields.get("category"), row.fields.get("image_path")) for row in rows}
        times = Counter(pairs.values())
        return {
            row: f"is one of {times[pair]} questions of its image, and MME asks two"
            for row, pair in pairs.items()
            if times[pair] != 2
        }

    def formula_extras(self, row: Row) -> JsonObject:
        return {"pair": _image_path(row)}

    def second_readings(self, row: Row, text: str) -> dict[str, tuple[str | None, float]]:
        read = parse.read_first_four(text)
        own = {"mme": (read, float(read == str(row.fields.get("answer"))))}
        return {**super().second_readings(row, text), **own}

    def headline(self, returned: pd.DataFrame) -> float:
        return float(returned.iloc[0]["perception"]) + float(returned.iloc[0]["reasoning"])


class MmePerception(Mme):
    """Its ten categories of perception alone."""

    name = "mme-perception"

    def composites(self) -> list[Composite]:
        return [_perception(primary=True)]

    def headline(self, returned: pd.DataFrame) -> float:
        return float(returned.iloc[0]["perception"])


def _perception(primary: bool) -> Composite:
    return _points("perception", MME_PERCEPTION, 2000.0, primary)


def _points(name: str, categories: tuple[str, ...], most: float, primary: bool = False) -> Composite:
    columns = tuple(f"{c}:{part}" for c in categories for part in ("right", "n", "pairs_right", "pairs"))
    return Composite(
        *(name, columns, partial(tally_mme, categories), mme_points, "points"),
        bounds=(0.0, most),
        primary=primary,
        keep=lambda it: it.group not in MME_PERCEPTION + MME_REASONING or it.group in categories,
    )


def mme_points(sums: np.ndarray) -> np.ndarray:
    """Sum over categories of 100 * (acc + acc+); a category without items adds nothing, as in `MME_rating`."""
    import numpy as np

    acc = ratio(sums[..., 0::4], sums[..., 1::4], empty=0.0)
    plus = ratio(sums[..., 2::4], sums[..., 3::4], empty=0.0)
    points = 100.0 * (acc + plus).sum(axis=-1)
    return np.where(sums[..., 1::4].sum(axis=-1) > 0, points, math.nan)


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
