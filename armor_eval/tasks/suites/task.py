"""The suite task: prompts are drawn, or their images read from a folder; each image is stored, then judged as stored.

A missing image, a judge that fails and a reply that no rule reads each cost their image its score, are counted, and
withhold the headline.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.base.images import read_image, write_image
from armor_eval.engine import Conversation, Described, Outcome, Prompt, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import DrawsImages, RespondsFreely
from armor_eval.models.drawing import is_blank
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import CUSTOM
from armor_eval.runs.schema import DataInfo, Item, ModelInfo, Reservation, ScorerInfo, Subset
from armor_eval.tasks.drawn import IMAGES, DrawnTask, NoImageError, Read, score_items, seed_of
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.images import DrawnImages, file_names
from armor_eval.tasks.suites.items import SuiteData, SuiteItem, filled
from armor_eval.tasks.suites.judges import Ask, Judge, Reading, Shown, UnreadReply
from armor_eval.tasks.suites.reductions import REDUCTIONS
from armor_model.base.errors import RunFailed, UserError, one_line
from armor_model.base.hashing import sha256_json, sha256_text
from armor_model.base.images import decoded
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from PIL import Image

    from armor_eval.models.base import Model


class SuiteTask(DrawnTask):
    """Draw `samples` images of each prompt, or take those of `images`, and have the judge look at them.

    `chosen`: indices of the items (tasks.drawn.choose_prompts). `seed` seeds the images.
    """

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
        self._declared, self._data, self._judge, self._subset = suite, data, judge, subset
        self._samples = samples or suite.samples
        self._template = self._suite.template if data.template is None else data.template
        self._system = self._suite.system if data.system is None else data.system
        pairs = [(i, k) for i in chosen for k in range(self._samples)]
        super().__init__({f"{data.items[i].id}/{k}": (i, k) for i, k in pairs}, images, seed)
        self._names = file_names(self._suite, data.items, self._samples)
        self._notes = [*data.notes, *(images.notes if images else ())]
        self._judged, self._judging = False, 0.0

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
                "notes": self._notes,
                "proven": suite.proven or "unproven: no golden number exists",
            },
            reservations=[] if self._own else [Reservation(kind="judge", text=other)],
        )

    def units(self) -> Sequence[Unit]:
        items = self._data.items
        return [Unit(id, items[i].cluster or items[i].id, items[i].group) for id, (i, _) in self._pairs.items()]

    def _try_judges(self) -> None:
        self._judge.prepare(self._suite.judge)

    def _request(self, unit: Unit) -> Prompt | Conversation:
        index, sample = self._pairs[unit.id]
        item, seed = self._data.items[index], seed_of(self._seed, index, sample)
        if not item.sources:
            return Prompt(unit.id, item.prompt, seed)
        shown = [{"type": "image", "image": read_image(path, path.parent)[0]} for path in item.sources]
        return Conversation(
            unit.id, [{"role": "user", "content": [*shown, {"type": "text", "text": item.prompt}]}], seed
        )

    def _file(self, unit: Unit, images: Path) -> Path:
        return images / f"{self._names[self._pairs[unit.id]]}.png"

    def _copy(self, unit: Unit, image: Read, file: Path) -> None:
        if not file.exists():
            write_image(file, image[0])

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

    def _item(
        self, unit: Unit, found: Read | Exception, looked: Sequence[Reading] | Exception | None, seconds: float
    ) -> Item:
        index, sample = self._pairs[unit.id]
        item = self._data.items[index]
        extras: JsonObject = {"sample": sample}
        if self._images is None:
            extras["seed"] = seed_of(self._seed, index, sample)
        fields = unit.fields(item.prompt, seconds=seconds, extras=extras)
        if isinstance(found, NoImageError) and self._suite.without_image is not None:
            nothing = [Reading(self._suite.without_image) for _ in item.probes]
            return self._scored(item, nothing, {**fields, "reason": str(found)})
        if isinstance(found, Exception) or looked is None:
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
        composites = REDUCTIONS[self._declared.reduction].composites(self._declared)
        scores = score_items(items, composites, len(self._pairs), "images have no score")
        timing = {"draw_seconds": round(bundle.asked_seconds, 3), "judge_seconds": round(self._judging, 3)}
        facts = {"judge": dict(self._judge.facts)} if self._judge.facts else {}
        return self._outcome(bundle, items, scores, {"timing": timing, **facts})


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """The image as it comes out of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    with decoded(buffer.getvalue()) as opened:
        return opened.convert("RGB")
