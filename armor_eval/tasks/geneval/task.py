"""The GenEval task: prompts are drawn, or read from a folder; images are judged, and everything is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.base.images import write_image
from armor_eval.engine import Described, Outcome, Prompt, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import DrawsImages
from armor_eval.models.drawing import device_of, is_blank
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import label, protocol_of, remark_of
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, Run, ScorerInfo, Scores
from armor_eval.stats.composite import Composite
from armor_eval.tasks.drawn import IMAGES, DrawnTask, Read, choose_prompts, score_items, seed_of
from armor_eval.tasks.formulas import composites_for
from armor_eval.tasks.geneval.colors import ColorJudge, load_colors
from armor_eval.tasks.geneval.detectors import Detector, load_detector
from armor_eval.tasks.geneval.folders import SAMPLES, ImageFolder, folder_name, sample_path, write_metadata
from armor_eval.tasks.geneval.judging import Judged, Stopwatch, judge_images, overlay
from armor_eval.tasks.geneval.prompts import TASKS, PromptSet, load_vocabulary, own_prompts
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import UserError, one_line
from armor_model.base.files import write_file
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from armor_eval.models.base import Model


class GenEvalTask(DrawnTask):
    """Draw `samples` images of each prompt, or take those of the folder `images`, and judge what they show.

    `limit`: that many prompts, spread evenly over the six tasks; `seed` chooses them, and seeds the images where
    `drawn_from` does not.
    `colors` may be None where no prompt names a colour. `overlays`: also keep each image with its detections drawn.
    """

    judging_threads = 2

    def __init__(
        self,
        prompts: PromptSet,
        detector: Detector,
        colors: ColorJudge | None,
        *,
        images: ImageFolder | None = None,
        samples: int = SAMPLES,
        limit: int | None = None,
        seed: int = 0,
        drawn_from: int | None = None,
        rules: Rules = Rules(),
        overlays: bool = False,
    ) -> None:
        tags = [record["tag"] for record in prompts.records]
        chosen, self._subset = choose_prompts(tags, limit, seed, samples, order=TASKS, what="pictures")
        pairs = {f"{i:05d}/{k:05d}": (i, k) for i in chosen for k in range(samples)}
        super().__init__(pairs, images, seed if drawn_from is None else drawn_from)
        self._prompts, self._detector, self._colors, self._folder = prompts, detector, colors, images
        self._samples, self._rules, self._overlays = samples, rules, overlays
        self._metas, self._watch = prompts.metadata, Stopwatch()

    def check(self, model: Model) -> None:
        if self._folder is None and not isinstance(model, DrawsImages):
            raise UserError(f"{model.info.name} cannot draw", "see armor-eval list")

    def describe(self, model: ModelInfo) -> Described:
        prompts, colors = self._prompts, self._colors
        settings = {**self._detector.settings, **(colors.settings if colors else {}), **asdict(self._rules)}
        return Described(
            kind="geneval",
            benchmark="geneval",
            data=DataInfo(name=prompts.name, sha256=prompts.sha256, items=len(prompts.records) * self._samples),
            subset=self._subset,
            prompt_sha256=sha256_text("{prompt}"),
            scorer=ScorerInfo(name="geneval-official-rules", version="af4902f", settings=settings),
            judge=JudgeInfo(name=str(self._detector.settings["detector"]), endpoint="none"),
            protocol=label(prompts.sha256, prompts.content_sha256, self._samples, settings, drawn=self._folder is None),
            seeds={"pictures": self._seed},
            asks=self._folder is None,
            extras={"prompts_are_official": prompts.official, "samples": self._samples},
        )

    def units(self) -> Sequence[Unit]:
        records = self._prompts.records
        return [Unit(id, folder_name(i), records[i]["tag"], records[i]) for id, (i, _) in self._pairs.items()]

    def _try_judges(self) -> None:
        """On an image with a known answer."""
        self._detector.self_check(self._rules)
        self._watch.started = time.perf_counter()

    def _request(self, unit: Unit) -> Prompt:
        pair = self._pairs[unit.id]
        return Prompt(unit.id, self._metas[pair[0]].prompt, seed_of(self._seed, *pair))

    def _file(self, unit: Unit, images: Path) -> Path:
        """In GenEval's layout."""
        return images / sample_path(*self._pairs[unit.id])

    def _copy(self, unit: Unit, image: Read, file: Path) -> None:
        """Byte for byte."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, not_none(self._folder).files[self._pairs[unit.id]].read_bytes(), sync=False)

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[object], bundle: Bundle
    ) -> list[Item]:
        for unit in units:
            write_metadata(bundle.path / IMAGES, self._pairs[unit.id][0], unit.gold)
        found = self._store(units, requests, outputs, bundle.path / IMAGES)
        since = time.perf_counter()
        good = [(unit, np.asarray(f[0])) for unit, f in zip(units, found, strict=True) if not isinstance(f, Exception)]
        metas = [self._metas[self._pairs[unit.id][0]] for unit, _ in good]
        arrays = [array for _, array in good]
        judged = judge_images(arrays, metas, self._detector, self._colors, self._rules, self._watch) if good else []
        by_id = {unit.id: one for (unit, _), one in zip(good, judged, strict=True)}
        for (unit, array), meta in zip(good, metas, strict=True) if self._overlays else ():
            threshold = self._rules.score_threshold(meta.tag)
            drawn = overlay(array, by_id[unit.id].instances, self._detector.classes, threshold)
            write_image(bundle.path / "overlays" / sample_path(*self._pairs[unit.id]), drawn)
        seconds = round((time.perf_counter() - since) / len(units), 4)
        return [self._item(unit, f, by_id.get(unit.id), seconds) for unit, f in zip(units, found, strict=True)]

    def _item(self, unit: Unit, found: Read | Exception, judged: Judged | None, seconds: float) -> Item:
        pair = self._pairs[unit.id]
        extras: JsonObject = {"seed": seed_of(self._seed, *pair)} if self._folder is None else {}
        if "held_out" in unit.gold:
            extras["held_out"] = unit.gold["held_out"]
        fields = unit.fields(self._metas[pair[0]].prompt, gold=unit.gold, seconds=seconds, extras=extras)
        if isinstance(found, Exception) or judged is None:
            return Item(**fields, status="error", reason=one_line(str(found))[:300] or type(found).__name__)
        image, note = found
        extras |= {"picture": note} if note else {}
        extras["size"] = "{}x{}".format(*image.size)
        extras |= {"blank": 1} if is_blank(image) else {}
        extras |= {"detections": judged.detections, "colors": judged.colors, "margins": judged.margins}
        return Item(
            **fields,
            status="ok",
            output_images=[f"{IMAGES}/{sample_path(*pair)}"],
            parsed={name: len(boxes) for name, boxes in judged.detections.items()},
            score=float(judged.verdict.correct),
            reason=judged.verdict.reason or None,
        )

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        notes, lost = (self._folder.notes, self._folder.lost) if self._folder else ([], None)
        items = sorted(bundle.items.values(), key=lambda item: item.id)
        write_detections(bundle, items)
        scores = score_run(bundle.run, items, len(self._pairs))
        extras = {"timing": self._watch.timing(bundle.asked_seconds), "notes": notes}
        return self._outcome(bundle, items, scores, extras, lost)


def own_judging(spec: ProfileSpec) -> tuple[PromptSet, Detector, ColorJudge]:
    """A profile's own prompts and judges, as GenEvalTask takes them."""
    vocabulary, device = load_vocabulary(spec.name), device_of(None)
    detector = load_detector(spec.detector, vocabulary, weights=None, download=False, device=device, batch=None)
    colors = load_colors(vocabulary, weights=None, download=False, device=device)
    return own_prompts(vocabulary), detector, colors


