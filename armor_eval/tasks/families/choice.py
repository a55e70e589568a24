"""Multiple choice: plain (SEED-Bench), circular (MMBench), and MMMU's, which has open questions too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from armor_eval.stats.composite import Composite, accuracy, percent, tally_all_right
from armor_eval.tasks.families.base import BY_IMAGE, BY_ITEM, Clusters, Family
from armor_eval.tasks.understanding import parse
from armor_eval.tasks.understanding.cells import OPTIONS, records, whole_number
from armor_eval.vlmevalkit import rules
from armor_eval.vlmevalkit.records import Evaluated, Judged, Request, Verdict, Work
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import pandas as pd

    from armor_eval.tasks.understanding.table import Row

CIRCLE = 1_000_000
"""MMBench: rotation k of question i has the index i + k * 10^6."""


class Choice(Family):
    """One letter is right: accuracy."""

    name = "choice"
    columns: tuple[str, ...] = ("index", "image", "question", "answer", "A", "B")
    optional = Family.optional | {"category"}
    scorer = "ImageMCQDataset"
    stand_in = "SEEDBench_IMG"
    constant = "A"
    split: str | None = None
    """The split of a file with several that the headline is of."""

    def composites(self) -> list[Composite]:
        return [accuracy()]

    def plain_answer(self, answer: str, options: set[str]) -> str:
        return answer.strip().upper() if answer.strip().upper() in options else answer

    def answer_problem(self, row: Row) -> str | None:
        answer, options = row.fields["answer"], row.options
        if answer in options:
            return None
        return f"has the answer {str(answer)[:40]!r}, which is not one of its options {', '.join(options)}"

    def second_readings(self, row: Row, text: str) -> dict[str, tuple[str | None, float]]:
        if not row.options:
            return {}
        read = parse.read_option(text, row.options)
        return {"our": (read, float(read == str(row.fields.get("answer"))))}

    def options_of(self, record: JsonObject) -> tuple[JsonObject, str]:
        """A row's options and the right letter."""
        return {c: record[c] for c in OPTIONS if c in record and record[c] == record[c]}, str(record.get("answer"))

    def group_of(self, record: JsonObject) -> str:
        """Rows of a group are right or wrong together."""
        return str(record["index"])

    def judge_prompt(self, record: JsonObject, options: JsonObject) -> str:
        """Which option an answer means, in VLMEvalKit's words."""
        return rules.choice_prompt(record, options)

    def requests(self, frame: pd.DataFrame) -> list[Request]:
        """The rows that the rule cannot read; of a group only while none of its rows is read as wrong."""
        groups: dict[str, list[tuple[Request | None, bool]]] = defaultdict(list)
        for record in records(frame):
            options, gold = self.options_of(record)
            read = rules.matched_option(record["prediction"], options)
            request = None
            if read is None:
                request = Request(str(record["index"]), self.judge_prompt(record, options), "choice", options=options)
            groups[self.group_of(record)].append((request, read is not None and read != gold))
        # A group that holds a wrong answer is lost whatever a judge says.
        open_groups = [rows for rows in groups.values() if not any(wrong for _, wrong in rows)]
        return [request for rows in open_groups for request, _ in rows if request is not None]

    def read_reply(self, request: Request, reply: str) -> str | None:
        return rules.matched_option(reply, request.options)

    def rows(self, frame: pd.DataFrame, judged: Judged | None) -> dict[str, Verdict]:
        """Row by row what VLMEvalKit's option matching reads, on the file as it reads it back (empty is `nan`)."""
        verdicts = {}
        for record in records(frame):
            index = str(record["index"])
            options, gold = self.options_of(record)
            read = rules.matched_option(record["prediction"], options)
            if read is None and judged is not None and index in judged.usable:
                read = judged.usable[index]
            verdicts[index] = Verdict(read, float(read == gold), unparsed=read not in options)
        return verdicts

    def evaluated(self, work: Work, returned: pd.DataFrame, judged: Judged | None) -> Evaluated:
        verdicts = self.rows(work.load(work.file), judged)
        chosen = returned
        if self.split and self.split in set(returned["split"]):
            chosen = returned[returned["split"] == self.split]
        results = work.result("judge_result" if judged else "exact_matching_result")
        # Several splits in one file: the number over all of them.
        headline = float(chosen["Overall"].iloc[0] if len(chosen) == 1 else results["hit"].mean()) * 100
        return Evaluated(headline, verdicts, self._differing(work, results, verdicts))

    def _differing(self, work: Work, results: pd.DataFrame, verdicts: dict[str, Verdict]) -> list[str]:
        """The rows, or groups, whose `hit` in VLMEvalKit's result file is not what our verdicts make it."""
        right: dict[str, bool] = {}
        for row in work.table.rows:
            if row.id in verdicts:
                key = row.cluster if self.scored_whole == "cluster" else row.id
                right[key] = right.get(key, True) and verdicts[row.id].score == 1.0
        hits = zip(results["index"], results["hit"], strict=True)
        return [str(index) for index, hit in hits if bool(hit) != right[str(index)]]


