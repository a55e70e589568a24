"""Two models' answers to the same questions, compared by a judge that sees each pair in both orders.

A judge that prefers a place shows in how often it says A and in how often the two orders disagree; where the interval
of the first leaves out one half, every number of the run carries a reservation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, Reservation, ScorerInfo, Scores
from armor_eval.stats.composite import accuracy, measure
from armor_eval.stats.pairwise import Battle, points, position_swap
from armor_eval.tasks.interleaved.judged import Answer, asked, read_answers
from armor_eval.tasks.modality.records import image_in
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges.base import Ask, Judge, Reading, Shown
from armor_eval.tasks.understanding.thinking import strip_thoughts
from armor_model.base.errors import RunFailed, UserError, one_line
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.models.base import Model

NAME = "armor-pairwise-v1"
WORDS = """You compare two answers to one question. Each is made of text and images; the images of answer A are shown
first, then those of answer B, and [image 1], [image 2] ... stand in each answer's text where they belong. Which answer
is better: is its text right, do its images show what was asked for, do both belong together? The order of the answers
and their length change nothing. Reply with one of these four and nothing else: A, B, Tie(A), Tie(B) - a tie names the
answer that you lean to."""
ORDERS = ("first", "second")
"""Where the candidate's answer stands."""
ROOM = 16
FAIR = 50.0
"""Percent of verdicts for the first answer, of a judge that does not look at the place."""


def verdict_of(reply: str) -> str | None:
    """A, B, Tie(A) or Tie(B); None for anything else, which is never guessed at."""
    found = re.fullmatch(r"[\W_]*(?:(tie)\s*\(\s*)?([ab])[\W_]*", strip_thoughts(reply).strip(), re.IGNORECASE)
    if found is None:
        return None
    return f"Tie({found[2].upper()})" if found[1] else found[2].upper()


