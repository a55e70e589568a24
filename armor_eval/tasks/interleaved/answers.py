"""Answers of text and images that are there already: a file of them, a run that asked for them, OpenING's folders.

A line of a file is InterSyn's: `{"id", "question", "answer", "image"}`, `image` being a path beside the file, a list of
them, or empty; `<image>` in the answer says where one stands, in the question where one of `given` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from armor_eval.profiles import OFFICIAL
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Item, ModelInfo, Profile, Run
from armor_eval.tasks.modality.layouts import IMAGE, Opening, listed
from armor_eval.tasks.modality.records import refuse_outside
from armor_eval.tasks.suites.rows import Row, json_of, json_rows, row_of, text_of
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json

LINE = '{"id": "7", "question": "What is a lighthouse? Draw one.", "answer": "A tower with a lamp.", "image": "7.png"}'
ANSWERED = ("modality", "interleaved")
"""Kinds of runs that hold free answers."""


class Answer(Row):
    """One answer."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True, populate_by_name=True)

    id: str
    question: str = ""
    given: list[str] = Field(default_factory=list)
    """Images of the question."""
    answer: str | None = Field(default="", validation_alias=AliasChoices("answer", "text_answer"))
    image: list[str] = Field(default_factory=list, validation_alias=AliasChoices("image", "image_answer"))
    cluster: str | None = None
    failed: str | None = None
    """Why the model gave none, of a run's: such a one is no answer, and not an empty one."""

    @property
    def text(self) -> str:
        """Its words, without the marks."""
        return (self.answer or "").replace(IMAGE, " ").strip()

    _listed = field_validator("given", "image", mode="before")(listed)


@dataclass(frozen=True)
class Answers:
    """All answers of one model."""

    name: str
    rows: list[Answer]
    sha256: str
    """Of them and their images."""
    root: Path
    """Where images of answers lie."""
    given: Path
    """Where images of questions lie."""
    run: Run | None = None
    """What asked for them, where that is known."""

    @property
    def model(self) -> ModelInfo:
        """Who gave them: the run's model, else known by the answers' content."""
        if self.run is not None:
            return self.run.model
        return ModelInfo(spec=f"answers:{self.name}", name=self.name, fingerprint=self.sha256)

    @property
    def identity(self) -> str:
        """What stays while a run is resumed: a request that failed may be answered later, an answer never changes."""
        return self.sha256 if self.run is None else self.run.run_id

    @property
    def profile(self) -> Profile:
        """That of the run; answers of elsewhere are to questions of elsewhere."""
        return OFFICIAL if self.run is None else self.run.profile


def read_answers(path: Path, *, questions: bool = True, data: Path | None = None) -> Answers:
    """Answers of a file (JSON lines, or a list as UEval's model files have it), of a run's folder, or of a folder of
    OpenING's (`data`: its questions, which lie beside their images). `questions`: each must bring its own. UserError
    naming the line."""
    if path.is_dir():
        read = _of_run(path) if (path / "run.json").exists() else _of_opening(path, data)
    else:
        read = _of_file(path)
    rows = read.rows
    if questions and (bare := next((one.id for one in rows if not one.question.strip()), None)) is not None:
        raise UserError(f"{path}: answer {bare} has no question", f"expected lines like {LINE}")
    twice = [id for id, n in Counter(one.id for one in rows).items() if n > 1]
    if twice or not rows:
        raise UserError(f"{path}: the id {twice[0]!r} is there twice" if twice else f"{path} holds no answers")
    for one in rows:
        refuse_outside(read.root / "_", one.image, f"{path}: answer {one.id}")
        refuse_outside(read.given / "_", one.given, f"{path}: question {one.id}")
    images = {read.root / name for one in rows for name in one.image}
    images |= {read.given / name for one in rows for name in one.given}
    told = [[file.name, sha256_file(file)] for file in sorted(images) if file.is_file()]
    return replace(read, sha256=sha256_json([[one.model_dump() for one in rows], told]))


def _of_file(path: Path) -> Answers:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read --answers {path}: {error.strerror}", f"expected lines like {LINE}") from None
    return Answers(path.stem, json_rows(Answer, str(path), data), "", path.parent, path.parent)


def _of_run(path: Path) -> Answers:
    """What a run of `modality` or `interleaved` was answered. UserError for one of another kind, or that has not
    ended."""
    run, items, scores = read_bundle(path)
    if run.kind not in ANSWERED or run.judge.endpoint != "none":
        raise UserError(f"{path} holds no free answers: {run.benchmark}", "give a run of modality or interleaved")
    if scores is None or len(items) < scores.expected_items:
        raise UserError(f"{path} has not ended", f"go on with: {' '.join(run.command)}")
    return Answers(run.model.name, [_of_item(item) for item in items], "", path, path, run)


def _of_item(item: Item) -> Answer:
    failed = (item.reason or "no answer") if item.status == "error" else None
    return Answer(
        id=item.id,
        question=item.prompt,
        given=item.images,
        answer=item.extras.get("answer", item.output),
        image=item.output_images,
        cluster=item.cluster,
        failed=failed,
    )


def _of_opening(path: Path, data: Path | None) -> Answers:
    """OpenING's `MODEL_output`: a JSON file an answer, its images beside it by their name."""
    rows = []
    for file in sorted(path.glob("*.json")):
        where = str(file)
        found = row_of(Opening, json_of(text_of(where, file.read_bytes()), where), where)
        question, given = found.asked
        text, images = found.answered
        drawn = [Path(name).name for name in images]
        rows.append(Answer(id=found.total_uid, question=question, given=given, answer=text, image=drawn))
    if any(one.given for one in rows) and data is None:
        raise UserError(f"{path}: its questions show images", "give --data, OpenING's file of questions beside them")
    return Answers(path.name.removesuffix("_output"), rows, "", path, path if data is None else data.parent)


def asked(words: str, answer: Answer) -> str:
    """What the judge is told: the rubric, then the question and the answer."""
    return f"{words.rstrip()}\n\n{question_text(answer)}\nAnswer: {answer_text(answer)}"


def question_text(answer: Answer) -> str:
    """The question with `[given N]` where an image of its own stands; those are shown first."""
    if not answer.given:
        return f"Question: {answer.question}"
    first = "The question's own images are shown first, as [given 1], [given 2] ..."
    return f"{first}\n\nQuestion: {_marked(answer.question, 'given', len(answer.given))}"


def answer_text(answer: Answer) -> str:
    """The answer with `[image N]` where an image stands, `null` for what is missing."""
    text = _marked((answer.answer or "").strip(), "image", len(answer.image))
    return (text or "null") + ("" if answer.image else "\nImage: null")


def _marked(text: str, what: str, count: int) -> str:
    """The text with `[what N]` for each mark, those without one at the end."""
    pieces: Sequence[str] = text.split(IMAGE)
    marks = [f"[{what} {n}]" for n in range(1, count + 1)]
    made = pieces[0]
    for at, piece in enumerate(pieces[1:]):
        made += (marks[at] if at < len(marks) else "") + piece
    return " ".join([made, *marks[len(pieces) - 1 :]]).strip()
