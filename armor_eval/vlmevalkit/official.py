"""VLMEvalKit's own scoring, fenced: it draws random options, shares files in /tmp between runs and saves a pickle an
item. Each is undone or guarded.
"""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from armor_eval.vlmevalkit.importing import SCORING, quiet_vlmeval
from armor_eval.vlmevalkit.records import Declared, Evaluated, Judged, Request, Scorable, Verdict
from armor_model.base.errors import RunFailed
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    import pandas as pd
    from vlmeval.dataset.image_base import ImageBaseDataset

JUDGE_NAME = "judge"
"""The name that stands in the names of VLMEvalKit's result files."""
_CLEARED = ("USE_COT", "SPLIT_THINK", "SKIP_ERR", "LOCAL_LLM", "PRINT_VANILLA", "FORCE_LOCAL", "VERBOSE", "EVAL_PROXY")
"""Switches of VLMEvalKit in the environment that would change prompts or scores."""


def score(table: Scorable, predictions: dict[str, str], judged: Judged | None = None) -> Evaluated:
    """Score predictions (id -> text) by the dataset's own `evaluate`, in a folder of its own that is removed after.

    Without a judge the policy is `exact_matching`; with one its replies are said again. Rows without a prediction are
    left out. A row that VLMEvalKit's result does not hold has no verdict, and then there is no headline.
    """
    with _Work.of(table, predictions) as work, _guards(work.folder, judged):
        dataset = _build(work)
        returned = dataset.evaluate(str(work.file), model=JUDGE_NAME if judged else "exact_matching", nproc=1)
        return _read(work, returned, set(predictions), judged)


def read_rows(table: Scorable, predictions: dict[str, str], judged: Judged | None) -> dict[str, Verdict]:
    """The verdicts of single rows by the official reading, without a score over them."""
    with _Work.of(table, predictions) as work:
        return table.benchmark.scoring.rows(work.load(work.file), judged)


def judge_requests(table: Scorable, predictions: dict[str, str]) -> list[Request]:
    """What VLMEvalKit would send to a judge for these predictions, in its own words."""
    with _Work.of(table, predictions) as work:
        return table.benchmark.scoring.requests(work.load(work.file))


@dataclass
class _Work:
    """A folder of its own with a prediction file in it, for VLMEvalKit to score."""

    table: Scorable
    dataset: str
    """The name under which VLMEvalKit scores it."""
    folder: Path
    file: Path
    frame: pd.DataFrame
    """The rows that have a prediction, without it."""
    ids: dict[str, str]
    """The index in the file -> ours. VLMEvalKit evaluates each index as Python source and compares it across files:
    where its value says nothing to a formula, rows are numbered instead."""

    @classmethod
    @contextlib.contextmanager
    def of(cls, table: Scorable, predictions: dict[str, str]) -> Iterator[Self]:
        """vlmeval imported, its switches in the environment set, its own reading of files replaced by the table's."""
        with (
            tempfile.TemporaryDirectory(prefix="armor-eval-") as name,
            quiet_vlmeval(table.benchmark.dataset, whole=False),
        ):
            folder = Path(name).resolve()
            os.environ.update({"LMUData": str(folder), "PRED_FORMAT": "tsv", "EVAL_FORMAT": "csv"})
            for variable in _CLEARED:
                os.environ.pop(variable, None)
            frame = table.frame[[str(i) in predictions for i in table.frame["index"]]]
            ids = [str(i) for i in frame["index"]]
            said = [predictions[i] for i in ids]
            frame = _for_scoring(table, frame)
            name = _scored_as(table.benchmark)
            file = folder / f"armor_{name}.tsv"
            write_predictions(frame.assign(prediction=said), file)
            work = cls(table, name, folder, file, frame, dict(zip(map(str, frame["index"]), ids, strict=True)))
            with _reading_fence(table.reading, frame):
                yield work

    def load(self, file: Path | str) -> pd.DataFrame:
        """A file that VLMEvalKit wrote or will read, as it reads it, under our ids."""
        from vlmeval.smp import load

        frame = load(str(file))
        return frame.assign(index=[self.ids[str(index)] for index in frame["index"]])

    def result(self, name: str) -> pd.DataFrame:
        """A file that `evaluate` left beside the predictions, by what follows their name."""
        return self.load(self.file.with_name(f"{self.file.stem}_{name}.tsv"))


def _scored_as(benchmark: Declared) -> str:
    """Its own name where VLMEvalKit knows it, else that of a data set which is scored by the same rule."""
    from vlmeval.dataset import DATASET_CLASSES

    known = any(benchmark.dataset in owner.supported_datasets() for owner in DATASET_CLASSES)
    return benchmark.dataset if known else benchmark.scoring.stand_in


