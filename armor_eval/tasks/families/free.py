"""Free text that only a judge can read: graded from 0 to 1 (MM-Vet), or marked beside a reference (LLaVA-Bench)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, accuracy, column_percent, ratio
from armor_eval.tasks.families.base import Family, extra_of
from armor_eval.tasks.understanding.cells import records
from armor_eval.vlmevalkit import rules
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.errors import UserError
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    import pandas as pd

    from armor_eval.runs.schema import Item
    from armor_eval.tasks.understanding.table import Row

MMVET_CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
LLAVABENCH_KINDS = ("conv", "detail", "complex")
"""The kinds of question that LLaVA-Bench's judge has a prompt for."""
LLAVA_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
"""LLaVA-Bench's published system prompt for its judge."""
_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?(?![\d.]*\d)")


def _in_capability(name: str, item: Item) -> bool:
    return name in (item.group or "")  # a substring test, as in `MMVet_acc`


class Graded(Family):
    """MM-Vet: a judge's grade of each answer, and the mean by each of six capabilities (a comma list)."""

    name = "graded"
    scorer = stand_in = "MMVet"
    constant = "there is a red circle"
    always_judged = True
    longest_reply = 16
    scored_whole = "file"  # it divides by the number of rows of each capability

    def composites(self) -> list[Composite]:
        # A capability's mean counts each item once, as MM-Vet defines it. VLMEvalKit 0.0.20 counts an item of that one
        # capability alone twice (`MMVet_acc` keeps two tables in one dictionary); the overall score is unaffected.
        parts = [accuracy(c, primary=False, keep=partial(_in_capability, c)) for c in MMVET_CAPABILITIES]
        return [accuracy("score"), *parts]

    def check(self, rows: Sequence[Row]) -> None:
        if lacking := set(MMVET_CAPABILITIES) - _capabilities(rows):
            named = ", ".join(c for c in MMVET_CAPABILITIES if c in lacking)
            raise UserError(f"no row is of {named}: MM-Vet's score divides by the number of each capability's rows")

    def order(self, by_cluster: Mapping[str, list[Row]], order: list[str], limit: int) -> list[str]:
        """The first clusters hold all six capabilities."""
        lacking, first = set(MMVET_CAPABILITIES), []
        while lacking:
            best = max(order, key=lambda cluster: len(_capabilities(by_cluster[cluster]) & lacking))
            if not _capabilities(by_cluster[best]) & lacking:
                break
            first.append(best)
            lacking -= _capabilities(by_cluster[best])
        if len(first) > limit:
            raise UserError(
                f"--limit {limit} cannot hold MMVet's six capabilities", f"use at least --limit {len(first)}"
            )
        return first + [cluster for cluster in order if cluster not in first]

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        return [Request(str(row["index"]), rules.grading_prompt(row), self.name) for _, row in frame.iterrows()]

    def read_reply(self, request: Request, reply: str) -> str | None:
        """`0.5`, `Correctness: 0.5`, `0.5 (half of it)`: one number between 0 and 1, and no other."""
        found = {float(n) for n in _NUMBER.findall(reply)}
        return str(found.pop()) if len(found) == 1 and 0 <= min(found) <= 1 else None

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        marks = {str(i): float(not_none(judged).usable[str(i)]) for i in frame["index"]}
        return {i: Verdict(mark, mark, extras={"judge_reply": not_none(judged).raw[i]}) for i, mark in marks.items()}

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        marks = {str(r["index"]): float(r["score"]) for r in records(work.result("judge"))}
        headline = float(returned.loc[returned["Category"] == "Overall", "acc"].iloc[0])
        return Evaluated(headline, {i: Verdict(mark, mark) for i, mark in marks.items()})


def _capabilities(rows: Sequence[Row]) -> set[str]:
    text = ",".join(str(row.fields.get("category")) for row in rows)
    return {capability for capability in MMVET_CAPABILITIES if capability in text}


class Ratio(Family):
    """LLaVA-Bench: a judge marks the answer and a reference from 1 to 10; the points of one in % of the other's."""

    name = "ratio"
    columns = (*Family.columns, "category", "caption", "gpt4_ans")
    scorer = stand_in = "LLaVABench"
    constant = "there is a red circle"
    always_judged = True
    longest_reply = 1024
    rounded_to = 0.05  # 84.75 may become 84.7 there and 84.8 here

    def composites(self) -> list[Composite]:
        columns = ("model", "reference", "n")
        make = partial(Composite, columns=columns, tally=tally_llavabench)
        return [
            # Above 100 the judge prefers the model to the reference: the ratio has no upper end.
            make("relative score", bounds=(0.0, float("inf")), formula=partial(column_percent, 0, 1), primary=True),
            make("model's own mark", formula=lambda s: 10.0 * ratio(s[..., 0], s[..., 2])),
            make("reference's mark", formula=lambda s: 10.0 * ratio(s[..., 1], s[..., 2])),
        ]

    def problem(self, row: Row) -> str | None:
        if (kind := row.fields["category"]) in LLAVABENCH_KINDS:
            return None
        return f"has the category {kind!r}, expected {', '.join(LLAVABENCH_KINDS)}"

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        return [
            Request(str(row["index"]), rules.marking_prompt(row), self.name, system=LLAVA_SYSTEM)
            for _, row in frame.iterrows()
        ]

    def read_reply(self, request: Request, reply: str) -> str | None:
        first = next((line for line in reply.splitlines() if line.strip()), "")
        found = [float(n) for n in _NUMBER.findall(first)]
        return f"{found[0]} {found[1]}" if len(found) == 2 and all(1 <= n <= 10 for n in found) else None

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        marks = {str(i): map(float, not_none(judged).usable[str(i)].split()) for i in frame["index"]}
        return {i: _marked(*both) for i, both in marks.items()}

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        rows = records(work.result("openai_result"))
        verdicts = {str(r["index"]): _marked(float(r["score"]), float(r["gpt4_score"])) for r in rows}
        return Evaluated(float(returned.loc[returned["split"] == "overall", "Relative Score (main)"].iloc[0]), verdicts)


def _marked(mine: float, reference: float) -> Verdict:
    return Verdict(mine, mine, extras={"reference_score": reference})


def tally_llavabench(items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of the model's marks, sum of the reference's marks, n)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * 3)
    for it in items:
        if it.score is not None:
            row = table[it.cluster]
            row[0] += it.score
            row[1] += float(extra_of(it, "reference_score"))
            row[2] += 1
    return table