DETECTIONS = "detections.jsonl"


def score_run(run: Run, items: Sequence[Item], expected: int) -> Scores:
    """Metrics with intervals clustered by prompt, also of the prompts that training never showed; the headline is
    withheld while an image has no verdict, and says where the run is not of the expected protocol."""
    composites = composites_for("geneval")
    if any("held_out" in item.extras for item in items if item.score is not None):
        composites = composites + [
            replace(c, name=f"held-out {c.name}", primary=False, keep=_held_out(c)) for c in composites
        ]
    remark = remark_of(protocol_of(run), "geneval" if run.profile == "official" else run.profile)
    return score_items(items, composites, expected, "images have no verdict", remark)


def _held_out(composite: Composite) -> Callable[[Item], bool]:
    """The composite's own choice of items, and of those the prompts that training never showed."""

    def keep(item: Item) -> bool:
        return bool(item.extras.get("held_out")) and (composite.keep is None or composite.keep(item))

    return keep


def write_detections(bundle: Bundle, items: Sequence[Item]) -> None:
    """detections.jsonl, which `armor-eval geneval score` judges again."""
    lines = [
        {
            "image": item.output_images[0],
            "metadata": item.gold,
            "detections": item.extras["detections"],
            "colors": item.extras["colors"],
        }
        for item in items
        if item.status == "ok"
    ]
    write_file(bundle.path / DETECTIONS, "".join(json.dumps(line) + "\n" for line in lines))
