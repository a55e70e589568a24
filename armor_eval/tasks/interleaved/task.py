"""The interleaved task of a guest profile: text, image and request held against each other exactly, without a judge.

A request of a later turn comes with the turns before it as a right answer has them, so that every model is asked the
same thing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.base.images import write_image
from armor_eval.engine import Conversation, Described, Outcome, Unit
from armor_eval.engine.task import Progress, Ready, Request
from armor_eval.models.drawing import one_line
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.bundle import Bundle, read_head
from armor_eval.runs.comparable import COMPARED, blank_of, differing, reserve_blank
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, ScorerInfo, Scores
from armor_eval.runs.served import lost
from armor_eval.tasks.drawn import SHEETS, frame_of
from armor_eval.tasks.interleaved.answers import Answer, Answers, read_answers
from armor_eval.tasks.interleaved.judging import KEPT, Comparer, Verdict, paired, verdict_of
from armor_eval.tasks.interleaved.looking import parts
from armor_eval.tasks.modality.asking import AsksRecords
from armor_eval.tasks.modality.records import from_lines, modality
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.hashing import sha256_json
from armor_model.base.sheets import Tile, contact_sheet, spread

if TYPE_CHECKING:
    from PIL import Image


HEADLINE = "all right"
PARTS = {
    "text right": "text_right",
    "image right": "image_right",
    "text and image agree": "agrees",
    "nothing beyond": "nothing_beyond",
    "agreement (F1)": "agreement",
}
"""Number -> field of the items' extras that it is the mean of."""
BASELINES = ("blind", *KEPT, "constant")
"""Asked without images; the model's answers without their images, without their texts; one answer for all."""


