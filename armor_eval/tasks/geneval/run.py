"""A GenEval run from prompts to a bundle: draw (or read) pictures, judge them, keep everything, score.

Drawing happens in a thread of its own, one chunk ahead of judging. A chunk is always drawn and judged whole, whatever
part of it a resumed run still lacks, so that a run that was killed ends with the very numbers of one that was not.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from armor_eval.models.base import Decoding, DrawsImages
from armor_eval.models.drawing import is_blank
from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, Profile, Run, ScorerInfo, Scores, Subset
from armor_eval.tasks.geneval import pictures as P
from armor_eval.tasks.geneval.colors import ColorJudge
from armor_eval.tasks.geneval.detectors import Detector
from armor_eval.tasks.geneval.folders import ImageFolder
from armor_eval.tasks.geneval.judging import Judged, Stopwatch, judge_pictures
from armor_eval.tasks.geneval.processes import Processes
from armor_eval.tasks.geneval.prompts import Metadata, PromptSet
from armor_eval.tasks.geneval.protocols import label_of
from armor_eval.tasks.geneval.scoring import finish
from armor_eval.tasks.geneval.verdicts import Rules
from armor_eval.tasks.geneval.vocabulary import TASKS
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.hashing import sha256_json, sha256_text

IMAGES = "images"
"""Folder of a run that holds the pictures in GenEval's layout."""
Pair = tuple[int, int]
"""(prompt index, sample)."""
MISSING = P.UnreadablePictureError("the picture is missing")


@dataclass(frozen=True)
class Settings:
    """What a user chose."""

    profile: Profile
    command: list[str]
    decoding: Decoding | None = field(default_factory=Decoding)
    """None where nothing is drawn."""
    rules: Rules = field(default_factory=Rules)
    samples: int = P.SAMPLES
    limit: int | None = None
    """Prompts, spread evenly over the six tasks."""
    seed: int = 0
    """Base of the pictures' own seeds, and of the subset's choice."""
    batch_size: int = 16
    """Pictures drawn and judged together."""
    overlays: bool = False
    """Also keep each picture with its detections drawn on it."""


@dataclass
class Finished:
    path: Path
    run: Run
    scores: Scores


def choose_prompts(prompts: PromptSet, limit: int | None, seed: int, samples: int) -> tuple[list[int], Subset | None]:
    """Indices of the prompts to draw; with a limit, from each task in turn, seeded."""
    import random

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


def describe(
    prompts: PromptSet, subset: Subset | None, model: ModelInfo, detector: Detector, colors: ColorJudge | None,
    s: Settings, processes: int, drawing: dict[str, Any] | None = None,
) -> Run:  # fmt: skip
    """run.json as it stands at the start."""
    settings = {**detector.settings, **(colors.settings if colors else {}), **asdict(s.rules)}
    run = Run(
        run_id=sha256_json(["geneval", model.fingerprint, prompts.sha256, provenance.now()])[:16],
        kind="geneval",
        benchmark="geneval",
        command=s.command,
        profile=s.profile,
        status="running",
        subset=subset,
        model=model,
        data=DataInfo(name=prompts.name, sha256=prompts.sha256, items=len(prompts.records) * s.samples),
        prompt_sha256=sha256_text("{prompt}"),
        scorer=ScorerInfo(name="geneval-official-rules", version="af4902f", settings=settings),
        judge=JudgeInfo(name=str(detector.settings["detector"]), endpoint="none"),
        decoding=s.decoding.model_dump() if s.decoding is not None else {},
        seeds={"pictures": s.seed},
        packages=provenance.packages(),
        device=provenance.device(processes),
        git_commit=provenance.git_commit(),
        started=provenance.now(),
        extras={
            "prompts_are_official": prompts.official,
            "samples": s.samples,
            **({"drawing": drawing} if drawing is not None else {}),
        },
    )
    return run.model_copy(update={"protocol": label_of(run, prompts.content_sha256)})


@dataclass
class Source:
    """Where pictures come from: a model that draws, or a folder."""

    info: ModelInfo
    model: DrawsImages | None = None
    folder: ImageFolder | None = None


