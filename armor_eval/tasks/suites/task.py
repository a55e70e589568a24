"""The suite task: prompts are drawn, or their images read from a folder; each image is stored, then judged as stored.

A missing image, a judge that fails and a reply that no rule reads each cost their image its score, are counted, and
withhold the headline.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.base.images import make_durable, read_image, write_image
from armor_eval.engine import Conversation, Described, Outcome, Prompt, Ready, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import DrawsImages, RespondsFreely
from armor_eval.models.drawing import is_blank
from armor_eval.runs.blank import blank_of, reserve_blank
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import CUSTOM
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, Reservation, ScorerInfo, Scores, Subset
from armor_eval.stats.composite import measure
from armor_eval.tasks.geneval.folders import IMAGES, seed_of
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.images import DrawnImages, file_names, write_sheets
from armor_eval.tasks.suites.items import SuiteData, SuiteItem, filled
from armor_eval.tasks.suites.judges.base import Ask, Judge, Reading, Shown, UnreadReply
from armor_eval.tasks.suites.reductions import REDUCTIONS
from armor_model.base.errors import RunFailed, UserError, one_line
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.images import BadImageError, decoded
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.models.base import Model

Read = tuple[Any, str | None]
"""An image as it is judged, and what had to be done to read it."""


class SuiteTask:
    """Draw `samples` images of each prompt, or take those of `images`, and have the judge look at them.

    `chosen`: indices of the items (choose_items). `seed` seeds the images.
    """

    whole_batches = True

    def __init__(
        self,
        suite: Suite,
        data: SuiteData,
        judge: Judge,
        chosen: Sequence[int],
        *,
        images: DrawnImages | None = None,
        subset: Subset | None = None,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        self.name, self._suite, self._own = suite.judged_by(judge.info.name)
        self._declared, self._data, self._judge, self._images = suite, data, judge, images
        self._samples, self._seed, self._subset = samples or suite.samples, seed, subset
        self._template = self._suite.template if data.template is None else data.template
        self._system = self._suite.system if data.system is None else data.system
        pairs = [(i, k) for i in chosen for k in range(self._samples)]
        self._pairs = {f"{data.items[i].id}/{k}": (i, k) for i, k in pairs}
        """Item's id -> (index, sample)."""
        self._names = file_names(self._suite, data.items, self._samples)
        self._ready, self._judged, self._judging, self._lock = False, False, 0.0, threading.Lock()

    def check(self, model: Model) -> None:
        if self._images is not None:
            return
        needs = RespondsFreely if any(item.sources for item in self._data.items) else DrawsImages
        if not isinstance(model, needs):
            raise UserError(f"{model.info.name} cannot draw for {self.name}", "see armor-eval list")

    def describe(self, model: ModelInfo) -> Described:
        suite, data, judge = self._suite, self._data, self._judge
        words = sha256_json([self._system, self._template])
        settings = {"reduction": suite.reduction, "options": suite.options, "kind": suite.judge, **judge.settings}
        other = f"judged by {judge.info.name}, not by the suite's own judge {suite.own_judge}"
        return Described(
            kind="suite",
            benchmark=self.name,
            data=DataInfo(name=self._declared.name, sha256=data.sha256, items=len(data.items) * self._samples),
            subset=self._subset,
            prompt_sha256=sha256_text("{prompt}"),
            scorer=ScorerInfo(name=f"suite-{self._declared.name}", version="1", settings=settings),
            judge=judge.info.model_copy(update={"prompt_sha256": words}),
            protocol={
                "protocol": self._declared.name if self._samples == suite.samples else CUSTOM,
                "prompts": data.content_sha256[:16],
                "samples": str(self._samples),
                "guidance": "the model's own" if self._images is None else "not stated",
            },
            seeds={"pictures": self._seed},
            asks=self._images is None,
            extras={
                "suite": self._declared.recorded(),
                "notes": [*data.notes, *(self._images.notes if self._images else ())],
                "proven": suite.proven or "unproven: no golden number exists",
            },
            reservations=[] if self._own else [Reservation(kind="judge", text=other)],
        )

    def units(self) -> Sequence[Unit]:
        items = self._data.items
        return [Unit(id, items[i].cluster or items[i].id, items[i].group) for id, (i, _) in self._pairs.items()]

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Any]:
        """Images that are on the disk, or else the whole batch's prompts: an image may hang on those drawn beside it.
        The judge is loaded and tried before the first image is drawn."""
        with self._lock:
            if not self._ready:
                self._judge.prepare(self._suite.judge)
                self._ready = True
        found = [self._read(unit, folder / IMAGES) for unit in units]
        if self._images is None and any(isinstance(f, Exception) for f in found):
            return [self._request(unit) for unit in units]
        return [f if isinstance(f, Exception) else Ready(f) for f in found]

    def _request(self, unit: Unit) -> Prompt | Conversation:
        index, sample = self._pairs[unit.id]
        item, seed = self._data.items[index], seed_of(self._seed, index, sample)
        if not item.sources:
            return Prompt(unit.id, item.prompt, seed)
        shown = [{"type": "image", "image": read_image(path, path.parent)[0]} for path in item.sources]
        return Conversation(
            unit.id, [{"role": "user", "content": [*shown, {"type": "text", "text": item.prompt}]}], seed
        )

    def _read(self, unit: Unit, images: Path) -> Read | BadImageError:
        """The user's image of a unit, or the one that this run drew."""
        try:
            if self._images is not None:
                return self._images.read(*self._pairs[unit.id])
            return read_image(self._file(unit, images), images)
        except BadImageError as error:
            return error

    def _file(self, unit: Unit, images: Path) -> Path:
        return images / f"{self._names[self._pairs[unit.id]]}.png"

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[object], bundle: Bundle
    ) -> list[Item]:
        found = self._store(units, requests, outputs, bundle.path / IMAGES)
        since = time.perf_counter()
        shown = {u.id: self._shown(u, f[0]) for u, f in zip(units, found, strict=True) if not isinstance(f, Exception)}
        looked = dict(zip(shown, self._look(list(shown.values())), strict=True)) if shown else {}
        self._refuse_dead_judge(shown, looked)
        took = time.perf_counter() - since
        self._judging += took
        seconds = round(took / len(units), 4)
        items = [self._item(u, f, looked.get(u.id), seconds) for u, f in zip(units, found, strict=True)]
        sources = {id: [bundle.add_image(source) for source in one.images[:-1]] for id, one in shown.items()}
        return [item.model_copy(update={"images": sources.get(item.id, [])}) for item in items]

    def _look(self, shown: list[Shown]) -> list[list[Reading] | Exception]:
        if self._suite.judge == "vqa_prob":
            return self._judge.probabilities(shown)
        looked = self._replies(shown)
        for _ in range(self._suite.attempts - 1):
            unread = [at for at, (one, found) in enumerate(zip(shown, looked, strict=True)) if self._unread(one, found)]
            again = self._replies([shown[at] for at in unread])
            looked = [dict(zip(unread, again, strict=True)).get(at, found) for at, found in enumerate(looked)]
        return looked

    def _replies(self, shown: list[Shown]) -> list[list[Reading] | Exception]:
        """Each image's replies; images whose replies have the same room are asked about together."""
        rooms = [one.item.max_new_tokens or self._suite.max_new_tokens for one in shown]
        found: dict[int, list[Reading] | Exception] = {}
        for room in dict.fromkeys(rooms):
            places = [at for at, own in enumerate(rooms) if own == room]
            found |= zip(places, self._judge.replies([shown[at] for at in places], room), strict=True)
        return [found[at] for at in range(len(shown))]

    def _unread(self, one: Shown, found: list[Reading] | Exception) -> bool:
        if isinstance(found, Exception):
            return False
        try:
            REDUCTIONS[self._suite.reduction].score(self._suite, one.item, found)
        except UnreadReply:
            return True
        return False

    def _refuse_dead_judge(self, shown: Mapping[str, Shown], looked: JsonView) -> None:
        """RunFailed where a judge fails on all of the first images: it would on all that are still to be drawn. What is
        recorded may begin anywhere."""
        failed = [reading for reading in looked.values() if isinstance(reading, Exception)]
        several = len({one.item.id for one in shown.values()}) > 1
        if not self._judged and several and len(failed) == len(looked) and self._judge.info.endpoint != "recorded":
            raise RunFailed(f"the judge failed on the first {len(failed)} images: {one_line(str(failed[0]))[:200]}")
        self._judged = True

    def _shown(self, unit: Unit, image: Image.Image) -> Shown:
        index, sample = self._pairs[unit.id]
        item = self._data.items[index]
        sources = [read_image(path, path.parent)[0] for path in item.sources]
        asks = tuple(Ask(p, filled(self._template, item, p), self._system) for p in item.probes)
        if self._suite.jpeg_quality is not None:
            image = _as_jpeg(image, self._suite.jpeg_quality)
        return Shown(item, sample, (*sources, image), asks, self._suite.image_last)

    def _store(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Any], images: Path
    ) -> list[Read | Exception]:
        """Images into the run's folder and to the disk. What is drawn is judged as stored, never from memory, and an
        image that is there already is left as it is."""
        found: list[Read | Exception] = []
        for unit, request, output in zip(units, requests, outputs, strict=True):
            file = self._file(unit, images)
            if isinstance(request, Ready):
                if self._images is not None and not file.exists():
                    write_image(file, output[0])
            elif isinstance(request, (Prompt, Conversation)):
                there = self._read(unit, images)
                drawn = _drawn(output)
                if isinstance(there, Exception) and not isinstance(drawn, Exception):
                    write_image(file, drawn)
                    there = self._read(unit, images)
                output = drawn if isinstance(drawn, Exception) and isinstance(there, Exception) else there
            found.append(output)
        make_durable(file for unit in units if (file := self._file(unit, images)).exists())
        return found

    def _item(self, unit: Unit, found: Read | Exception, looked: Any, seconds: float) -> Item:
        index, sample = self._pairs[unit.id]
        item = self._data.items[index]
        extras: JsonObject = {"sample": sample}
        if self._images is None:
            extras["seed"] = seed_of(self._seed, index, sample)
        fields: JsonObject = {
            "id": unit.id,
            "cluster": unit.cluster,
            "group": unit.group,
            "prompt": item.prompt,
            "prompt_sha256": sha256_text(item.prompt),
            "seconds": seconds,
            "extras": extras,
        }
        if isinstance(found, NoImageError) and self._suite.without_image is not None:
            nothing = [Reading(self._suite.without_image) for _ in item.probes]
            return self._scored(item, nothing, {**fields, "reason": str(found)})
        if isinstance(found, Exception):
            return Item(**fields, status="error", reason=one_line(str(found))[:300] or type(found).__name__)
        image, note = found
        extras |= {"image": note} if note else {}
        extras["size"] = "{}x{}".format(*image.size)
        extras |= {"blank": 1} if is_blank(image) else {}
        fields["output_images"] = [f"{IMAGES}/{self._names[index, sample]}.png"]
        if isinstance(looked, Exception):
            return Item(**fields, status="error", reason=one_line(f"judge: {looked}")[:300])
        texts = [reading.text for reading in looked]
        if len(texts) > 1:
            texts = [f"{probe.text} -> {text}" for probe, text in zip(item.probes, texts, strict=True)]
        return self._scored(item, looked, {**fields, "output": "\n".join(texts)})

    def _scored(self, item: SuiteItem, looked: Sequence[Reading], fields: JsonObject) -> Item:
        """The item of what the judge said; without a score where that is unread."""
        extras = fields["extras"]
        try:
            scored = REDUCTIONS[self._suite.reduction].score(self._suite, item, looked)
        except UnreadReply as error:
            return Item(**fields, status="judge_failed", reason=one_line(f"unread: {error}")[:300])
        extras["probes"] = [
            {"id": probe.id, "skill": probe.skill, "value": value, "question": probe.text, "reply": reading.text}
            for probe, value, reading in zip(item.probes, scored.values, looked, strict=True)
        ]
        extras |= {"numbers": dict(scored.numbers)} if scored.numbers else {}
        return Item(**fields, status="ok", score=scored.score)

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        order = {id: at for at, id in enumerate(self._pairs)}
        items = sorted(bundle.items.values(), key=lambda item: order[item.id])
        scores = score_items(self._declared, items, len(self._pairs))
        write_sheets(bundle, items)
        sizes = Counter(item.extras["size"] for item in items if "size" in item.extras)
        timing = {"draw_seconds": round(bundle.asked_seconds, 3), "judge_seconds": round(self._judging, 3)}
        extras = {**bundle.run.extras, "timing": timing, "image_sizes": dict(sizes.most_common())}
        extras |= {"judge": dict(self._judge.facts)} if self._judge.facts else {}
        reservations = reserve_blank(bundle.run.reservations, *blank_of(items))
        return Outcome(items, scores, None, {"extras": extras, "reservations": reservations})


