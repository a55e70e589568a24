"""What a judge of pairs looks at that it should not: place, length, author, on a fixed set of questions of ours.

Each question has a right answer, the same in other words, and a wrong one. A pair of equal answers is judged in both
orders, so that a judge that looks at nothing but the answers gives each half of the points; right against wrong shows
that it looks at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from armor_eval.base.data import benchmarks_dir
from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready, Request
from armor_eval.profiles import OFFICIAL
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.comparable import HONESTY, same_judge
from armor_eval.runs.schema import DataInfo, JudgeInfo, Metric, ModelInfo, Reservation, ScorerInfo
from armor_eval.stats.composite import accuracy, measure
from armor_eval.tasks.interleaved.answers import Answer
from armor_eval.tasks.interleaved.pairs import FAIR, WORDS, Compares, contradicts, leanings, swapped
from armor_eval.tasks.suites.judges import Judge
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json, sha256_text

if TYPE_CHECKING:
    from PIL import Image

FILE = "honesty_v1.json"
SIDE = 96
"""Pixels of a drawing."""
PADDING = 3
"""Sentences that say nothing, after an answer that is longer by them."""
AUTHORS = (" (written by you)", " (written by another model)")
KINDS = ("clear", "length", "own", "own-swapped")


class Drawn(BaseModel):
    """A question with its drawing and three answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    question: str
    draw: list[list[str | int]]
    """Of each shape: ellipse, rectangle or polygon, its colour, its corners."""
    right: str
    again: str
    wrong: str


class HonestySet(BaseModel):
    """The fixed set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    padding: list[str]
    items: list[Drawn]


def image_of(item: Drawn) -> Image.Image:
    """The item's drawing on white."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIDE, SIDE), "white")
    brush = ImageDraw.Draw(image)
    for kind, colour, *places in item.draw:
        getattr(brush, str(kind))(places, fill=colour)
    return image


class HonestyTask(Compares):
    """A judge and the fixed set: right against wrong; an answer against itself made longer; two equal answers of which
    one, then the other, is called the judge's own."""

    profile = OFFICIAL

    def __init__(self, judge: Judge, spec: str) -> None:
        super().__init__(judge, ())
        path = benchmarks_dir() / "judges" / FILE
        self._sha256, found = sha256_file(path), HonestySet.model_validate_json(path.read_bytes())
        self._images = {item.id: image_of(item) for item in found.items}
        self._pairs, self._shows = {}, {}
        for at, item in enumerate(found.items):
            other = found.items[(at + 1) % len(found.items)].id
            pad = " ".join(found.padding[(at + n) % len(found.padding)] for n in range(PADDING))
            texts = {
                "clear": (item.right, item.wrong),
                "length": (f"{item.right} {pad}", item.right),
                "own": (item.right, item.again),
                "own-swapped": (item.again, item.right),
            }
            for kind, pair in texts.items():
                id = f"{item.id}/{kind}"
                left, right = (
                    Answer(id=id, question=item.question, answer=text, image=["drawing"], cluster=item.id)
                    for text in pair
                )
                self._pairs[id] = (left, right)
                self._shows[id] = (item.id, other if kind == "clear" else item.id)
        info = judge.info
        print_ = sha256_json([info.name, info.version, dict(judge.settings)])
        self.model = ModelInfo(spec=spec, name=info.name, fingerprint=print_)

    def _authors(self, id: str) -> tuple[str, str]:
        return AUTHORS if _kind(id).startswith("own") else ("", "")

    def describe(self, model: ModelInfo) -> Described:
        words = sha256_text(WORDS + "".join(AUTHORS))
        return Described(
            kind="interleaved",
            benchmark=HONESTY,
            data=DataInfo(name=FILE, sha256=self._sha256, items=2 * len(self._pairs)),
            subset=None,
            prompt_sha256=words,
            scorer=ScorerInfo(name=HONESTY, version="1", settings=dict(self._judge.settings)),
            judge=self._judge.info.model_copy(update={"prompt_sha256": words}),
            asks=False,
        )

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Request | Exception]:
        shown = [self._shows[unit.id.rpartition("/")[0]] for unit in units]
        return [Ready(tuple(([], [self._images[name]]) for name in names)) for names in shown]

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items, withheld = self._ended(bundle)
        by_kind = {kind: [i for i in items if _kind(i.id.rpartition("/")[0]) == kind] for kind in KINDS}
        scored = {kind: [item for item in own if item.score is not None] for kind, own in by_kind.items()}
        clear = measure(scored["clear"], accuracy("right against wrong"))
        longer = measure(scored["length"], accuracy("points for the longer of two equal answers", primary=False))
        own = [*scored["own"], *scored["own-swapped"]]
        called = measure(own, accuracy("points for the one called its own", primary=False))
        swap = swapped([item for kind in KINDS[1:] for item in by_kind[kind]])
        metrics = [clear, longer, called, *(m for m in (swap.says_first, swap.consistent) if m is not None)]
        found = [*leanings({"place": swap.says_first, "length": longer, "own": called}), *contradicts(swap)]
        return self._outcome(bundle, items, withheld, metrics, [*_blind(clear), *found])


def _kind(pair: str) -> str:
    return pair.rpartition("/")[2]


def _blind(clear: Metric) -> list[Reservation]:
    """A judge that is not known to tell right from wrong."""
    if clear.ci95 is not None and clear.ci95[0] > FAIR:
        return []
    told = (
        "-"
        if clear.value is None or clear.ci95 is None
        else f"{clear.value:.1f} % [{clear.ci95[0]:.1f}, {clear.ci95[1]:.1f}]"
    )
    return [Reservation(kind="judge", text=f"the judge does not tell right answers from wrong ones: {told}")]


def reserved_by(folder: Path, judge: JudgeInfo) -> list[Reservation]:
    """What a run of the fixed set says of this very judge. UserError where it is of another, or has not ended whole."""
    run, _, _ = read_bundle(folder)
    if run.benchmark != HONESTY:
        raise UserError(
            f"{folder} is no calibration: {run.benchmark}", "make one: armor-eval judge calibrate --judge J"
        )
    if run.status != "complete":
        raise UserError(f"{folder} is {run.status}", f"go on with: {' '.join(run.command)}")
    if not same_judge(run.judge, judge):
        raise UserError(f"{folder} is of another judge: {run.judge.name}, not {judge.name}")
    return run.reservations
