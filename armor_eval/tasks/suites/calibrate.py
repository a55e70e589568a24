"""`armor-eval judge calibrate`: verdicts of a run beside recorded ones - another run's, people's, a file's."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Item, Run
from armor_eval.stats.agreement import Agreement, Pair, agreement_of
from armor_eval.tasks.geneval.people import Looked, read_people
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