class InterleavedTask(AsksRecords):
    """A guest profile's interleaved requests, of one version of its file."""

    def __init__(
        self,
        profile: ProfileSpec,
        *,
        baseline: str | None = None,
        limit: int | None = None,
        seed: int = 0,
        drawn_from: int | None = None,
    ) -> None:
        if profile.guest is None:
            raise UserError(
                "answers are compared exactly in the shapes world only",
                "say --profile shapes; of other answers a judge is needed (armor-eval draw --judge)",
            )
        if baseline is not None and baseline not in BASELINES:
            raise unknown_name("baseline", baseline, BASELINES)
        self._guest, self._baseline = profile.part("interleaved"), baseline
        records, self._sha256 = from_lines(self._guest.jsonl())
        super().__init__(records, profile.part("reader").render, limit=limit, seed=seed, drawn_from=drawn_from)
        self._beside: dict[str, Callable[[], Request | Exception]] | None = None

    @property
    def _comparer(self) -> Comparer:
        comparer: Comparer = self._guest.comparer()
        return comparer

    def describe(self, model: ModelInfo) -> Described:
        blind = self._baseline == "blind"
        return Described(
            kind="interleaved",
            benchmark="interleaved",
            data=DataInfo(name=f"{self._guest.NAME}-v{self._guest.VERSION}", sha256=self._sha256, items=len(self._all)),
            subset=self._subset,
            protocol={"answers": self._baseline} if self._baseline and not blind else {},
            prompt_sha256=sha256_json([[m.model_dump() for m in r.messages] for r in self._all]),
            scorer=ScorerInfo(name="exact comparison", version="1", settings=self._comparer.info),
            seeds={"base": self._seed},
            extras={"history": "given as a right answer has it", **({"blind": True} if blind else {})},
            asks=self._baseline != "constant",
        )

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Request | Exception]:
        """Of a baseline that keeps a half: what the run beside it was answered, so that nothing is asked twice."""
        if self._beside is None:
            name = folder.name.removesuffix(f"-{self._baseline}")
            self._beside = told_in(folder.with_name(name), folder) if self._baseline in KEPT else {}
        return [self._beside[unit.id]() if unit.id in self._beside else self._request(unit) for unit in units]

    def _request(self, unit: Unit) -> Request | Exception:
        if self._baseline == "constant":
            scene = self._guest.CONSTANT
            return Ready([self._guest.told(scene), self._image(str(scene))])
        request = super()._request(unit)
        if self._baseline == "blind" and isinstance(request, Conversation):
            for message in request.messages:
                message["content"] = [part for part in message["content"] if part["type"] != "image"]
        return request

    def judge(
        self,
        units: Sequence[Unit],
        requests: Sequence[object],
        outputs: Sequence[Sequence[str | Image.Image] | Exception],
        bundle: Bundle,
    ) -> list[Item]:
        answers = [o if isinstance(o, Exception) else self._kept(o) for o in outputs]
        pairs = [
            [] if isinstance(answer, Exception) else paired(answer, (self._by_id[unit.id].content or {})["images"])
            for unit, answer in zip(units, answers, strict=True)
        ]
        compared = iter(self._comparer.compare([pair for one in pairs for pair in one]))
        items = []
        for unit, request, answer, own in zip(units, requests, answers, pairs, strict=True):
            record = self._by_id[unit.id]
            fields = self._asked(unit, self._request(unit) if self._baseline in KEPT else request, bundle)
            asked = {"form": record.form, "turns": record.turns, "held_out": record.held_out}
            if isinstance(answer, Exception):
                items.append(Item(**fields, status="error", reason=one_line(answer), extras=asked))
                continue
            verdict = verdict_of([next(compared) for _ in own])
            stored, more = self._answered(answer, bundle)
            given = modality(bool(stored["output"]), bool(stored["output_images"]))
            items.append(
                Item(
                    **fields,
                    **stored,
                    parsed=given,
                    score=float(verdict.right),
                    reason=_reason(verdict, given),
                    status="unparsed" if stored["output"] and not verdict.claims else "ok",
                    extras={**asked, **verdict.extras(), "told": [pair.text for pair in own], **more},
                )
            )
        return items

    def _kept(self, parts: Sequence[str | Image.Image]) -> list[str | Image.Image]:
        """What the baseline leaves of an answer."""
        texts, images = KEPT.get(self._baseline or "", (True, True))
        return [part for part in parts if (texts if isinstance(part, str) else images)]

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        items = self._scored(bundle)
        counts = Counter(item.status for item in items)
        metrics = score(items)
        scored = [item for item in items if item.score is not None]
        extras = dict(bundle.run.extras) | {
            "given": dict(Counter(str(item.parsed) for item in scored)),
            "coherence": coherence(scored),
            "figures": [] if self._baseline else [write_sheet(bundle, items)],
        }
        if (shuffled := shuffled_agreement(scored, self._guest.shuffled)) is not None:
            metrics.append(shuffled)
        blank, drawn = blank_of(items)
        scores = Scores(metrics=metrics, counts=counts, expected_items=len(self._records), blank=blank)
        reason = lost(items, "requests failed")
        reservations = reserve_blank(bundle.run.reservations, blank, drawn)
        return Outcome(items, scores, reason, {"extras": extras, "reservations": reservations})


def told_in(beside: Path, own: Path) -> dict[str, Callable[[], Request | Exception]]:
    """What a run was answered, by the request's id; nothing where it is not there, or asked another model or in another
    way than the run in `own`."""
    if beside == own or not (beside / "run.json").exists():
        return {}
    (run, scores), (other, _) = read_head(beside), read_head(own)
    fields = set(COMPARED) - {"protocol", "reservations"}
    if differing(run, other, fields) or (run.model, run.seeds) != (other.model, other.seeds) or scores is None:
        return {}
    source = read_answers(beside)
    return {row.id: partial(_told, source, row) for row in source.rows}


def _told(source: Answers, row: Answer) -> Request | Exception:
    found = parts(source, row)
    return found if isinstance(found, Exception) else Ready(found)