def run_geneval(
    source: Source,
    prompts: PromptSet,
    detector: Callable[[], Detector],
    colors: Callable[[], ColorJudge | None],
    out: Path,
    s: Settings,
    processes: Processes | None = None,
    progress: Callable[[int, int], Callable[[int, int], None]] | None = None,
) -> Finished | None:
    """Measure into the bundle `out`, or finish what is there; None in every process but the first.

    `detector` and `colors` load on call: a finished run is shown without them.
    """
    processes = processes or Processes()
    chosen, subset = choose_prompts(prompts, s.limit, s.seed, s.samples)
    drawing = source.model.settings(s.decoding) if source.model else None
    judge, namer = detector(), colors()
    if processes.first:
        run = describe(prompts, subset, source.info, judge, namer, s, processes.count, drawing)
        bundle = Bundle.open(out, run, again=lambda item: not all(P.is_whole(out / p, out) for p in item.output_images))
    processes.wait()
    if not processes.first:
        bundle = Bundle.join(out)
    with bundle:
        if bundle.complete:
            return _read_finished(out) if processes.first else None
        judge.self_check(s.rules)
        pairs = [(i, k) for i in chosen for k in range(s.samples)]
        work = _Work(bundle, source, prompts, judge, namer, s)
        tick = progress(len(pairs), len(bundle.items)) if progress is not None and processes.first else None
        work.all(pairs, processes, tick)
        processes.wait()
        if not processes.first:
            return None
        bundle.adopt()
        notes = source.folder.notes if source.folder else []
        lost = source.folder.lost if source.folder else None
        scores = finish(bundle, chosen, s, work.timing(), notes, lost, getattr(source.model, "served", None))
        return Finished(bundle.path, bundle.run, scores)


def _read_finished(out: Path) -> Finished:
    run, _, scores = read_bundle(out)
    if scores is None:
        raise UserError(f"{out} says complete but has no scores.json", "remove it and measure again")
    return Finished(out, run, scores)


def item_id(pair: Pair) -> str:
    return f"{pair[0]:05d}/{pair[1]:05d}"


