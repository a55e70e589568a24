"""Free answers that are there already (armor_eval.tasks.interleaved.answers), graded by a judge with a rubric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready, Request
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, Reservation, ScorerInfo, Scores
from armor_eval.runs.served import lost
from armor_eval.stats.composite import Composite, measure
from armor_eval.tasks.interleaved.answers import Answers, asked
from armor_eval.tasks.interleaved.looking import Looks, Opened, Reply, carried, opened, questions_of, reason_of
from armor_eval.tasks.interleaved.rubrics import Rubric
from armor_eval.tasks.modality.records import modality
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Ask, Judge, Shown
from armor_model.base.errors import one_line
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject

ROOM = 300
"""Tokens of a judge's reply, as the official script gives it."""


class JudgedTask(Looks):
    """Every answer is graded once; what is missing is 0 by rule, a reply that is not read is no grade.

    `words`: the judge's prompt; `published`: it is the rubric's own. `reservations`: what is known of the judge, None
    where nobody looked.
    """

    def __init__(
        self,
        answers: Answers,
        rubric: Rubric,
        words: str,
        published: bool,
        judge: Judge,
        reservations: Sequence[Reservation] | None = None,
    ) -> None:
        super().__init__(judge, reservations)
        self._answers, self.model, self.profile = answers, answers.model, answers.profile
        self._rows = answers.rows
        self._by_id = {one.id: one for one in self._rows}
        self._rubric, self._words, self._published = rubric, words, published

    def describe(self, model: ModelInfo) -> Described:
        run = self._answers.run
        other = f"the words are not known to be the published ones of {self._rubric.name}"
        reservations = [*self._reservations([model])]
        reservations += [] if self._published else [Reservation(kind="judge", text=other)]
        reservations += carried(self._answers)
        return Described(
            kind="interleaved",
            benchmark=self._rubric.name,
            data=DataInfo(
                name="questions" if run is None else run.data.name,
                sha256=questions_of(self._rows),
                items=len(self._rows),
            ),
            subset=None if run is None else run.subset,
            prompt_sha256=sha256_text(self._words),
            scorer=ScorerInfo(name=self._rubric.name, version="1", settings=dict(self._judge.settings)),
            judge=self._judge.info.model_copy(update={"prompt_sha256": sha256_text(self._words)}),
            protocol={} if run is None else run.protocol,
            seeds={} if run is None else run.seeds,
            extras={"notes": self._notes(), **({} if run is None else self._of_run(run.extras))},
            reservations=reservations,
            asks=False,
            decoded={} if run is None else run.decoding,
        )

    def _of_run(self, extras: JsonObject) -> JsonObject:
        """What identifies the answers, and whether they were given blind."""
        return {"graded_answers": self._answers.identity, **({"blind": True} if extras.get("blind") else {})}

    def units(self) -> Sequence[Unit]:
        return [Unit(one.id, one.cluster or one.id) for one in self._rows]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Request | Exception]:
        """The images of each answer; one that cannot be read costs that answer."""
        found = [opened(self._answers, self._by_id[unit.id]) for unit in units]
        return [one if isinstance(one, Exception) else Ready(one) for one in found]

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Opened | Exception], bundle: Bundle
    ) -> list[Item]:
        shown = {}
        for unit, output in zip(units, outputs, strict=True):
            one = self._by_id[unit.id]
            if not isinstance(output, Exception) and (output[1] or one.text):
                item = SuiteItem(one.id, one.question, (Probe("grades", one.question),))
                ask = Ask(item.probes[0], asked(self._words, one))
                shown[unit.id] = Shown(item, 0, (*output[0], *output[1]), (ask,))
        replies = self._replies(shown, ROOM, bundle)
        return [self._item(u, o, replies.get(u.id), bundle) for u, o in zip(units, outputs, strict=True)]

    def _fields(self, unit: Unit, output: Opened | Exception, bundle: Bundle) -> tuple[JsonObject, Item | None]:
        """What an item says of the answer; the whole item where there is none, or its images cannot be read."""
        one = self._by_id[unit.id]
        fields = unit.fields(one.question, output=one.answer or None)
        if isinstance(output, Exception):
            reason = one_line(str(output))[:300] or type(output).__name__
            return fields, Item(**fields, status="error", reason=reason)
        fields["images"], fields["output_images"] = ([bundle.add_image(image) for image in half] for half in output)
        fields["parsed"] = modality(bool(one.text), bool(output[1]))
        return fields, None

    def _item(self, unit: Unit, output: Opened | Exception, reply: Reply | None, bundle: Bundle) -> Item:
        fields, failed = self._fields(unit, output, bundle)
        if failed is not None:
            return failed
        zero = self._rubric.zero(self._by_id[unit.id].text, fields["output_images"])
        text = "" if reply is None or isinstance(reply, Exception) else reply[0].text
        grades = zero if reply is None else self._rubric.read(text)
        if grades is None:
            return Item(**fields, status="judge_failed", reason=reason_of(reply))
        numbers = {name: float({**grades, **zero}[name]) for name in self._rubric.names}
        numbers["mean"] = sum(numbers.values()) / len(self._rubric.names)
        extras = {"numbers": numbers, "reply": text, "zero": sorted(zero)}
        return Item(**fields, status="ok", score=numbers["mean"] / self._rubric.high, extras=extras)

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[one.id] for one in self._rows if one.id in bundle.items]
        counts = Counter(item.status for item in items)
        graded = [item for item in items if item.score is not None]
        missing = len(items) - len(graded)
        what = "answers have no grade"
        withheld = f"{missing} of {len(items)} {what}" if missing else None
        metrics = []
        for composite in self._composites():
            metric = measure(graded, composite)
            if metric.n == 0 and not composite.primary:
                continue  # a task of UEval's that no question is of
            if composite.primary and withheld:
                metric = metric.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
            metrics.append(metric)
        given = dict(Counter(str(item.parsed) for item in items if item.parsed))
        extras = {**bundle.run.extras, "given": given}
        scores = Scores(metrics=metrics, counts=counts, expected_items=len(self._rows), withheld=withheld)
        reservations = [*self.describe(bundle.run.model).reservations, *self._found(items)]
        return Outcome(items, scores, lost(items, what), {"extras": extras, "reservations": reservations})

    def _composites(self) -> list[Composite]:
        return self._rubric.composites()

    def _found(self, items: Sequence[Item]) -> list[Reservation]:
        """What only the end knows."""
        return []