def _reason(verdict: Verdict, given: str) -> str | None:
    notes = [] if given == "both" else [f"wanted text and image, got {given}"]
    if given != "image" and not verdict.claims:
        notes.append("the text claims nothing")
    for right, what in ((verdict.text_right, "text"), (verdict.image_right, "image")):
        if not right:
            notes.append(f"the {what} is not what was asked for")
    if not verdict.agrees:
        notes.append("text and image disagree")
    return None if verdict.right else f"{'; '.join(notes)} (seen: {' / '.join(verdict.seen)})"


def score(items: Sequence[Item]) -> list[Metric]:
    """Answers that are right in all, by kind, of negations and later turns; then each comparison of its own."""
    from armor_eval.stats.composite import accuracy, measure

    slices = {HEADLINE: list(items)}
    for item in items:
        slices.setdefault(str(item.group), []).append(item)
    slices["negations"] = [i for i in items if i.extras["form"] == "negation"]
    slices["later turns"] = [i for i in items if i.extras["turns"] > 1]
    metrics = [
        measure(part, accuracy(name, primary=name == HEADLINE))
        for name, part in slices.items()
        if name == HEADLINE or any(i.score is not None for i in part)
    ]
    return metrics + [measure(_by(items, key), accuracy(name, primary=False)) for name, key in PARTS.items()]


def _by(items: Sequence[Item], key: str) -> list[Item]:
    """Items with a field of their extras as the score."""
    return [i.model_copy(update={"score": float(i.extras[key])}) for i in items if i.score is not None]


def coherence(items: Sequence[Item]) -> dict[str, float] | None:
    """Percent of answers whose text and image are right: both, both if they had nothing to do with each other, and
    the difference."""
    if not items:
        return None
    text, image, both = (
        sum(all(i.extras[k] for k in keys) for i in items) / len(items)
        for keys in (("text_right",), ("image_right",), ("text_right", "image_right"))
    )
    return {"both": 100 * both, "independent": 100 * text * image, "excess": 100 * (both - text * image)}


def shuffled_agreement(items: Sequence[Item], agreement: Callable[[str, str], float]) -> Metric | None:
    """Chance level of the agreement: each text against the image of the next dialogue's answer to a request of its
    kind and number of images. `agreement(text, what the image shows)` is the guest's."""
    from armor_eval.stats.composite import accuracy, measure

    groups: dict[tuple[str | None, int, int], list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group, item.extras["turns"], len(item.extras["seen"])].append(item)
    moved = []
    for group in groups.values():
        for item, other in zip(group, group[1:] + group[:1], strict=True):
            if item.cluster != other.cluster:
                pairs = list(zip(item.extras["told"], other.extras["seen"], strict=True))
                value = sum(agreement(*pair) for pair in pairs) / len(pairs)
                moved.append(item.model_copy(update={"score": value}))
    return measure(moved, accuracy("agreement (F1), texts of other answers", primary=False)) if moved else None


# --- the contact sheet -----------------------------------------------------------------------------------------------


ROWS = 3
"""Requests of a kind."""
SIDE = 96
"""Pixels of an image."""


def write_sheet(bundle: Bundle, items: Sequence[Item]) -> dict[str, str]:
    """sheets/answers.png; its entry for the run's `extras.figures`."""
    rows: list[tuple[str, Sequence[Tile]]] = []
    for group in dict.fromkeys(item.group for item in items):
        own = []
        for item in items:
            if item.group == group:
                given = [Tile(bundle.path / name, caption="given") for name in item.images]
                frame = frame_of(item.score)
                drawn = [Tile(bundle.path / name, frame, "drawn") for name in item.output_images]
                asked = item.prompt.rpartition("user: ")[2].rpartition("<image>")[2].strip()
                own.append((f"{asked} - {item.output or ''}"[:160], [*given, *drawn]))
        rows += spread(own, ROWS)
    path, title = f"{SHEETS}/answers.png", "answers of text and images, green where all is right"
    write_image(bundle.path / path, contact_sheet(rows, title=title, side=SIDE))
    return {"path": path, "title": title, "name": bundle.path.name}
