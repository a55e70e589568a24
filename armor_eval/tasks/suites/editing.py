"""The editing task: a source image and an instruction go in, an edited image comes out, and two things are judged:
was the change made, and did the rest stay.

Requests are a guest profile's own (judged exactly), or a file's (judged by a rubric). A line of a file is
`{"id", "source", "instruction"}` with an optional `kind`; `source` is an image beside the file.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from armor_eval.base.images import BadImageError, read_image
from armor_eval.engine import Conversation, Described, Outcome, Ready, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import RespondsFreely
from armor_eval.models.drawing import is_blank, one_line
from armor_eval.runs.blank import blank_of, reserve_blank
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, Reservation, ScorerInfo, Scores, Subset
from armor_eval.stats.composite import PERCENT, Composite, accuracy, measure, percent
from armor_eval.stats.tallies import tally_extras
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.runs.bundle import Bundle

BENCHMARK = "edit"


@dataclass(frozen=True)
class EditRequest:
    """One edit that is asked for."""

    id: str
    kind: str
    source: str
    """A file beside the requests, or what a guest profile renders."""
    instruction: str
    record: dict[str, Any]
    """The line as it stands, for the judge."""


@dataclass(frozen=True)
class EditVerdict:
    """How far one edit went; 0 to 1 each."""

    followed: float
    preserved: float
    seen: str
    """What the judge saw or said."""

    @property
    def score(self) -> float:
        """The geometric mean: nothing done scores 0, as does everything lost."""
        return (self.followed * self.preserved) ** 0.5


class EditJudge(Protocol):
    """Judges edited images beside their sources."""

    scorer: ScorerInfo
    info: JudgeInfo
    reservations: Sequence[Reservation]

    def judge(
        self, sources: Sequence[Image.Image], edited: Sequence[Image.Image], requests: Sequence[EditRequest]
    ) -> list[EditVerdict | Exception]:
        """One an edit, in order; an exception stands where there is no verdict."""
        ...


class EditTask:
    """Requests of `requests` (their sha256 beside them), each asked once with its source image.

    `source` gives a request's image; `images`: a folder of edited images, `ID.png`, instead of a model. `seed` chooses
    the subset of `limit` requests a kind and, with a request's id, seeds the answer.
    """

    whole_batches = False

    def __init__(
        self, name: str, requests: Sequence[EditRequest], sha256: str, source: Callable[[EditRequest], Image.Image],
        judge: EditJudge, *, images: Path | None = None, limit: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self._name, self._all, self._sha256, self._source, self._judge = name, requests, sha256, source, judge
        self._images, self._seed = images, seed
        self._requests, self._subset = _choose(requests, limit, seed)
        self._by_id = {request.id: request for request in self._requests}

    def check(self, model: Any) -> None:
        if self._images is None and not isinstance(model, RespondsFreely):
            raise UserError(f"{model.info.name} cannot take an image and give one", "see armor-eval list")

    def describe(self, model: ModelInfo) -> Described:
        return Described(
            kind="suite",
            benchmark=BENCHMARK,
            data=DataInfo(name=self._name, sha256=self._sha256, items=len(self._all)),
            subset=self._subset,
            prompt_sha256=sha256_text("{source}{instruction}"),
            scorer=self._judge.scorer,
            judge=self._judge.info,
            protocol={"protocol": self._name},
            seeds={"base": self._seed},
            asks=self._images is None,
            reservations=self._judge.reservations,
        )

    def units(self) -> Sequence[Unit]:
        return [Unit(r.id, r.id, r.kind, r.record) for r in self._requests]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Conversation | Ready | Exception]:
        return [self._request(self._by_id[unit.id]) for unit in units]

    def _request(self, request: EditRequest) -> Conversation | Ready | Exception:
        try:
            if self._images is not None:
                return Ready([read_image(self._images / f"{request.id}.png", self._images)[0]])
            image = self._source(request)
        except (OSError, BadImageError) as error:
            return error
        content = [{"type": "image", "image": image}, {"type": "text", "text": request.instruction}]
        seed = int(sha256_text(f"{self._seed}:{request.id}")[:8], 16)
        return Conversation(request.id, [{"role": "user", "content": content}], seed)

    def judge(
        self, units: Sequence[Unit], requests: Sequence[Any], outputs: Sequence[Any], bundle: Bundle
    ) -> list[Item]:
        asked = [self._by_id[unit.id] for unit in units]
        edited = [None if isinstance(output, Exception) else first_image(output) for output in outputs]
        sources = {r.id: self._source(r) for r, image in zip(asked, edited, strict=True) if image is not None}
        there = [(r, image) for r, image in zip(asked, edited, strict=True) if image is not None]
        found = self._judge.judge(
            [sources[r.id] for r, _ in there], [image for _, image in there], [r for r, _ in there]
        )
        verdicts = {r.id: verdict for (r, _), verdict in zip(there, found, strict=True)}
        return [
            self._item(r, o, sources.get(r.id), verdicts.get(r.id), bundle) for r, o in zip(asked, outputs, strict=True)
        ]

    def _item(
        self, request: EditRequest, output: Any, source: Any, verdict: EditVerdict | Exception | None, bundle: Bundle
    ) -> Item:
        """A model that answers without an image has edited nothing: that is an answer, and scores 0."""
        fields: dict[str, Any] = {
            "id": request.id, "cluster": request.id, "group": request.kind, "prompt": request.instruction,
            "prompt_sha256": sha256_text(request.instruction), "gold": request.record,
        }  # fmt: skip
        if isinstance(output, Exception):
            return Item(**fields, status="error", reason=one_line(output))
        fields["output"] = " ".join(part for part in output if isinstance(part, str)).strip() or None
        if verdict is None:
            verdict = EditVerdict(0.0, 0.0, "no image in the answer")
            return Item(
                **fields, score=0.0, reason=verdict.seen, status="ok", extras={"followed": 0.0, "preserved": 0.0}
            )
        image = first_image(output)
        fields |= {"images": [bundle.add_image(source)], "output_images": [bundle.add_image(image)]}
        if isinstance(verdict, Exception):
            return Item(**fields, status="judge_failed", reason=one_line(verdict))
        extras = {
            "followed": verdict.followed,
            "preserved": verdict.preserved,
            **({"blank": 1} if is_blank(image) else {}),
        }
        return Item(**fields, score=verdict.score, parsed=verdict.seen, reason=verdict.seen, status="ok", extras=extras)

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = [bundle.items[r.id] for r in self._requests if r.id in bundle.items]
        kinds = dict.fromkeys(request.kind for request in self._requests)
        metrics = [measure(items, one) for one in composites()]
        metrics += [measure([i for i in items if i.group == kind], accuracy(kind, primary=False)) for kind in kinds]
        lost = len(self._requests) - sum(item.status == "ok" for item in items)
        withheld = f"{lost} of {len(self._requests)} edits have no verdict" if lost else None
        if withheld:
            note = {"value": None, "ci95": None, "note": f"withheld: {withheld}"}
            metrics = [metric.model_copy(update=note) if metric.primary else metric for metric in metrics]
        blank, drawn = blank_of(items)
        counts = Counter(item.status for item in items)
        scores = Scores(
            metrics=metrics, counts=counts, expected_items=len(self._requests), blank=blank, withheld=withheld
        )
        return Outcome(items, scores, None, {"reservations": reserve_blank(bundle.run.reservations, blank, drawn)})


def first_image(parts: Sequence[Any]) -> Any:
    """The first image of an answer; None where there is none."""
    return next((part for part in parts if not isinstance(part, str)), None)


def composites() -> list[Composite]:
    """Edits made as asked (the headline), and its halves: how many followed the instruction, how many kept the rest."""
    half = partial(Composite, unit="%", direction="higher", bounds=PERCENT, columns=("sum", "n"), formula=percent)
    halves = [half(name, tally=partial(tally_extras, (name,))) for name in ("followed", "preserved")]
    return [accuracy("edited as asked"), *halves]


def guest_requests(records: str) -> tuple[list[EditRequest], str]:
    """A guest profile's JSON lines, with their sha256."""
    lines = [json.loads(line) for line in records.splitlines()]
    return [EditRequest(r["id"], r["kind"], r["source"], r["instruction"], r) for r in lines], sha256_text(records)