class NoImageError(BadImageError):
    """A model that may respond freely did so without an image."""


def _as_jpeg(image: Image.Image, quality: int) -> Any:
    """The image as it comes out of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    with decoded(buffer.getvalue()) as opened:
        return opened.convert("RGB")


def _drawn(output: object) -> Any:
    """The image of a model's output: of a free response the first one, else an exception that says there is none."""
    if isinstance(output, list):
        return next((part for part in output if not isinstance(part, str)), NoImageError("the response holds no image"))
    return output


def score_items(suite: Suite, items: Sequence[Item], expected: int) -> Scores:
    """The suite's numbers with intervals by prompt; the headline is withheld while an image has no score."""
    scored = [item for item in items if item.score is not None]
    lost = expected - len(scored)
    withheld = f"{lost} of {expected} images have no score" if lost else None
    metrics = []
    for composite in REDUCTIONS[suite.reduction].composites(suite):
        metric = measure(scored, composite)
        if metric.n == 0 and not composite.primary:
            continue
        if composite.primary and withheld:
            metric = metric.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
        metrics.append(metric)
    counts = Counter(item.status for item in items)
    return Scores(metrics=metrics, counts=counts, expected_items=expected, blank=blank_of(items)[0], withheld=withheld)


def choose_items(
    items: Sequence[SuiteItem], limit: int | None, seed: int, samples: int
) -> tuple[list[int], Subset | None]:
    """Indices of the items to draw; with a limit, from each group in turn, seeded."""
    if limit is None or limit >= len(items):
        return list(range(len(items))), None
    generator = random.Random(seed)
    queues: dict[str | None, list[int]] = {}
    for index, item in enumerate(items):
        queues.setdefault(item.group, []).append(index)
    for queue in queues.values():
        generator.shuffle(queue)
    longest = max(map(len, queues.values()))
    order = [queue[k] for k in range(longest) for queue in queues.values() if k < len(queue)]
    rule = f"prompt, {samples} images each"
    subset = Subset(rule=rule, limit=limit, seed=seed, items=limit * samples, of_items=len(items) * samples)
    return sorted(order[:limit]), subset