class PairsTask:
    """The candidate's and the base's answers to each question that both have, in both orders."""

    whole_batches = False

    def __init__(self, answers: Path, against: Path, judge: Judge) -> None:
        read = [read_answers(path) for path in (answers, against)]
        ours, theirs = ({one.id: one for one in found} for found, _ in read)
        self._pairs = {id: (one, theirs[id]) for id, one in ours.items() if id in theirs}
        other = [id for id, pair in self._pairs.items() if pair[0].question != pair[1].question]
        if not self._pairs or other:
            what = f"the question {other[0]} is another one" if other else "no question is in both"
            raise UserError(f"{answers} and {against}: {what}", "expected answers to the same questions, by id")
        self._missing = len(ours.keys() ^ theirs.keys())
        self._judge, self._ready, self._hashes = judge, False, [sha256 for _, sha256 in read]
        self._open = (image_in(answers.parent), image_in(against.parent))
        self._names = (answers.stem, against.stem)

    @property
    def model(self) -> ModelInfo:
        """The candidate, known by the content of its answers."""
        return ModelInfo(spec=f"answers:{self._names[0]}", name=self._names[0], fingerprint=self._hashes[0])

    def check(self, model: Model) -> None:
        """Any answers can be compared."""

    def describe(self, model: ModelInfo) -> Described:
        questions = sha256_json([[id, pair[0].question] for id, pair in self._pairs.items()])
        notes = [f"{self._missing} questions were answered by one of the two only"] if self._missing else []
        return Described(
            kind="interleaved",
            benchmark=NAME,
            data=DataInfo(name="questions", sha256=questions, items=2 * len(self._pairs)),
            subset=None,
            prompt_sha256=sha256_text(WORDS),
            scorer=ScorerInfo(name=NAME, version="1", settings=dict(self._judge.settings)),
            judge=self._judge.info.model_copy(update={"prompt_sha256": sha256_text(WORDS)}),
            protocol={"against": self._hashes[1][:16]},
            asks=False,
            extras={"against": self._names[1], "notes": notes},
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(f"{id}/{order}", id, order) for id in self._pairs for order in ORDERS]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Any]:
        """The images of both answers, the candidate's first; one that cannot be read costs the pair."""
        made: list[Any] = []
        for unit in units:
            try:
                pair = zip(self._pairs[unit.cluster], self._open, strict=True)
                made.append(Ready([[opened(name) for name in one.image] for one, opened in pair]))
            except (OSError, BadImageError) as error:
                made.append(error)
        return made

    def judge(
        self, units: Sequence[Unit], requests: Sequence[Any], outputs: Sequence[Any], bundle: Bundle
    ) -> list[Item]:
        if not self._ready:
            self._judge.prepare("rubric")
            self._ready = True
        shown = {u.id: self._shown(u, o) for u, o in zip(units, outputs, strict=True) if not isinstance(o, Exception)}
        replies = dict(zip(shown, self._judge.replies(list(shown.values()), ROOM), strict=True)) if shown else {}
        if len(replies) > 1 and not bundle.items and all(isinstance(reply, Exception) for reply in replies.values()):
            first = next(iter(replies.values()))
            raise RunFailed(f"the judge failed on the first {len(replies)} pairs: {one_line(str(first))[:200]}")
        return [self._item(u, o, replies.get(u.id), bundle) for u, o in zip(units, outputs, strict=True)]

    def _shown(self, unit: Unit, images: list[list[Any]]) -> Shown:
        pair = list(zip(self._pairs[unit.cluster], images, strict=True))
        if unit.group == "second":
            pair.reverse()
        question = pair[0][0].question
        told = [f"Answer {letter}: {_told(one)}" for letter, (one, _) in zip("AB", pair, strict=True)]
        text = "\n".join([f"{WORDS}\n", f"Question: {question}", *told])
        item = SuiteItem(unit.id, question, (Probe("winner", question),))
        return Shown(item, 0, (*pair[0][1], *pair[1][1]), (Ask(item.probes[0], text),))

    def _item(self, unit: Unit, output: Any, reply: list[Reading] | Exception | None, bundle: Bundle) -> Item:
        question = self._pairs[unit.cluster][0].question
        fields: JsonObject = {
            "id": unit.id,
            "cluster": unit.cluster,
            "group": unit.group,
            "prompt": question,
            "prompt_sha256": sha256_text(question),
        }
        if isinstance(output, Exception):
            return Item(**fields, status="error", reason=one_line(str(output))[:300] or type(output).__name__)
        fields["output_images"] = [bundle.add_image(image) for one in output for image in one]
        if reply is None or isinstance(reply, Exception):
            return Item(**fields, status="judge_failed", reason=one_line(f"judge: {reply}")[:300])
        verdict = verdict_of(reply[0].text)
        if verdict is None:
            return Item(**fields, status="judge_failed", reason=one_line(f"unread: {reply[0].text}")[:300])
        got = points(Battle(unit.cluster, "", "", verdict), "half")
        assert got is not None
        return Item(**fields, status="ok", parsed=verdict, score=got[unit.group == "second"])

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[unit.id] for unit in self.units() if unit.id in bundle.items]
        counts = Counter(item.status for item in items)
        lost = len(items) - counts["ok"]
        withheld = f"{lost} of {len(items)} looks have no verdict" if lost else None
        wins = measure([item for item in items if item.score is not None], accuracy("wins"))
        if withheld:
            wins = wins.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
        sides = {"first": ("ours", "theirs"), "second": ("theirs", "ours")}
        swap = position_swap([Battle(i.cluster, *sides[str(i.group)], str(i.parsed)) for i in items])
        metrics = [wins, *(metric for metric in (swap.consistent, swap.says_first) if metric is not None)]
        reservations = list(bundle.run.reservations)
        if (first := swap.says_first) is not None and first.ci95 and not first.ci95[0] <= FAIR <= first.ci95[1]:
            told = f"{first.value:.1f} % [{first.ci95[0]:.1f}, {first.ci95[1]:.1f}]"
            text = f"the judge prefers a place: {told} of its verdicts are for the answer shown first"
            reservations.append(Reservation(kind="judge", text=text))
        scores = Scores(metrics=metrics, counts=counts, expected_items=2 * len(self._pairs), withheld=withheld)
        return Outcome(items, scores, withheld, {"reservations": reservations})


def _told(answer: Answer) -> str:
    """An answer's text, with marks for its images."""
    return asked("", answer).partition("\nAnswer: ")[2]