class Blink(Choice):
    """BLINK: a judge is shown examples of its own."""

    name = "blink"
    stand_in = "BLINK"

    def judge_prompt(self, record: JsonObject, options: JsonObject) -> str:
        return rules.blink_prompt(record, options)


def _group(row: Row) -> str:
    number, group = whole_number(row.index), whole_number(row.fields.get("g_index"))
    return row.id if number is None else str(number % CIRCLE if group is None else group)


class Circular(Choice):
    """Each question is asked once a rotation of its options, and is right where all are."""

    name = "circular"
    columns = ("index", "image", "question", "A", "B")
    clusters = (Clusters("circular-group", "group of rotations", _group),)
    stand_in = "MMBench_DEV_EN"
    scored_whole = "cluster"  # a group that lacks a row would pass as whole
    index_matters = integer_index = True
    takes_submissions = True

    def composites(self) -> list[Composite]:
        columns = ("groups_right", "groups")
        circular = Composite("circular accuracy", columns, tally_all_right, percent, primary=True, proportion=True)
        return [circular, accuracy("accuracy of single rows", primary=False)]

    def problem(self, row: Row) -> str | None:
        return "has an index that is not an integer, which rotations need" if whole_number(row.index) is None else None

    def problems(self, rows: Sequence[Row]) -> dict[str, str]:
        """Rotations whose unrotated question the file does not hold: VLMEvalKit would drop them unseen."""
        present = {row.id for row in rows}
        return {
            row.id: f"is a rotation of {row.cluster}, which the file does not hold"
            for row in rows
            if row.cluster not in present
        }

    def group_of(self, record: JsonObject) -> str:
        return str(record.get("g_index", int(record["index"]) % CIRCLE))


class Mmmu(Choice):
    """MMMU: choice, and open questions that VLMEvalKit turns into one; the headline is of the validation split."""

    name = "mmmu"
    columns = (*Choice.columns, "split")
    clusters = (BY_ITEM, BY_IMAGE)
    stand_in = "MMMU_DEV_VAL"
    split = "validation"
    second_lines = (*Choice.second_lines, ("mmmu", "MMMU's own parser"))

    def composites(self) -> list[Composite]:
        counts = "validation"
        return [accuracy("validation accuracy", keep=lambda item: item.extras.get("split", counts) == counts)]

    def answer_problem(self, row: Row) -> str | None:
        return super().answer_problem(row) if "A" in row.options else None

    def formula_extras(self, row: Row) -> JsonObject:
        return {"split": str(row.fields["split"])}

    def second_readings(self, row: Row, text: str) -> dict[str, tuple[str | None, float]]:
        gold = str(row.fields.get("answer"))
        if not row.options:
            said = parse.read_open(text)
            return {"mmmu": (" | ".join(map(str, said)), float(parse.is_right(said, gold)))}
        read = parse.read_choice(text, row.options)
        return {**super().second_readings(row, text), "mmmu": (read, float(read == gold))}

    def options_of(self, record: JsonObject) -> tuple[JsonObject, str]:
        """An open question is the choice between its answer and any other.

        Its right letter is A, but for an answer that is itself one capital letter (four of the 53 open ones):
        VLMEvalKit keeps that letter, which the two options then seldom hold (`mcq_vanilla_eval`, `MMMU_preproc`).
        """
        options, answer = super().options_of(record)[0], record.get("answer")
        if "A" not in options:
            options = {"A": answer, **options, "B": "Other Answers"}
            options = {c: options[c] for c in OPTIONS if c in options and options[c] == options[c]}
        return options, answer if answer in list(OPTIONS) else "A"
