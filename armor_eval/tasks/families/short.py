"""Short answers read by a rule: ChartQA's relaxed correctness (5 % on numbers), OCRBench's text that is contained."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, accuracy
from armor_eval.tasks.families.base import Family
from armor_eval.tasks.understanding.cells import records
from armor_eval.vlmevalkit import rules
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import literal_of

if TYPE_CHECKING:
    import pandas as pd

    from armor_eval.tasks.understanding.table import Row

PLAIN = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Load, ast.UnaryOp, ast.USub, ast.UAdd, ast.Name)
"""What an answer may be as Python source, which VLMEvalKit runs it as: nothing that could do anything."""
OCR_GROUPS = {
    "Text Recognition": (
        "Regular Text Recognition",
        "Irregular Text Recognition",
        "Artistic Text Recognition",
        "Handwriting Recognition",
        "Digit String Recognition",
        "Non-Semantic Text Recognition",
    ),
    "Scene Text-centric VQA": ("Scene Text-centric VQA",),
    "Doc-oriented VQA": ("Doc-oriented VQA",),
    "Key Information Extraction": ("Key Information Extraction",),
    "Handwritten Mathematical Expression Recognition": ("Handwritten Mathematical Expression Recognition",),
}
"""OCRBench's five numbers and the categories that each is made of."""


class Ruled(Family):
    """A rule reads every answer: nothing is left to a judge."""

    optional = frozenset({"image"})
    constant = "Yes"
    second_lines = ()

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        return []


class Relaxed(Ruled):
    """ChartQA: a number within 5 % of the gold one, other answers exactly; case aside."""

    name = "relaxed"
    columns = ("index", "image", "question", "answer")
    scorer, stand_in = "ImageVQADataset", "ChartQA_TEST"

    def composites(self) -> list[Composite]:
        return [accuracy("relaxed accuracy")]

    def answer_problem(self, row: Row) -> str | None:
        answer = str(row.fields["answer"])
        return None if is_plain(answer) else f"has an answer that VLMEvalKit would run as Python: {answer[:40]!r}"

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        return {str(r["index"]): _verdict(rules.relaxed(r), r["prediction"]) for r in records(frame)}

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        rows = records(work.result("results"))
        matches = {str(r["index"]): ast.literal_eval(str(r["eval_match"])) for r in rows}
        verdicts = {str(r["index"]): _verdict(any(map(bool, matches[str(r["index"])])), r["prediction"]) for r in rows}
        return Evaluated(float(returned["Overall"].iloc[0]), verdicts)


class Contained(Ruled):
    """OCRBench: right where one of the gold texts stands in the answer; a point a question, the score their number."""

    name = "contained"
    columns = ("index", "image", "question", "answer", "category")
    scorer = stand_in = "OCRBench"

    def composites(self) -> list[Composite]:
        def within(name: str) -> Composite:
            return accuracy(name, primary=False, keep=lambda item: item.group in OCR_GROUPS[name])

        return [accuracy("final score, in % of the questions"), *map(within, OCR_GROUPS)]

    def problem(self, row: Row) -> str | None:
        known = [name for group in OCR_GROUPS.values() for name in group]
        category = row.fields["category"]
        return None if category in known else f"has the category {str(category)[:40]!r}, expected {', '.join(known)}"

    def answer_problem(self, row: Row) -> str | None:
        answer = str(row.fields["answer"])
        try:
            golds = literal_of(answer)
        except ValueError:
            golds = None
        if isinstance(golds, list) and golds and all(isinstance(gold, str) for gold in golds):
            return None
        return f"has the answer {answer[:40]!r}, expected a list of texts"

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        return {str(r["index"]): _verdict(contained(r), r["prediction"]) for r in records(frame)}

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        """`evaluate` gives points by group alone: the rows are ours, and must add up to them."""
        frame = work.load(work.file)
        verdicts = self.rows(frame, judged)
        differing = []
        for group, categories in OCR_GROUPS.items():
            inside = [str(i) for i, c in zip(frame["index"], frame["category"], strict=True) if c in categories]
            if sum(verdicts[i].score or 0 for i in inside) != returned[group].iloc[0]:
                differing += inside
        return Evaluated(100.0 * float(returned["Final Score"].iloc[0]) / len(frame), verdicts, differing)


def _verdict(right: bool, prediction: object) -> Verdict:
    return Verdict(str(prediction).strip(), float(right))


def is_plain(source: str) -> bool:
    """Whether running a text as a Python expression would do nothing but build a value, or fail."""
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True
    return all(isinstance(node, PLAIN) for node in ast.walk(tree))


def contained(record: JsonObject) -> bool:
    """OCRBench's rule, as its `evaluate` has it: what is stripped for one gold text stays so for the next."""
    said = str(record["prediction"])
    formula = record["category"] == "Handwritten Mathematical Expression Recognition"
    for gold in ast.literal_eval(str(record["answer"])):
        wanted = gold.strip().replace("\n", " ")
        said = said.strip().replace("\n", " ")
        if formula:
            wanted, said = wanted.replace(" ", ""), said.replace(" ", "")
        else:
            wanted, said = gold.lower().strip().replace("\n", " "), said.lower()
        if wanted in said:
            return True
    return False
