"""The understanding task: one benchmark's rows as questions, scored by the benchmark's official rule."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.engine import Described, Outcome, Unit
from armor_eval.engine.task import Progress, Request
from armor_eval.models.base import Answer, AnswersQuestions, Part, Prepares, Question
from armor_eval.models.drawing import one_line
from armor_eval.runs import provenance, served
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.protocols import protocol_of
from armor_eval.runs.schema import DataInfo, Item, JudgeInfo, ModelInfo, Profile, ScorerInfo, Subset, decoding_of
from armor_eval.tasks.understanding import prompts
from armor_eval.tasks.understanding.cells import Reading
from armor_eval.tasks.understanding.data import Told, content_made, locate, recall
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.judge import Judge
from armor_eval.tasks.understanding.prompts import UnusableRowError, build_question, count_images, decoded, item_of
from armor_eval.tasks.understanding.score import score_run, unread_reservation, write_submission
from armor_eval.tasks.understanding.table import Row, Table, limit_table, read_table
from armor_eval.tasks.understanding.thinking import Thinking
from armor_eval.tasks.understanding.tsv import stand_of
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.images import BadImageError, tile_grid

if TYPE_CHECKING:
    from armor_eval.models.base import Model

TILE_SIDE, TILE_CHARACTERS = 448, 1024
"""InternVL's tile in pixels; its 256 tokens as characters of text. Only the order of asking hangs on these."""


@dataclass(frozen=True)
class Options:
    """What a user chose about the questions, common to all benchmarks of a command."""

    limit: int | None = None
    seed: int = 0
    """Chooses the subset of `limit`."""
    data: Path | None = None
    any_data: bool = False
    """Accept a file whose md5 is not the published one, and mark the result."""
    blind: bool = False
    """Leave the images out: a baseline."""
    thinking: Thinking = "strip"
    """Whether thoughts are cut from what is scored."""
    reading: Reading = "keep-none"
    """How the cells of the TSV are read; part of the protocol label."""


def open_table(benchmark: Benchmark, profile: Profile, options: Options) -> tuple[Table, Subset | None]:
    """The rows to ask and how `--limit` chose them."""
    path = locate(benchmark, profile, options.data)
    published = profile == "official" and not options.any_data
    content = content_made(benchmark, profile) if options.data is None else None
    table = read_table(benchmark, path, need_published=published, content=content, reading=options.reading)
    return limit_table(table, options.limit, options.seed)