class _Line(BaseModel):
    """A line of a file of requests; further fields are kept for whoever reads the items."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    kind: str = "edit"
    source: str = Field(min_length=1)
    instruction: str = Field(min_length=1)


LINE = '{"id": "1", "source": "cat.png", "instruction": "make the cat black", "kind": "color"}'


def read_requests(path: Path) -> tuple[list[EditRequest], str]:
    """A file's requests and its sha256. UserError naming the line: not this form, an id twice, no such image."""
    try:
        raw = path.read_bytes()
        lines = raw.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the edits {path}: {error}") from None
    found: dict[str, EditRequest] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = _Line.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{path} line {number}: {where} {first['msg']}", f"expected a line like {LINE}") from None
        image = (path.parent / one.source).resolve()
        if not image.is_relative_to(path.parent.resolve()) or not image.is_file():
            raise UserError(f"{path} line {number}: no image {one.source} beside the file")
        if one.id in found:
            raise UserError(f"{path} line {number}: id {one.id!r} occurs twice")
        found[one.id] = EditRequest(one.id, one.kind, one.source, one.instruction, one.model_dump())
    if not found:
        raise UserError(f"{path} holds no edits", f"expected lines like {LINE}")
    return list(found.values()), hashlib.sha256(raw).hexdigest()


def source_in(folder: Path) -> Callable[[EditRequest], Image.Image]:
    """Opens a request's image in the folder, upright RGB."""
    return lambda request: read_image(folder / request.source, folder)[0]


def _choose(requests: Sequence[EditRequest], limit: int | None, seed: int) -> tuple[list[EditRequest], Subset | None]:
    """At most `limit` requests of each kind, seeded, in their order."""
    if limit is None:
        return list(requests), None
    generator = random.Random(seed)
    kept: set[str] = set()
    for kind in dict.fromkeys(r.kind for r in requests):
        ids = [r.id for r in requests if r.kind == kind]
        kept.update(generator.sample(ids, min(limit, len(ids))))
    if len(kept) == len(requests):
        return list(requests), None
    subset = Subset(rule="edits of a kind", limit=limit, seed=seed, items=len(kept), of_items=len(requests))
    return [r for r in requests if r.id in kept], subset
