"""`armor-eval judge calibrate`: verdicts of a run beside recorded ones - another run's, people's, a file's."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Item, Run
from armor_eval.stats.agreement import Agreement, Pair, agreement_of
from armor_eval.tasks.geneval.folders import folder_name
from armor_eval.tasks.geneval.prompts import Metadata, official_records
from armor_eval.tasks.interleaved.rubrics import RUBRICS
from armor_eval.tasks.suites.rows import file_rows
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file

ALL = "all"
THRESHOLD = 0.5
"""A probability is a verdict `right` from here on."""
GRADE = 0.8
"""A grade is one from this share of its scale on: 4 of 5."""
TWIN = {"text": "text_right", "image": "image_right", "synergy": "agrees"}
"""Dimension of a graded answer -> what the exact comparison of the same answer says of it."""


@dataclass(frozen=True)
class Verdict:
    """One thing judged right or wrong."""

    right: bool
    cluster: str
    task: str


Verdicts = Mapping[str, Verdict]
"""By id: an image's, or `IMAGE#PROBE`."""


class Label(BaseModel):
    """A line of a file of recorded verdicts."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    item: str
    """The run's id of the image, or the suite's of the prompt."""
    sample: int | None = Field(default=None, ge=0)
    """Needed where `item` is a prompt's."""
    probe: str | None = None
    correct: bool


@dataclass(frozen=True)
class Truth:
    """Recorded verdicts with what they are."""

    name: str
    verdicts: Mapping[str, bool]
    people: Sequence[Looked] = ()
    images: Mapping[str, Path] | None = None
    """A run's image files by verdict; None where nothing says which images they were."""


@dataclass(frozen=True)
class Calibration:
    """A judge against the truth."""

    judge: str
    truth: str
    rows: list[Agreement]
    """All first, then each task."""
    unmatched: tuple[int, int]
    """Verdicts of the judge without a recorded one, and the other way round."""
    notes: list[str]


def verdicts_of(run: Run, items: Sequence[Item]) -> dict[str, Verdict]:
    """Every scored image of a GenEval run, every probe of a suite's, text, image and synergy of an interleaved answer,
    compared exactly or graded. UserError for a run of another kind."""
    if run.kind == "interleaved":
        return _of_answers(run, items)
    if run.kind not in ("suite", "geneval"):
        raise UserError(f"{run.benchmark} is no run of images that were judged", "expected one of draw or geneval")
    found = {}
    for item in items:
        if item.score is None:
            continue
        for probe in item.extras.get("probes", ()):
            id, right = f"{item.id}#{probe['id']}", probe["value"] >= THRESHOLD
            found[id] = Verdict(right, item.cluster, probe["skill"] or item.group or ALL)
        if "probes" not in item.extras:
            found[item.id] = Verdict(bool(item.score), item.cluster, item.group or ALL)
    return found


def _of_answers(run: Run, items: Sequence[Item]) -> dict[str, Verdict]:
    found = {}
    for item in items:
        for dimension, exact in TWIN.items() if item.score is not None else ():
            numbers = item.extras.get("numbers", {})
            if dimension in numbers:
                right = numbers[dimension] >= GRADE * RUBRICS[run.benchmark].high
            elif exact in item.extras:
                right = bool(item.extras[exact])
            else:
                raise UserError(f"{run.benchmark} says nothing of text, image and synergy of an answer")
            found[f"{item.id}#{dimension}"] = Verdict(right, item.cluster, dimension)
    return found


def read_truth(path: Path) -> Truth:
    """A run's folder, GenEval's annotations (.csv), or JSON lines of `item`, `sample`, `probe`, `correct`."""
    if path.is_dir():
        run, items, _ = read_bundle(path)
        verdicts = {id: verdict.right for id, verdict in verdicts_of(run, items).items()}
        name = f"{run.scorer.name if run.judge.endpoint == 'none' else run.judge.name} ({path.name})"
        return Truth(name, verdicts, images=_images_of(path, items))
    if path.suffix.lower() == ".csv":
        people = read_people(path)
        return Truth(f"people's majority ({path.name})", {one.key: one.correct for one in people}, people)
    return Truth(path.name, _labels(path))


def _labels(path: Path) -> dict[str, bool]:
    found: dict[str, bool] = {}
    form = 'expected {"item": ..., "sample": 0, "probe": ..., "correct": true}'
    for where, label in file_rows(Label, path, "the verdicts", form):
        image = label.item if label.sample is None else f"{label.item}/{label.sample}"
        id = image if label.probe is None else f"{image}#{label.probe}"
        if found.setdefault(id, label.correct) != label.correct:
            raise UserError(f"{where}: {id} is recorded right and wrong")
    return found


