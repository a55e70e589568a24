"""Answers of text and images that are there already, graded by a judge with a rubric.

A line of a file of answers is InterSyn's: `{"id", "question", "answer", "image"}`, `image` being a path beside the
file, a list of them, or empty; `<image>` in the answer says where one stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, Reservation, ScorerInfo, Scores
from armor_eval.stats.composite import Composite, measure
from armor_eval.tasks.interleaved.rubrics import DIMENSIONS, HIGH, Rubric, composites, zero_rules
from armor_eval.tasks.modality.records import IMAGE, image_in, modality
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges.base import Ask, Judge, Reading, Shown
from armor_eval.tasks.suites.rows import Row, json_rows, jsonl_rows
from armor_model.base.errors import RunFailed, UserError, one_line
from armor_model.base.hashing import sha256_file, sha256_json, sha256_text
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.models.base import Model

ROOM = 300
"""Tokens of a judge's reply, as the official script gives it."""
LINE = '{"id": "7", "question": "What is a lighthouse? Draw one.", "answer": "A tower with a lamp.", "image": "7.png"}'


class Answer(Row):
    """One answer."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, populate_by_name=True)

    id: str
    question: str = ""
    answer: str | None = Field(default="", validation_alias=AliasChoices("answer", "text_answer"))
    image: list[str] = Field(default_factory=list, validation_alias=AliasChoices("image", "image_answer"))
    cluster: str | None = None

    @field_validator("image", mode="before")
    @classmethod
    def _listed(cls, value: object) -> Any:
        return [] if not value else [value] if isinstance(value, str) else value


def read_answers(path: Path, questions: bool = True) -> tuple[list[Answer], str]:
    """Answers of a file (JSON lines, or a list as UEval's model files have it), and the sha256 of it and its images.
    `questions`: each must bring its own. UserError naming the line."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read --answers {path}: {error.strerror}", f"expected lines like {LINE}") from None
    read = json_rows if data.lstrip()[:1] == b"[" else jsonl_rows
    found: list[Answer] = read(Answer, str(path), data)
    if questions and (bare := next((one.id for one in found if not one.question.strip()), None)) is not None:
        raise UserError(f"{path}: answer {bare} has no question", f"expected lines like {LINE}")
    twice = [id for id, n in Counter(one.id for one in found).items() if n > 1]
    if twice or not found:
        raise UserError(f"{path}: the id {twice[0]!r} is there twice" if twice else f"{path} holds no answers")
    root = path.parent.resolve()
    for one in found:
        outside = [name for name in one.image if not (root / name).resolve().is_relative_to(root)]
        if outside:
            raise UserError(f"{path}: answer {one.id}: the image {outside[0]} lies outside of the file's folder")
    files = {path, *(path.parent / name for one in found for name in one.image)}
    return found, sha256_json([[file.name, sha256_file(file)] for file in sorted(files) if file.is_file()])


def asked(words: str, answer: Answer) -> str:
    """What the judge is told: the rubric, then the question and the answer, `[image N]` where an image stands."""
    pieces = (answer.answer or "").strip().split(IMAGE)
    marks = [f"[image {n}]" for n in range(1, len(answer.image) + 1)]
    text = pieces[0]
    for at, piece in enumerate(pieces[1:]):
        text += (marks[at] if at < len(marks) else "") + piece
    text = " ".join([text, *marks[len(pieces) - 1 :]]).strip()
    return f"{words.rstrip()}\n\nQuestion: {answer.question}\nAnswer: {text or 'null'}" + (
        "" if answer.image else "\nImage: null"
    )


