"""Two models' answers to the same questions, compared by a judge that sees each pair in both orders.

A judge that prefers a place shows in how often it says A and in how often the two orders disagree; where the interval
of the first leaves out one half, every number of the run carries a reservation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from pydantic import ConfigDict

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready, Request
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, Reservation, ScorerInfo, Scores
from armor_eval.runs.served import lost
from armor_eval.stats.composite import accuracy, measure
from armor_eval.stats.pairwise import Battle, PositionSwap, Ties, points, position_swap
from armor_eval.tasks.interleaved.answers import Answer, Answers, answer_text, question_text
from armor_eval.tasks.interleaved.looking import Looks, Opened, Reply, carried, opened, questions_of, reason_of
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Ask, Judge, Shown
from armor_eval.tasks.suites.rows import Row, file_rows
from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_model.base.errors import UserError, one_line
from armor_model.base.hashing import sha256_text

NAME = "armor-pairwise-v1"
WORDS = """You compare two answers to one question. Each is made of text and images; the images of answer A are shown
first, then those of answer B, and [image 1], [image 2] ... stand in each answer's text where they belong. Which answer
is better: is its text right, do its images show what was asked for, do both belong together? The order of the answers
and their length change nothing. Reply with one of these four and nothing else: A, B, Tie(A), Tie(B) - a tie names the
answer that you lean to."""
Both = tuple[Opened, Opened]
"""The images of the candidate's answer, and of the other's."""
ORDERS = ("first", "second")
"""Where the candidate's answer stands."""
ROOM = 16
FAIR = 50.0
"""Percent of verdicts for the first answer, of a judge that does not look at the place; and of pairs with one winner in
both orders, of a judge that tosses a coin."""


def verdict_of(reply: str) -> str | None:
    """A, B, Tie(A) or Tie(B); None for anything else, which is never guessed at."""
    found = re.fullmatch(r"[\W_]*(?:(tie)\s*\(\s*)?([ab])[\W_]*", strip_thoughts(reply).strip(), re.IGNORECASE)
    if found is None:
        return None
    return f"Tie({found[2].upper()})" if found[1] else found[2].upper()


class Compares(Looks):
    """A judge that says which of two answers is better, in both orders. Subclasses hold `_pairs`."""

    _pairs: Mapping[str, tuple[Answer, Answer]]
    """Pair's id -> the candidate's answer, the other's."""

    def describe(self, model: ModelInfo) -> Described:
        raise NotImplementedError

    def units(self) -> Sequence[Unit]:
        return [
            Unit(f"{id}/{order}", pair[0].cluster or id, order) for id, pair in self._pairs.items() for order in ORDERS
        ]

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Both | Exception], bundle: Bundle
    ) -> list[Item]:
        shown = {u.id: self._shown(u, o) for u, o in zip(units, outputs, strict=True) if not isinstance(o, Exception)}
        replies = self._replies(shown, ROOM, bundle)
        return [self._item(u, o, replies.get(u.id), bundle) for u, o in zip(units, outputs, strict=True)]

    def _authors(self, id: str) -> tuple[str, str]:
        """What is said of who gave the two answers of a pair."""
        return "", ""

    def _shown(self, unit: Unit, images: Both) -> Shown:
        id, _, order = unit.id.rpartition("/")
        sides = list(zip(self._pairs[id], images, self._authors(id), strict=True))
        if order == "second":
            sides.reverse()
        (first, (given, one), author), (second, (_, other), rival) = sides
        text = (
            f"{WORDS}\n\n{question_text(first)}\n"
            f"Answer A{author}: {answer_text(first)}\nAnswer B{rival}: {answer_text(second)}"
        )
        item = SuiteItem(unit.id, first.question, (Probe("winner", first.question),))
        return Shown(item, 0, (*given, *one, *other), (Ask(item.probes[0], text),))

    def _item(self, unit: Unit, output: Both | Exception, reply: Reply | None, bundle: Bundle) -> Item:
        fields = unit.fields(self._pairs[unit.id.rpartition("/")[0]][0].question)
        if isinstance(output, Exception):
            return Item(**fields, status="error", reason=one_line(str(output))[:300] or type(output).__name__)
        fields["images"] = [bundle.add_image(image) for image in output[0][0]]
        fields["output_images"] = [bundle.add_image(image) for _, drawn in output for image in drawn]
        verdict = verdict_of(reply[0].text) if isinstance(reply, list) else None
        if verdict is None:
            return Item(**fields, status="judge_failed", reason=reason_of(reply))
        got = points(Battle(unit.cluster, "", "", verdict), "half")
        assert got is not None
        return Item(**fields, status="ok", parsed=verdict, score=got[unit.group == "second"])

    def _ended(self, bundle: Bundle) -> tuple[list[Item], str | None]:
        """The journaled items in order, and why the headline is withheld."""
        items = [bundle.items[unit.id] for unit in self.units() if unit.id in bundle.items]
        missing = sum(item.status != "ok" for item in items)
        return items, f"{missing} of {len(items)} looks have no verdict" if missing else None

    def _outcome(
        self,
        bundle: Bundle,
        items: list[Item],
        withheld: str | None,
        metrics: Sequence[Metric],
        found: Sequence[Reservation],
    ) -> Outcome:
        """`metrics`: the headline first."""
        first, *others = metrics
        if withheld:
            first = first.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
        scores = Scores(
            metrics=[first, *others],
            counts=Counter(item.status for item in items),
            expected_items=len(self.units()),
            withheld=withheld,
        )
        known = self.describe(bundle.run.model).reservations  # not the record's: those of an earlier end may be there
        reason = lost(items, "looks have no verdict") or withheld
        return Outcome(items, scores, reason, {"reservations": [*known, *found]})


