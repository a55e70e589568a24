"""The GenEval task: prompts are drawn, or read from a folder; images are judged, and everything is kept.

A batch of which a resumed run lacks anything is drawn and judged whole, so that a run that was killed ends with the
very numbers of one that was not.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from armor_eval.base.images import make_durable, read_image, write_image
from armor_eval.engine import Described, Outcome, Prompt, Ready, Unit
from armor_eval.engine.task import Progress
from armor_eval.models.base import DrawsImages, NotAsked
from armor_eval.models.drawing import device_of, is_blank
from armor_eval.profiles import ProfileSpec
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import label
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, ScorerInfo, Subset
from armor_eval.tasks.geneval.colors import ColorJudge, load_colors
from armor_eval.tasks.geneval.detectors import Detector, load_detector
from armor_eval.tasks.geneval.folders import (
    IMAGES,
    SAMPLES,
    ImageFolder,
    folder_name,
    sample_path,
    seed_of,
    write_metadata,
)
from armor_eval.tasks.geneval.judging import Judged, Stopwatch, judge_images, overlay
from armor_eval.tasks.geneval.prompts import TASKS, PromptSet, load_vocabulary, own_prompts
from armor_eval.tasks.geneval.scoring import outcome
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import UserError
from armor_model.base.files import write_file
from armor_model.base.hashing import sha256_file, sha256_json, sha256_text
from armor_model.base.images import BadImageError
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.models.base import Model

Read = tuple[Any, str | None]
"""An image as it is judged, and what had to be done to read it."""


def drawn_elsewhere(root: Path, files: Mapping[tuple[int, int], Path]) -> NotAsked:
    """Stands for the model of a folder of images, by (prompt, sample); known by their content."""
    digest = sha256_json({f"{i}/{k}": sha256_file(path) for (i, k), path in sorted(files.items())})
    return NotAsked(ModelInfo(spec=f"images:{root}", name=root.resolve().name, fingerprint=digest))


class GenEvalTask:
    """Draw `samples` images of each prompt, or take those of the folder `images`, and judge what they show.

    `limit`: that many prompts, spread evenly over the six tasks; `seed` chooses them, and seeds the images where
    `drawn_from` does not.
    `colors` may be None where no prompt names a colour. `overlays`: also keep each image with its detections drawn.
    """

    whole_batches = True

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
        self._prompts, self._detector, self._colors, self._folder = prompts, detector, colors, images
        self._samples, self._rules, self._overlays = samples, rules, overlays
        self._seed = seed if drawn_from is None else drawn_from
        chosen, self._subset = choose_prompts(prompts, limit, seed, samples)
        self._pairs = {f"{i:05d}/{k:05d}": (i, k) for i in chosen for k in range(samples)}
        """Item's id -> (prompt index, sample)."""
        self._metas = prompts.metadata
        self._watch = Stopwatch()
        self._checking = threading.Lock()

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

    def requests(self, units: Sequence[Unit], folder: Path) -> list[Prompt | Ready | Exception]:
        """Images that are on the disk, or else the whole batch's prompts: an image may hang on those drawn beside it.
        The judges are tried on a known image before the first one is drawn."""
        with self._checking:
            if self._watch.started is None:
                self._detector.self_check(self._rules)
                self._watch.started = time.perf_counter()
        found = [self._read(self._pairs[unit.id], folder / IMAGES) for unit in units]
        if self._folder is None and any(isinstance(f, Exception) for f in found):
            pairs = [self._pairs[unit.id] for unit in units]
            return [
                Prompt(unit.id, self._metas[pair[0]].prompt, seed_of(self._seed, *pair))
                for unit, pair in zip(units, pairs, strict=True)
            ]
        return [f if isinstance(f, Exception) else Ready(f) for f in found]

    def _read(self, pair: tuple[int, int], images: Path) -> Read | BadImageError:
        """The user's image of a pair, or the one that this run drew."""
        file = images / sample_path(*pair) if self._folder is None else self._folder.files.get(pair)
        if file is None:
            return BadImageError("the picture is missing")
        try:
            return read_image(file, images if self._folder is None else self._folder.root)
        except BadImageError as error:
            return error

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[object], bundle: Bundle
    ) -> list[Item]:
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

    def _store(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Any], images: Path
    ) -> list[Read | Exception]:
        """Images into the run's folder and to the disk, in GenEval's layout. What is drawn is judged as stored, never
        from memory, and an image that is there already is left as it is."""
        found: list[Read | Exception] = []
        files = [images / sample_path(*self._pairs[unit.id]) for unit in units]
        for unit, request, output, file in zip(units, requests, outputs, files, strict=True):
            pair = self._pairs[unit.id]
            write_metadata(images, pair[0], unit.gold)
            if isinstance(request, Prompt):
                there = self._read(pair, images)
                if isinstance(there, Exception) and not isinstance(output, Exception):
                    write_image(file, output)
                    there = self._read(pair, images)
                output = output if isinstance(output, Exception) and isinstance(there, Exception) else there
            elif self._folder is not None and not isinstance(output, Exception):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_file(file, self._folder.files[pair].read_bytes(), sync=False)
            found.append(output)
        make_durable(file for file in files if file.exists())
        return found

    def _item(self, unit: Unit, found: Read | Exception, judged: Judged | None, seconds: float) -> Item:
        pair = self._pairs[unit.id]
        prompt = self._metas[pair[0]].prompt
        extras: JsonObject = {"seed": seed_of(self._seed, *pair)} if self._folder is None else {}
        if "held_out" in unit.gold:
            extras["held_out"] = unit.gold["held_out"]
        fields: JsonObject = {
            "id": unit.id,
            "cluster": unit.cluster,
            "group": unit.group,
            "prompt": prompt,
            "prompt_sha256": sha256_text(prompt),
            "gold": unit.gold,
            "seconds": seconds,
            "extras": extras,
        }
        if isinstance(found, Exception) or judged is None:
            reason = " ".join(str(found).split())[:300] or type(found).__name__
            return Item(**fields, status="error", reason=reason)
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
        timing = self._watch.timing(bundle.asked_seconds)
        return outcome(bundle, len(self._pairs), {"timing": timing, "notes": notes}, lost)


def own_judging(spec: ProfileSpec) -> tuple[PromptSet, Detector, ColorJudge]:
    """A profile's own prompts and judges, as GenEvalTask takes them."""
    vocabulary, device = load_vocabulary(spec.name), device_of(None)
    detector = load_detector(spec.detector, vocabulary, weights=None, download=False, device=device, batch=None)
    colors = load_colors(vocabulary, weights=None, download=False, device=device)
    return own_prompts(vocabulary), detector, colors


def choose_prompts(prompts: PromptSet, limit: int | None, seed: int, samples: int) -> tuple[list[int], Subset | None]:
    """Indices of the prompts to draw; with a limit, from each task in turn, seeded."""
    if limit is None or limit >= len(prompts.records):
        return list(range(len(prompts.records))), None
    generator = random.Random(seed)
    queues = [[i for i, r in enumerate(prompts.records) if r["tag"] == tag] for tag in TASKS]
    for q in queues:
        generator.shuffle(q)
    order = [q[k] for k in range(max(map(len, queues))) for q in queues if k < len(q)]
    chosen = sorted(order[:limit])
    rule = f"prompt, {samples} pictures each"
    items, of = limit * samples, len(prompts.records) * samples
    return chosen, Subset(rule=rule, limit=limit, seed=seed, items=items, of_items=of)