class _Work:
    """One process's share."""

    def __init__(self, bundle, source, prompts, detector, colors, settings) -> None:
        self.bundle, self.source, self.prompts = bundle, source, prompts
        self.detector, self.colors, self.s = detector, colors, settings
        self.metas: list[Metadata] = prompts.metadata
        self.watch = Stopwatch()
        self.drawing = 0.0
        self.started = time.perf_counter()
        self.images = bundle.path / IMAGES

    def timing(self) -> dict[str, float]:
        """Seconds by part (drawing runs beside the others), pictures, pictures a second."""
        wall = time.perf_counter() - self.started
        parts = {f"{part}_seconds": round(v, 3) for part, v in self.watch.seconds.items()}
        rate = round(self.watch.pictures / wall, 3) if wall else 0.0
        pictures = self.watch.pictures
        return {**parts, "draw_seconds": round(self.drawing, 3), "pictures": pictures, "pictures_per_second": rate}

    def all(self, pairs: list[Pair], processes: Processes, tick) -> None:
        size = self.s.batch_size
        chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)][processes.index :: processes.count]
        chunks = [c for c in chunks if any(item_id(pair) not in self.bundle.items for pair in c)]
        first = True
        for chunk, found in _ahead(self._pictures, chunks):
            missing = [pair for pair in chunk if item_id(pair) not in self.bundle.items]
            if (
                first
                and self.source.model is not None
                and len(chunk) > 1
                and all(isinstance(f, Exception) for f, _ in found)
            ):
                raise RunFailed(f"none of the first {len(chunk)} pictures could be had: {found[0][0]}")
            first = False
            since = time.perf_counter()
            judged = self._judge(chunk, found)
            seconds = (time.perf_counter() - since) / len(chunk)
            failed = 0
            for pair, (image, note), verdict in zip(chunk, found, judged, strict=True):
                if pair in missing:
                    self.bundle.append(self._item(pair, image, note, verdict, seconds))
                    failed += verdict is None
            if tick is not None:
                tick(len(missing), failed)

    def _pictures(self, chunk: list[Pair]) -> list[tuple[Any, str | None]]:
        """(picture or exception, note) of each pair: read where it is on disk already, else drawn now."""
        for i in {i for i, _ in chunk}:
            P.write_metadata(self.images, i, self.prompts.records[i])
        if self.source.folder is not None:
            found = [self._from_folder(pair) for pair in chunk]
            copies = [self.images / P.sample_path(*pair) for pair in chunk]
            P.make_durable(file for file in copies if file.exists())
            return found
        files = [self.images / P.sample_path(*pair) for pair in chunk]
        found = [self._read(file, self.images) if file.exists() else (MISSING, None) for file in files]
        lacking = [n for n, (image, _) in enumerate(found) if isinstance(image, Exception)]  # not there, empty or cut
        if lacking:
            since = time.perf_counter()
            words = [self.metas[i].prompt for i, _ in chunk]
            seeds = [P.seed_of(self.s.seed, *pair) for pair in chunk]
            drawn = self.source.model.draw(words, seeds, self.s.decoding)
            self.drawing += time.perf_counter() - since
            for n in lacking:
                found[n] = (drawn[n], None)
                if not isinstance(drawn[n], Exception):
                    P.write_picture(files[n], drawn[n])
                    # judged as stored, never from memory: what is on disk is what was scored
                    found[n] = self._read(files[n], self.images)
            P.make_durable(file for file in files if file.exists())
        return found

    def _from_folder(self, pair: Pair) -> tuple[Any, str | None]:
        file = self.source.folder.files.get(pair)
        if file is None:
            return MISSING, None
        image, note = self._read(file, self.source.folder.root)
        if not isinstance(image, Exception):
            P.write_bytes(self.images / P.sample_path(*pair), file.read_bytes())
        return image, note

    @staticmethod
    def _read(file: Path, root: Path) -> tuple[Any, str | None]:
        try:
            return P.read_picture(file, root)
        except P.UnreadablePictureError as error:
            return error, None

    def _judge(self, chunk: Sequence[Pair], found) -> list[Judged | None]:
        good = [n for n, (image, _) in enumerate(found) if not isinstance(image, Exception)]
        judged: list[Judged | None] = [None] * len(chunk)
        arrays = [P.as_array(found[n][0]) for n in good]
        metas = [self.metas[chunk[n][0]] for n in good]
        if good:
            verdicts = judge_pictures(arrays, metas, self.detector, self.colors, self.s.rules, self.watch)
            for n, array, verdict in zip(good, arrays, verdicts, strict=True):
                judged[n] = verdict
                if self.s.overlays:
                    self._overlay(chunk[n], array, verdict)
        return judged

    def _overlay(self, pair: Pair, array, verdict: Judged) -> None:
        from armor_eval.tasks.geneval.sheet import overlay

        threshold = self.s.rules.score_threshold(self.metas[pair[0]].tag)
        shown = overlay(array, verdict.found, self.detector.classes, threshold)
        P.write_picture(self.bundle.path / "overlays" / P.sample_path(*pair), shown)

    def _item(self, pair: Pair, image: Any, note: str | None, judged: Judged | None, seconds: float) -> Item:
        prompt, sample = pair
        record, meta = self.prompts.records[prompt], self.metas[prompt]
        extras: dict[str, Any] = {"seed": P.seed_of(self.s.seed, prompt, sample)} if self.source.model else {}
        if "held_out" in record:
            extras["held_out"] = record["held_out"]
        if note:
            extras["picture"] = note
        common = {
            "id": item_id(pair),
            "cluster": P.folder_name(prompt),
            "group": meta.tag,
            "prompt": meta.prompt,
            "prompt_sha256": sha256_text(meta.prompt),
            "gold": record,
            "seconds": round(seconds, 4),
        }
        if judged is None:
            reason = " ".join(str(image).split())[:300] or type(image).__name__
            return Item(**common, status="error", reason=reason, extras=extras)
        extras["size"] = "{}x{}".format(*image.size)
        if is_blank(image):
            extras["blank"] = 1
        extras |= {"detections": judged.detections, "colors": judged.colors, "margins": judged.margins}
        return Item(
            **common,
            status="ok",
            output_images=[f"{IMAGES}/{P.sample_path(*pair)}"],
            parsed={name: len(boxes) for name, boxes in judged.detections.items()},
            score=float(judged.verdict.correct),
            reason=judged.verdict.reason or None,
            extras=extras,
        )


def _ahead(make: Callable[[list[Pair]], Any], chunks: list[list[Pair]]) -> Iterator[tuple[list[Pair], Any]]:
    """(chunk, make(chunk)) in order, the next chunk being made in another thread while this one is used."""
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop = threading.Event()

    def offer(entry) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for chunk in chunks:
                if stop.is_set() or not offer((chunk, make(chunk))):
                    return
            offer(None)
        except BaseException as error:  # handed to the consumer, which raises it
            offer(error)

    thread = threading.Thread(target=work, name="drawing", daemon=True)
    thread.start()
    try:
        while (entry := ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry
    finally:
        stop.set()
        thread.join(timeout=5)