class UnderstandingTask:
    """One benchmark. `shared` is a bundle whose answers to the same questions are taken over (MME's serve MME-P)."""

    whole_batches = False

    def __init__(
        self,
        benchmark: Benchmark,
        profile: Profile,
        options: Options | None = None,
        *,
        judge: Judge | None = None,
        shared: Path | None = None,
    ) -> None:
        self.benchmark, self.profile, self.options = benchmark, profile, options or Options()
        self._judge, self._shared = judge, shared
        self._sizes: dict[object, list[tuple[int, int]]] = {}
        self._words: str | None = None
        """The protocol of a model that is asked in other words than ours."""

    @cached_property
    def _opened(self) -> tuple[Table, Subset | None]:
        table, subset = open_table(self.benchmark, self.profile, self.options)
        if (description := self.__dict__.get("_told")) is not None and description.sha256 != table.sha256:
            raise UserError(f"{table.path} changed while the run began", "run the same command again")
        return table, subset

    @cached_property
    def _told(self) -> Told:
        path = locate(self.benchmark, self.profile, self.options.data)
        return recall(self.benchmark, self.profile, self.options, path, self._tell)

    def _tell(self) -> Told:
        table, subset = self._opened
        self.benchmark.scoring.check(table.rows)
        return Told(
            sha256=table.sha256,
            items=len(table.rows),
            published=table.published,
            notes=table.notes,
            subset=subset,
            as_saved=any(not name.lower().endswith(".png") for row in table.rows for name in row.saved_as),
        )

    @property
    def table(self) -> Table:
        return self._opened[0]

    @cached_property
    def _rows(self) -> dict[str, Row]:
        return {row.id: row for row in self.table.rows}

    def check(self, model: Model) -> None:
        if not isinstance(model, AnswersQuestions):
            raise UserError(f"{model.info.name} cannot answer questions", "see armor-eval list")
        if self.benchmark.judge == "required" and self._judge is None:
            raise UserError(
                f"{self.benchmark.name} needs a judge",
                "give --judge openai:URL#NAME or --judge hf:ID, or leave it out of --bench",
            )
        self._words = getattr(model, "protocol", None)

    def describe(self, model: ModelInfo) -> Described:
        benchmark, file, options = self.benchmark, self._told, self.options
        return Described(
            kind="understanding",
            benchmark=benchmark.name,
            data=DataInfo(name=benchmark.dataset, split=benchmark.split, sha256=file.sha256, items=file.items),
            subset=file.subset,
            prompt_sha256=self._prompt_hash(),
            scorer=ScorerInfo(
                name=f"vlmeval.{benchmark.scoring.scorer}.evaluate",
                version=provenance.packages().get("ms-vlmeval", "?"),
                settings={
                    "answer_matching": "judge" if self._judge is not None else "exact_matching",
                    "number": benchmark.number,
                },
            ),
            judge=self._judge.info if self._judge is not None else JudgeInfo(name="exact_matching", endpoint="none"),
            protocol={"reading": options.reading, "thinking": options.thinking},
            seeds={"subset": options.seed, "decoding": None},
            extras={"data_is_published": file.published, "notes": file.notes, "blind": options.blind}
            | benchmark.declared(),
        )

    def _prompt_hash(self) -> str:
        hashed = prompts.prompt_hash(self.benchmark)
        if self._told.as_saved:
            hashed = sha256_json([hashed, "images as VLMEvalKit saves them"])  # other pixels than before
        if self._words is not None:
            hashed = sha256_json([hashed, self._words])
        return sha256_json([hashed, "blind"]) if self.options.blind else hashed

    @cached_property
    def _units(self) -> list[Unit]:
        return [Unit(row.id, row.cluster, length=self._length(row), shared=row.shown) for row in self.table.rows]

    def _length(self, row: Row) -> int:
        """Characters, a tile being as many as its tokens would be."""
        prompt, sizes = self.benchmark.prompt, []
        if row.image_cell is not None and not self.options.blind:
            if row.shown not in self._sizes:
                self._sizes[row.shown] = row.image_cell.sizes()
            sizes = self._sizes[row.shown]
        most = prompts.tiles_each(prompt, len(sizes))
        tiles = sum(math.prod(tile_grid(*size, most, TILE_SIDE)) for size in sizes)
        return len(prompts.question_text(prompt, row)) + TILE_CHARACTERS * tiles

    def units(self) -> Sequence[Unit]:
        return self._units

    def begin(self, bundle: Bundle, model: Model) -> None:
        if self._shared is not None:
            take_over(bundle, self._rows, self._shared)
        if isinstance(model, Prepares) and len(bundle.items) < len(self._rows):
            model_facts = model.prepare(images=not self.options.blind)
            bundle.update(extras={**bundle.run.extras, "model": model_facts})

    def requests(self, units: Sequence[Unit], folder: Path) -> Sequence[Request | Exception]:
        """Each image of the batch is decoded once: questions about the same one hold the same object."""
        rows = [self._rows[unit.id] for unit in units]
        images: dict[object, Sequence[Part] | BadImageError] = {}
        for row in rows:
            blind = row.image_cell is None or self.options.blind
            if row.problem is None and not blind and row.shown not in images:
                images[row.shown] = decoded(row)
        return [self._request(row, images.get(row.shown, [])) for row in rows]

    def _request(self, row: Row, images: Sequence[Part] | BadImageError) -> Question | Exception:
        if row.problem is not None:
            return UnusableRowError(f"data: the row {row.problem}")
        return (
            UnusableRowError(f"image: {images}")
            if isinstance(images, Exception)
            else build_question(self.benchmark, row, images)
        )

    def judge(
        self, units: Sequence[Unit], requests: Sequence[object], outputs: Sequence[Answer | Exception], bundle: Bundle
    ) -> list[Item]:
        return [self._item(self._rows[u.id], r, o) for u, r, o in zip(units, requests, outputs, strict=True)]

    def _item(self, row: Row, request: object, output: Answer | Exception) -> Item:
        images = count_images(request) if isinstance(request, Question) else int(row.problem is None)
        if isinstance(output, UnusableRowError):
            output = Answer(error=str(output))
        elif isinstance(output, Exception):
            output = Answer(error=one_line(output, 500))
        return item_of(self.table, row, output, images)

    def finish(self, bundle: Bundle, progress: Progress | None) -> Outcome:
        """Score what the bundle holds."""
        table = self.table
        if read_again := _changed(table):
            raise UserError(f"{table.path} changed while the run was going: {read_again}", "give another --out")
        thinking: Any = protocol_of(bundle.run)["thinking"]
        outcome = score_run(table, bundle.items, self._judge, progress, thinking=thinking)
        switched = Counter(bool(it.extras.get("imgbos")) for it in outcome.items)[True]
        reservations = [r for r in bundle.run.reservations if r.kind != "unread"]
        if (unread := unread_reservation(outcome.items)) is not None:
            reservations.append(unread)
        answers = served.answer_kinds(outcome.items)
        extras = {**bundle.run.extras, "items_with_imgbos": switched, "answers": answers}
        if not table.has_answers:
            write_submission(table, outcome.items, bundle.path / "submission.xlsx")
        return replace(outcome, update={"extras": extras, "reservations": reservations})


def take_over(bundle: Bundle, rows: dict[str, Row], shared: Path) -> None:
    """Journal the other run's answers to this run's open questions. They must be of the same model, words and file.

    Not between shards: the other one's are not those of this one.
    """
    other, items, _ = read_bundle(shared)
    mine = bundle.run
    same = (
        other.model.fingerprint == mine.model.fingerprint
        and other.data.sha256 == mine.data.sha256
        and other.prompt_sha256 == mine.prompt_sha256
        and decoding_of(other) == decoding_of(mine)
        and other.protocol == mine.protocol
        and other.extras.get("blind") == mine.extras.get("blind")
    )
    if not same or "shard" in mine.extras:
        return
    wanted = set(rows) - set(bundle.items)
    for item in items:
        if item.id in wanted and item.status != "error":
            bundle.append(item.model_copy(update={"parsed": None, "score": None, "status": "ok", "reason": None}))


def _changed(table: Table) -> str | None:
    """Why the file is not the one that was read; None where it is."""
    if not table.path.is_file():
        return "it is gone"
    if stand_of(table.path) == table.stand:
        return None
    return None if sha256_file(table.path) == table.file_sha256 else "its sha256 is another"