def calibrate(judged: Path, truth: Truth, corrected: Path | None = None, seed: int = 0) -> Calibration:
    """Hold the verdicts of the run in `judged` against the truth; `corrected`: a run of the same judge whose score is
    corrected, by default that of `judged` as a whole."""
    run, items, _ = read_bundle(judged)
    if truth.people and (run.kind != "geneval" or run.profile != "official"):
        raise UserError(f"{judged} is no run of GenEval's own prompts", f"those are what {truth.name} looked at")
    own = verdicts_of(run, items)
    pairs = [
        Pair(id, verdict.cluster, verdict.task, verdict.right, truth.verdicts[id])
        for id, verdict in own.items()
        if id in truth.verdicts
    ]
    if not pairs:
        raise UserError(
            f"{judged} and {truth.name} have no image and question in common",
            f"one says {next(iter(own), 'nothing')}, the other {next(iter(truth.verdicts), 'nothing')}",
        )
    if truth.images is not None:
        _check_same_images(_images_of(judged, items), truth.images, judged)
    other = own if corrected is None else _same_judge(run, corrected)
    whole = corrected is not None or len(other) > len(pairs)
    tasks = list(dict.fromkeys(pair.task for pair in pairs))
    rows = []
    for task in [ALL, *tasks] if tasks != [ALL] else [ALL]:
        chosen = [pair for pair in pairs if task in (ALL, pair.task)]
        rows.append(agreement_of(chosen, task, _sums(other, task) if whole else None, seed))
    judge = str(run.scorer.settings.get("detector", run.scorer.name)) if run.kind == "geneval" else run.judge.name
    unmatched = len(own) - len(pairs), len(truth.verdicts) - len(pairs)
    return Calibration(judge, truth.name, rows, unmatched, _notes(run, truth, whole))


def _images_of(folder: Path, items: Sequence[Item]) -> dict[str, Path]:
    """The image of each item, where the run still holds it."""
    found = {item.id: folder / item.output_images[0] for item in items if item.output_images}
    return {
        id: path for id, path in found.items() if path.resolve().is_relative_to(folder.resolve()) and path.is_file()
    }


def _check_same_images(ours: Mapping[str, Path], theirs: Mapping[str, Path], judged: Path) -> None:
    """UserError where an image that both runs hold is another one: agreement would be of nothing."""
    for id in ours.keys() & theirs.keys():
        if sha256_file(ours[id]) != sha256_file(theirs[id]):
            raise UserError(f"{judged} judged other images: {id} differs", "judge one folder of images twice")


def _same_judge(run: Run, folder: Path) -> dict[str, Verdict]:
    other, items, _ = read_bundle(folder)
    if (other.judge.name, other.judge.version, other.scorer) != (run.judge.name, run.judge.version, run.scorer):
        raise UserError(f"{folder} was judged by another judge: {other.judge.name}, not {run.judge.name}")
    return verdicts_of(other, items)


def _sums(verdicts: Verdicts, task: str) -> dict[str, tuple[float, float]] | None:
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for verdict in verdicts.values():
        if task in (ALL, verdict.task):
            sums[verdict.cluster][0] += verdict.right
            sums[verdict.cluster][1] += 1
    return {cluster: (right, n) for cluster, (right, n) in sums.items()} or None


def _notes(run: Run, truth: Truth, whole: bool) -> list[str]:
    notes = []
    if not whole:
        notes.append("the corrected score is of the very answers it was learnt from: their own share by construction")
    if truth.images is None:
        notes.append("the file does not say which images were looked at: that they are this run's is taken on trust")
    if truth.people:
        unanimous = 100 * sum(one.unanimous for one in truth.people) / len(truth.people)
        votes = [same for one in truth.people for same in one.one_against_the_rest()]
        ceiling = 100 * sum(votes) / len(votes)
        notes.append(f"people agree all five on {unanimous:.1f} % of {len(truth.people)} images")
        notes.append(f"one person against the majority of the others: {ceiling:.1f} %, the ceiling for any judge")
    return notes


def as_json(found: Calibration) -> str:
    """Everything, typed, for files and `--json`."""
    rows = [
        {**vars(row), **{name: getattr(row, name).model_dump() for name in ("agreement", "kappa", "corrected")}}
        for row in found.rows
    ]
    return json.dumps({**vars(found), "rows": rows}, indent=1)


# --- people's answers on GenEval's images: Mechanical Turk's CSV of djghosh13/geneval, five an image -----------------
# Each person's answer is judged by GenEval's own rules - enough objects, of the wanted colour, in the wanted relation;
# a count exactly - and the image by the majority. What one person is worth against the other four bounds any detector.