class JudgedTask:
    """Every answer is graded once; what is missing is 0 by rule, a reply that is not read is no grade."""

    whole_batches = False

    def __init__(
        self, answers: Path, rubric: Rubric, words: str, published: bool, judge: Judge, questions: bool = True
    ) -> None:
        self._answers, self._sha256 = read_answers(answers, questions)
        self._by_id = {one.id: one for one in self._answers}
        self._rubric, self._words, self._published, self._judge = rubric, words, published, judge
        self._open, self._name, self._ready = image_in(answers.parent), answers.name, False

    @property
    def model(self) -> ModelInfo:
        """Whoever gave the answers, known by their content."""
        name = Path(self._name).stem
        return ModelInfo(spec=f"answers:{self._name}", name=name, fingerprint=self._sha256)

    def check(self, model: Model) -> None:
        """Any answers can be graded."""

    def describe(self, model: ModelInfo) -> Described:
        questions = sha256_json([[one.id, one.question] for one in self._answers])
        other = Reservation(
            kind="judge", text=f"the words are not known to be the published ones of {self._rubric.name}"
        )
        return Described(
            kind="interleaved",
            benchmark=self._rubric.name,
            data=DataInfo(name="questions", sha256=questions, items=len(self._answers)),
            subset=None,
            prompt_sha256=sha256_text(self._words),
            scorer=ScorerInfo(name=self._rubric.name, version="1", settings=dict(self._judge.settings)),
            judge=self._judge.info.model_copy(update={"prompt_sha256": sha256_text(self._words)}),
            reservations=[] if self._published else [other],
            asks=False,
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(one.id, one.cluster or one.id) for one in self._answers]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Any]:
        """The images of each answer; one that cannot be read costs that answer."""
        made: list[Any] = []
        for unit in units:
            try:
                made.append(Ready([self._open(name) for name in self._by_id[unit.id].image]))
            except (OSError, BadImageError) as error:
                made.append(error)
        return made

    def judge(
        self, units: Sequence[Unit], requests: Sequence[Any], outputs: Sequence[Any], bundle: Bundle
    ) -> list[Item]:
        self._prepare()
        shown = {}
        for unit, output in zip(units, outputs, strict=True):
            one = self._by_id[unit.id]
            if not isinstance(output, Exception) and (output or (one.answer or "").strip()):
                item = SuiteItem(one.id, one.question, (Probe("grades", one.question),))
                ask = Ask(item.probes[0], asked(self._words, one))
                shown[unit.id] = Shown(item, 0, tuple(output), (ask,))
        replies = dict(zip(shown, self._judge.replies(list(shown.values()), ROOM), strict=True)) if shown else {}
        self._refuse_dead(replies, bundle)
        return [self._item(u, o, replies.get(u.id), bundle) for u, o in zip(units, outputs, strict=True)]

    def _prepare(self) -> None:
        if not self._ready:
            self._judge.prepare("rubric")
            self._ready = True

    @staticmethod
    def _refuse_dead(replies: Mapping[Any, Any], bundle: Bundle) -> None:
        """RunFailed where a judge fails on all of the first answers."""
        if len(replies) > 1 and not bundle.items and all(isinstance(reply, Exception) for reply in replies.values()):
            first = next(iter(replies.values()))
            raise RunFailed(f"the judge failed on the first {len(replies)} questions: {one_line(str(first))[:200]}")

    def _fields(self, unit: Unit, output: Any, bundle: Bundle) -> tuple[JsonObject, Item | None]:
        """What an item says of the answer; the whole item where its images cannot be read."""
        one = self._by_id[unit.id]
        fields: JsonObject = {
            "id": unit.id,
            "cluster": unit.cluster,
            "group": unit.group,
            "prompt": one.question,
            "prompt_sha256": sha256_text(one.question),
            "output": one.answer or None,
        }
        if isinstance(output, Exception):
            reason = one_line(str(output))[:300] or type(output).__name__
            return fields, Item(**fields, status="error", reason=reason)
        fields["output_images"] = [bundle.add_image(image) for image in output]
        fields["parsed"] = modality(bool((one.answer or "").strip()), bool(output))
        return fields, None

    def _item(self, unit: Unit, output: Any, reply: list[Reading] | Exception | None, bundle: Bundle) -> Item:
        one = self._by_id[unit.id]
        fields, failed = self._fields(unit, output, bundle)
        if failed is not None:
            return failed
        if isinstance(reply, Exception):
            return Item(**fields, status="judge_failed", reason=one_line(f"judge: {reply}")[:300])
        zero, text = zero_rules(one.answer or "", output), reply[0].text if reply else ""
        grades = zero if len(zero) == len(DIMENSIONS) else self._rubric.read(text)
        if grades is None:
            return Item(**fields, status="judge_failed", reason=one_line(f"unread: {text}")[:300])
        numbers = {name: float({**grades, **zero}[name]) for name in DIMENSIONS}
        numbers["mean"] = sum(numbers.values()) / len(DIMENSIONS)
        extras = {"numbers": numbers, "reply": text, "zero": sorted(zero)}
        return Item(**fields, status="ok", score=numbers["mean"] / HIGH, extras=extras)

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[one.id] for one in self._answers if one.id in bundle.items]
        counts = Counter(item.status for item in items)
        lost = len(items) - counts["ok"]
        withheld = f"{lost} of {len(items)} answers have no grade" if lost else None
        metrics = []
        for composite in self._composites():
            metric = measure([item for item in items if item.score is not None], composite)
            if composite.primary and withheld:
                metric = metric.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
            metrics.append(metric)
        given = dict(Counter(str(item.parsed) for item in items if item.parsed))
        extras = {**bundle.run.extras, "given": given}
        scores = Scores(metrics=metrics, counts=counts, expected_items=len(self._answers), withheld=withheld)
        reservations = [*bundle.run.reservations, *self._reservations(items)]
        return Outcome(items, scores, withheld, {"extras": extras, "reservations": reservations})

    def _composites(self) -> list[Composite]:
        return composites()

    def _reservations(self, items: Sequence[Item]) -> list[Reservation]:
        """What only the end knows."""
        return []