class PairsTask(Compares):
    """The candidate's and the base's answers to each question that both have."""

    def __init__(
        self, answers: Answers, against: Answers, judge: Judge, reservations: Sequence[Reservation] | None = None
    ) -> None:
        super().__init__(judge, reservations)
        ours, theirs = ({one.id: one for one in source.rows} for source in (answers, against))
        self._pairs = {id: (one, theirs[id]) for id, one in ours.items() if id in theirs}
        other = [id for id, pair in self._pairs.items() if pair[0].question != pair[1].question]
        if not self._pairs or other:
            what = f"the question {other[0]} is another one" if other else "no question is in both"
            raise UserError(f"{answers.name} and {against.name}: {what}", "expected answers to the same questions")
        self._missing = len(ours.keys() ^ theirs.keys())
        self._sources = (answers, against)
        self.model, self.profile = answers.model, answers.profile

    def describe(self, model: ModelInfo) -> Described:
        notes = [f"{self._missing} questions were answered by one of the two only"] if self._missing else []
        ours, theirs = self._sources
        return Described(
            kind="interleaved",
            benchmark=NAME,
            data=DataInfo(
                name="questions",
                sha256=questions_of([pair[0] for pair in self._pairs.values()]),
                items=2 * len(self._pairs),
            ),
            subset=None if ours.run is None else ours.run.subset,
            prompt_sha256=sha256_text(WORDS),
            scorer=ScorerInfo(name=NAME, version="1", settings=dict(self._judge.settings)),
            judge=self._judge.info.model_copy(update={"prompt_sha256": sha256_text(WORDS)}),
            protocol={"against": theirs.identity[:16]},
            asks=False,
            extras={"against": theirs.name, "graded_answers": ours.identity, "notes": [*notes, *self._notes()]},
            reservations=[
                *self._reservations([model, theirs.model]),
                *carried(ours),
                *(r for r in carried(theirs) if r not in carried(ours)),
            ],
        )

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Request | Exception]:
        """The images of both answers, the candidate's first; one that cannot be read costs the pair."""
        return [self._request(self._pairs[unit.id.rpartition("/")[0]]) for unit in units]

    def _request(self, pair: tuple[Answer, Answer]) -> Ready | Exception:
        ours, theirs = (opened(source, one) for source, one in zip(self._sources, pair, strict=True))
        for one in (ours, theirs):
            if isinstance(one, Exception):
                return one
        return Ready((ours, theirs))

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items, withheld = self._ended(bundle)
        wins = measure([item for item in items if item.score is not None], accuracy("wins"))
        swap = swapped(items)
        metrics = [wins, *(metric for metric in (swap.consistent, swap.says_first) if metric is not None)]
        if other := contradicts(swap):
            withheld = withheld or other[0].text
        return self._outcome(bundle, items, withheld, metrics, [*leanings({"place": swap.says_first}), *other])


def swapped(items: Sequence[Item]) -> PositionSwap:
    """What the two orders of each pair show."""
    sides = {"first": ("ours", "theirs"), "second": ("theirs", "ours")}
    return position_swap([Battle(i.id.rpartition("/")[0], *sides[str(i.group)], str(i.parsed)) for i in items])


def contradicts(swap: PositionSwap) -> list[Reservation]:
    """A judge whose other order has another winner more often than a coin's would: its wins say nothing."""
    metric = swap.consistent
    if metric is None or metric.ci95 is None or metric.ci95[1] >= FAIR:
        return []
    text = f"the judge contradicts itself: {_told(metric)} of the pairs have one winner in both orders"
    return [Reservation(kind="judge", text=text)]


def _told(metric: Metric) -> str:
    low, high = metric.ci95 or (0.0, 100.0)
    return f"{metric.value:.1f} % [{low:.1f}, {high:.1f}]"


LEANS = {
    "place": "the judge prefers a place: {} of its verdicts are for the answer shown first",
    "length": "the judge looks at length: {} of the points go to the longer of two equal answers",
    "own": "the judge looks at the author: {} of the points go to the one of two equal answers that is called its own",
}
"""What a judge should not look at -> how it is told where the interval leaves out one half."""


def leanings(metrics: Mapping[str, Metric | None]) -> list[Reservation]:
    """A reservation for each of LEANS whose interval leaves out one half."""
    found = []
    for name, metric in metrics.items():
        if metric is not None and metric.ci95 and not metric.ci95[0] <= FAIR <= metric.ci95[1]:
            found.append(Reservation(kind="judge", text=LEANS[name].format(_told(metric))))
    return found


# --- recorded pairwise verdicts --------------------------------------------------------------------------------------
# A file is a JSON list of `{"data_id", "model_A": {"id", "name"}, "model_B": {"id", "name"}, "winner"}`; the winner is
# A, B, Tie(A) or Tie(B). Any other is counted, and never guessed at (the published script draws lots).


TIES: dict[str, Ties] = {rule: rule for rule in get_args(Ties)}
"""What a tie counts for, by name."""


class Contestant(Row):
    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    name: str


class Winner(Row):
    """One verdict."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, protected_namespaces=())

    data_id: str
    model_A: Contestant  # noqa: N815 - the file's own
    model_B: Contestant  # noqa: N815
    winner: str | None = None


def read_winners(path: Path) -> list[Battle]:
    """The verdicts of a file. UserError naming the entry."""
    rows = [row for _, row in file_rows(Winner, path, "OpenING's file of verdicts")]
    if not rows:
        raise UserError(f"{path} holds no verdicts")
    return [Battle(one.data_id, one.model_A.name, one.model_B.name, (one.winner or "").strip()) for one in rows]