COLUMNS = (
    "Input.prompt_id",
    "Input.image_id",
    "Answer.task-count-0",
    "Answer.task-count-1",
    "Answer.task-color-0",
    "Answer.task-color-1",
    "Answer.task-position-x",
    "Answer.task-position-y",
)
"""What is read of a row, in the order of `_answer`."""
LEFT, RIGHT, ABOVE, BELOW = "left of", "right of", "above", "below"
SAID = {"left": LEFT, "right": RIGHT, "above": ABOVE, "below": BELOW}


@dataclass(frozen=True)
class Answer:
    """What one person saw."""

    counts: tuple[int, int]
    """Of the prompt's first and second object; 5 is five or more."""
    colors: tuple[frozenset[str], frozenset[str]]
    relation: frozenset[str]
    """Where the second object lies relative to the first."""


@dataclass(frozen=True)
class Looked:
    """One image with its people."""

    prompt: int
    """Index into the official prompts."""
    sample: int
    tag: str
    votes: tuple[bool, ...]
    """Whether each person's answer fulfils the prompt."""

    @property
    def key(self) -> str:
        """The id that a GenEval run gives this image."""
        return f"{folder_name(self.prompt)}/{self.sample:05d}"

    @property
    def correct(self) -> bool:
        return 2 * sum(self.votes) > len(self.votes)

    @property
    def unanimous(self) -> bool:
        return len(set(self.votes)) == 1

    def one_against_the_rest(self) -> list[bool]:
        """For each person, whether the majority of the others says the same; a tie of them is no majority."""
        return [vote == (2 * (sum(self.votes) - vote) > len(self.votes) - 1) for vote in self.votes]


def fulfils(meta: Metadata, answer: Answer) -> bool:
    """GenEval's verdict on what a person saw."""
    for at, wanted in enumerate(meta.include):
        seen = answer.counts[at]
        right = seen == wanted.count if meta.exclude else seen >= wanted.count
        if not right or (wanted.color is not None and wanted.color not in answer.colors[at]):
            return False
        if wanted.position is not None and wanted.position[0] not in answer.relation:
            return False
    return True


def read_people(path: Path) -> list[Looked]:
    """Images by prompt and sample. UserError where it is no such file."""
    metas = [Metadata.model_validate(record) for record in official_records()]
    answers: dict[tuple[int, int], list[Answer]] = defaultdict(list)
    try:
        for prompt, sample, answer in _csv_rows(path):
            answers[prompt, sample].append(answer)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read people's answers of {path}: {error}") from None
    if not answers:
        raise UserError(f"{path} holds no answers")
    if max(prompt for prompt, _ in answers) >= len(metas):
        raise UserError(f"{path} is of other prompts: GenEval has {len(metas)}")
    return [
        Looked(prompt, sample, metas[prompt].tag, tuple(fulfils(metas[prompt], a) for a in given))
        for (prompt, sample), given in sorted(answers.items())
    ]


Row = tuple[int, int, Answer]


def _csv_rows(path: Path) -> Iterator[Row]:
    head, *records = whole_records(path.read_text(encoding="utf-8-sig"))
    if missing := [name for name in COLUMNS if name not in head]:
        raise UserError(f"{path} is no file of GenEval's annotations: it lacks the column {missing[0]}")
    places = [head.index(name) for name in COLUMNS]
    for number, record in enumerate(records, 2):
        if len(record) != len(head):
            raise UserError(f"{path}: record {number} has {len(record)} fields, expected {len(head)}")
        try:
            yield _answer([record[place] for place in places])
        except ValueError as error:
            raise UserError(f"{path}: record {number}: {error}") from None


def whole_records(text: str) -> list[list[str]]:
    """The CSV's records; one that a typed line break cut in two is joined again (if-xl has four)."""
    found: list[list[str]] = []
    for row in csv.reader(io.StringIO(text)):
        if found and row and len(found[-1]) < len(found[0]) and len(found[-1]) + len(row) - 1 <= len(found[0]):
            found[-1] = [*found[-1][:-1], f"{found[-1][-1]}\n{row[0]}", *row[1:]]
        elif row:
            found.append(row)
    return found or [[]]


def _answer(fields: Sequence[str]) -> Row:
    prompt, sample, count_0, count_1, color_0, color_1, x, y = fields
    counts = int(float(count_0 or 0)), int(float(count_1 or 0))
    colors = frozenset(color_0.split("|")), frozenset(color_1.split("|"))
    return int(prompt), int(sample), Answer(counts, colors, frozenset(SAID[w] for w in (x, y) if w in SAID))
