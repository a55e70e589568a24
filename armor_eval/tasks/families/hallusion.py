"""HallusionBench: yes or no, in sets of figures and questions; the mean of aAcc, fAcc and qAcc."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.stats.composite import PERCENT, Composite, column_percent, ratio
from armor_eval.tasks.families.base import Clusters, extra_of
from armor_eval.tasks.families.yes_no import YesNo
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.tasks.understanding.table import Row

_INDEX = re.compile(r"[\w-]+")


def _set(row: Row) -> str:
    pieces = row.id.split("_")
    return f"{row.fields.get('l2-category')}_{pieces[3]}" if len(pieces) == 6 else row.id


class Hallusion(YesNo):
    """An index is category_subcategory_visual_set_figure_question."""

    name = "hallusion"
    columns = (*YesNo.columns, "category", "l2-category")
    clusters = (Clusters("hallusion-set", "set of figures and questions", _set),)
    stand_in = "HallusionBench"
    index_matters = True

    def composites(self) -> list[Composite]:
        columns = ("right", "n", "figures_right", "figures", "questions_right", "questions")
        plain = partial(Composite, unit="%", direction="higher", bounds=PERCENT, columns=columns)
        make, own = partial(plain, tally=tally_hallusion), partial(plain, tally=partial(tally_hallusion, own=True))
        return [
            make("mean of aAcc, fAcc, qAcc", formula=hallusion_mean, primary=True),
            make("aAcc", formula=partial(column_percent, 0, 1)),
            make("fAcc", formula=partial(column_percent, 2, 3)),
            make("qAcc", formula=partial(column_percent, 4, 5)),
            own("mean of aAcc, fAcc, qAcc, own grouping", formula=hallusion_mean),
            own("fAcc, own grouping", formula=partial(column_percent, 2, 3)),
            own("qAcc, own grouping", formula=partial(column_percent, 4, 5)),
        ]

    def problem(self, row: Row) -> str | None:
        if _INDEX.fullmatch(row.id) and len(row.id.split("_")) == 6:
            return None
        return "has an index that is not category_subcategory_visual_set_figure_question"

    def formula_extras(self, row: Row) -> JsonObject:
        pieces = row.id.split("_")
        return {"figure": pieces[4], "question": pieces[5]} if len(pieces) == 6 else {"figure": "?", "question": "?"}

    def headline(self, returned: pd.DataFrame) -> float:
        overall = returned[returned["split"] == "Overall"].iloc[0]
        return float(overall["aAcc"] + overall["fAcc"] + overall["qAcc"]) / 3


def hallusion_mean(sums: np.ndarray) -> np.ndarray:
    a_acc, f_acc, q_acc = (ratio(sums[..., at], sums[..., at + 1]) for at in (0, 2, 4))
    mean: np.ndarray = 100.0 * (a_acc + f_acc + q_acc) / 3
    return mean


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
            at = (it.cluster, column, f"{category}_{extra_of(it, key)}")
            before = whole.get(at, True)
            whole[at] = None if it.score is None or before is None else before and bool(it.score)
    for (cluster, column, _), right in whole.items():
        if right is not None:
            table[cluster][column] += right
            table[cluster][column + 1] += 1
    return table
