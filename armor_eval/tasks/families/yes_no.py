"""Yes or no: plain accuracy, POPE's F1 of "Yes", and HallusionBench's sets."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, accuracy, column_percent, ratio
from armor_eval.tasks.families.base import Clusters, Family, extra_of
from armor_eval.tasks.understanding import parse
from armor_eval.tasks.understanding.cells import records
from armor_eval.vlmevalkit import rules
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.tasks.understanding.table import Row


class YesNo(Family):
    """The answer is Yes or No: accuracy."""

    name = "yes-no"
    scorer = "ImageYORNDataset"
    stand_in = "YesNo"  # no name of its own: VLMEvalKit's default rating
    constant = "Yes"

    def composites(self) -> list[Composite]:
        return [accuracy()]

    def plain_answer(self, answer: str, options: set[str]) -> str:
        return answer.strip().capitalize() if answer.strip().capitalize() in ("Yes", "No") else answer

    def answer_problem(self, row: Row) -> str | None:
        answer = row.fields["answer"]
        return None if answer in ("Yes", "No") else f"has the answer {str(answer)[:40]!r}, expected Yes or No"

    def verdict_extras(self, row: Row, verdict: Verdict) -> JsonObject:
        return {"answer": str(row.fields["answer"]), "extracted": verdict.parsed}

    def second_readings(self, row: Row, text: str) -> dict[str, tuple[str | None, float]]:
        read = parse.read_yes_no(text)
        return {"our": (read, float(read == str(row.fields.get("answer"))))}

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        frame = frame.assign(prediction=[str(p) for p in frame["prediction"]])
        unread = [row for _, row in frame.iterrows() if rules.read_yes_no(row["prediction"]) == "Unknown"]
        return [Request(str(row["index"]), rules.yes_no_prompt(row), "yes-no") for row in unread]

    def read_reply(self, request: Request, reply: str) -> str | None:
        words = set(re.findall(r"[a-z]+", reply.lower())) & {"yes", "no", "unknown"}
        return words.pop().capitalize() if len(words) == 1 else None

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        verdicts = {}
        for record in records(frame):
            index = str(record["index"])
            read = rules.read_yes_no(str(record["prediction"]))
            if read == "Unknown" and judged is not None:
                read = judged.usable.get(index, read)
            verdicts[index] = _verdict(read, read == record["answer"])
        return verdicts

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        rows = records(work.result("auxmatch"))
        verdicts = {str(r["index"]): _verdict(r["extracted"], bool(r["score"])) for r in rows}
        return Evaluated(self.headline(returned), verdicts)

    def headline(self, returned: pd.DataFrame) -> float:
        """The headline in what `evaluate` returned."""
        return float(returned["Overall"].iloc[0])


def _verdict(read: str, right: bool) -> Verdict:
    return Verdict(read, float(right), unparsed=read not in ("Yes", "No"))


POPE_CATEGORIES = ("adversarial", "popular", "random")


class Pope(YesNo):
    """POPE: F1 of "Yes"; an item counts once for each of its categories (a comma list)."""

    name = "pope"
    stand_in = "POPE"

    def composites(self) -> list[Composite]:
        columns = ("tp", "fp", "fn", "right", "n")
        plain = Composite
        make = partial(plain, columns=columns, tally=tally_pope)
        each = partial(
            plain,
            columns=tuple(f"{c}:{part}" for c in POPE_CATEGORIES for part in columns),
            tally=partial(tally_pope_categories, POPE_CATEGORIES),
        )
        return [
            make("F1", formula=pope_f1, primary=True),
            make("accuracy", formula=partial(column_percent, 3, 4)),
            make("precision", formula=pope_precision),
            make("recall", formula=pope_recall),
            each("F1, mean of the categories", formula=pope_mean_f1),
            *(each(f"F1, {c}", formula=partial(pope_category_f1, place)) for place, c in enumerate(POPE_CATEGORIES)),
        ]

    def headline(self, returned: pd.DataFrame) -> float:
        return float(returned[returned["split"] == "Overall"].iloc[0]["Overall"])


def pope_f1(sums: np.ndarray) -> np.ndarray:
    """F1 of "Yes": 0 where precision + recall is 0, as in `POPE_rating`."""
    import numpy as np

    tp, fp, fn = sums[..., 0], sums[..., 1], sums[..., 2]
    f1 = 100.0 * ratio(2 * tp, 2 * tp + fp + fn, empty=0.0)
    return np.where(sums[..., 4] > 0, f1, math.nan)


def pope_category_f1(place: int, sums: np.ndarray) -> np.ndarray:
    return pope_f1(sums[..., 5 * place : 5 * place + 5])


def pope_mean_f1(sums: np.ndarray) -> np.ndarray:
    """Unweighted mean of the categories' F1, what most papers print; undefined where a category has no items."""
    import numpy as np

    mean: np.ndarray = np.mean([pope_category_f1(place, sums) for place in range(len(POPE_CATEGORIES))], axis=0)
    return mean


def pope_precision(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 0] + sums[..., 1], empty=0.0)


def pope_recall(sums: np.ndarray) -> np.ndarray:
    return 100.0 * ratio(sums[..., 0], sums[..., 0] + sums[..., 2], empty=0.0)


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
    gold, said = extra_of(item, "answer") == "Yes", extra_of(item, "extracted") == "Yes"
    row[at] += weight * (gold and said)
    row[at + 1] += weight * (said and not gold)
    row[at + 2] += weight * (gold and not said)
    row[at + 3] += weight * right
    row[at + 4] += weight


# --- HallusionBench: yes or no, in sets of figures and questions; the mean of aAcc, fAcc and qAcc --------------------


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
        plain = partial(Composite, columns=columns)
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