def _for_scoring(table: Scorable, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows with nothing in them that VLMEvalKit's scoring trips over and no formula needs."""
    if not table.benchmark.scoring.index_matters:
        frame = frame.assign(index=range(len(frame)))
    if "image_path" in frame:  # evaluated as Python source; only MME's formula pairs rows by it
        frame = frame.assign(image_path=[f"image {n}" for n in frame["image_path"].factorize()[0]])
    for column in {"category", "l2-category", "split"} & set(frame):
        if frame[column].isna().any():  # sorted, which a missing one makes impossible
            frame = frame.assign(**{column: frame[column].astype(object).fillna("(none)")})
    return frame


@contextlib.contextmanager
def _reading_fence(reading: str, frame: pd.DataFrame) -> Iterator[None]:
    """VLMEvalKit's `load` reads a TSV with pandas' list of missing words and guesses every column's type.

    keep-none: the dataset's columns and the predictions are read as text, and only an empty cell is missing; what
    scoring adds (`hit`, `score` ...) is typed as ever. vlmeval: as it is, but for a column of questions that are all
    numbers, which VLMEvalKit cannot score.
    """
    import pandas as pd
    from vlmeval.smp import file as module

    how: JsonObject = {"dtype": {"question": str}}
    if reading == "keep-none":
        text = {*frame, "prediction"} - {"index", "g_index"}
        how = {"dtype": dict.fromkeys(text, str), "keep_default_na": False, "na_values": [""]}

    class TextPandas:
        """pandas, as the module that defines `load` sees it: every importer of `load` calls it there."""

        def __getattr__(self, name: str) -> object:
            return getattr(pd, name)

        @staticmethod
        def read_csv(path: str | Path, **settings: Any) -> pd.DataFrame:
            return pd.read_csv(path, **how, **settings)

    before = module.pd
    module.pd = TextPandas()
    try:
        yield
    finally:
        module.pd = before


def write_predictions(frame: pd.DataFrame, file: Path) -> None:
    """VLMEvalKit's layout of a prediction file: the dataset's columns without `image`, and `prediction`."""
    frame.to_csv(file, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)


def _build(work: _Work) -> ImageBaseDataset:
    """The dataset object over our rows, without images (scoring reads none), its md5 check replaced by our sha256."""
    from vlmeval import dataset

    name = work.dataset
    write_predictions(work.frame, work.folder / f"{name}.tsv")
    owners = [c for c in dataset.DATASET_CLASSES if name in getattr(c, "DATASET_MD5", {})]
    kept = [(c, c.DATASET_MD5.pop(name)) for c in owners if name in c.DATASET_MD5]
    try:
        knows = [owner for owner in dataset.DATASET_CLASSES if name in owner.supported_datasets()]
        return (knows[0] if knows else getattr(dataset, work.table.benchmark.scoring.scorer))(dataset=name)
    finally:
        for owner, md5 in kept:
            owner.DATASET_MD5[name] = md5


@contextlib.contextmanager
def _guards(work: Path, judge: Judged | None) -> Iterator[None]:
    """Replace, while scoring, what would draw at random, collide with another run, ask the network, or crawl."""
    modules = [importlib.import_module(f"vlmeval.dataset.{m}") for m in SCORING]
    choice = importlib.import_module("vlmeval.dataset.utils.multiple_choice")
    patches: list[tuple[object, str, object]] = [(choice, "rd", _NoDice()), (choice, "track_progress_rich", _in_turn)]
    # Its circular scoring writes /tmp/<time to the second>.tsv: two runs would read each other's rows.
    patches.append((choice, "timestr", lambda *_, **__: f"../{str(work).lstrip('/')}/circular"))
    for module in modules:
        everywhere = {"track_progress_rich": _in_turn, "build_judge": lambda **_: _Working(judge)}
        patches += [(module, name, value) for name, value in everywhere.items() if hasattr(module, name)]
        if hasattr(module, "mp"):  # sixteen copies of this process, for a few string comparisons
            patches.append((module, "mp", SimpleNamespace(Pool=_NoPool)))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


class _NoDice:
    """Stands where VLMEvalKit would draw a random option for an answer that its judge could not read."""

    def choice(self, options: Sequence[str]) -> str:
        raise RunFailed("an answer was left to chance by VLMEvalKit's scoring: nothing is scored at random here")


class _NoPool:
    """multiprocessing's Pool, in this process."""

    def __init__(self, *_: object) -> None: ...

    def map(self, func: Callable[[object], object], tasks: Sequence[object]) -> list[object]:
        return [func(task) for task in tasks]


class _Working:
    def __init__(self, judge: Judged | None) -> None:
        self._judge = judge

    def working(self) -> bool:
        return self._judge is not None

    def generate(self, prompt: str, **settings: object) -> str:
        if self._judge is None:
            raise RunFailed("VLMEvalKit asked for a judge that this run does not have")
        return self._judge.generate(prompt, **settings)


def _in_turn(
    func: Callable, tasks: Sequence[object], save: str | None = None, keys: Sequence[object] | None = None, **_: object
) -> list[object]:
    """track_progress_rich without threads, without a bar, and with one save instead of one an item."""
    results = [
        func(**t) if isinstance(t, dict) else func(*t) if isinstance(t, (list, tuple)) else func(t) for t in tasks
    ]
    if save is not None:
        from vlmeval.smp import dump, load

        earlier = load(save) if Path(save).exists() else {}
        dump({**earlier, **dict(zip(keys or [], results, strict=bool(keys)))}, save)
    return results


def _read(
    work: _Work, returned: pd.DataFrame | dict[str, float], expected: set[str], judged: Judged | None
) -> Evaluated:
    """The headline and every row's verdict, from what `evaluate` returned and left beside the predictions."""
    import pandas as pd

    table = pd.DataFrame([returned]) if isinstance(returned, dict) else returned
    found = work.table.benchmark.scoring.evaluated(work, table, judged)
    for index, verdict in found.verdicts.items():
        if judged is not None and index in judged.raw:
            verdict.extras["judge_reply"] = judged.raw[index]
    whole = found.headline == found.headline and set(found.verdicts) == expected
    return found if whole else replace(found, headline=None)
