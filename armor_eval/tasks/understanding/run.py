"""One benchmark from start to finish: read the data, open the bundle, ask, score, close."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from armor_eval.models.base import AnswersQuestions, Decoding, Prepares
from armor_eval.runs import provenance
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.schema import DataInfo, JudgeInfo, Profile, Run, ScorerInfo, Scores, decoding_of, protocol_of
from armor_eval.tasks.understanding import loop, prompts, served
from armor_eval.tasks.understanding.cells import Reading
from armor_eval.tasks.understanding.data import content_made, locate
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.judge import Judge
from armor_eval.tasks.understanding.score import Progress, score_run, unread_reservation, write_submission
from armor_eval.tasks.understanding.subset import limit_table
from armor_eval.tasks.understanding.table import Table, read_table
from armor_eval.tasks.understanding.team import Team
from armor_eval.tasks.understanding.thinking import Thinking
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What a user chose, common to all benchmarks of a command."""

    profile: Profile
    command: list[str]
    decoding: Decoding = field(default_factory=Decoding)
    limit: int | None = None
    seed: int = 0
    batch_size: int = 16
    data: Path | None = None
    any_data: bool = False
    """Accept a file whose md5 is not the published one, and mark the result."""
    blind: bool = False
    """Leave the pictures out: a baseline."""
    thinking: Thinking = "strip"
    """Whether thoughts are cut from what is scored."""
    reading: Reading = "keep-none"
    """How the cells of the TSV are read; part of the protocol label."""


@dataclass
class Finished:
    """A benchmark's result, whether just measured or found complete."""

    path: Path
    run: Run
    scores: Scores


def open_table(benchmark: Benchmark, settings: Settings) -> tuple[Table, Any]:
    """The rows to ask and how `--limit` chose them."""
    path = locate(benchmark, settings.profile, settings.data)
    published = settings.profile == "official" and not settings.any_data
    content = content_made(benchmark, settings.profile) if settings.data is None else None
    table = read_table(benchmark, path, need_published=published, content=content, reading=settings.reading)
    return limit_table(table, settings.limit, settings.seed)


def describe(
    benchmark: Benchmark, table: Table, subset: Any, model: AnswersQuestions, settings: Settings, judge: Any
) -> Run:
    """run.json as it stands at the start."""
    name = "vlmeval." + {"mcq": "ImageMCQDataset", "mcq-circular": "ImageMCQDataset", "yes-no": "ImageYORNDataset"}.get(
        benchmark.kind, benchmark.dataset
    )
    mode = "judge" if judge is not None else "exact_matching"
    prompt = prompts.prompt_hash(benchmark)
    if any(not name.lower().endswith(".png") for row in table.rows for name in row.saved_as):
        prompt = sha256_json([prompt, "images as VLMEvalKit saves them"])  # other pixels than before
    if (protocol := getattr(model, "protocol", None)) is not None:  # asked in other words than ours
        prompt = sha256_json([prompt, protocol])
    return Run(
        run_id=sha256_json([benchmark.name, model.info.fingerprint, table.sha256, provenance.now()])[:16],
        kind="understanding",
        benchmark=benchmark.name,
        command=settings.command,
        profile=settings.profile,
        status="running",
        subset=subset,
        model=model.info,
        data=DataInfo(name=benchmark.dataset, split=benchmark.split, sha256=table.sha256, items=len(table.rows)),
        protocol={"reading": table.reading, "thinking": settings.thinking},
        prompt_sha256=sha256_json([prompt, "blind"]) if settings.blind else prompt,
        scorer=ScorerInfo(
            name=f"{name}.evaluate",
            version=provenance.packages().get("ms-vlmeval", "?"),
            settings={"answer_matching": mode, "number": benchmark.number},
        ),
        judge=judge.info if judge is not None else JudgeInfo(name="exact_matching", endpoint="none"),
        decoding=settings.decoding.model_dump(),
        seeds={"subset": settings.seed, "decoding": settings.decoding.seed},
        packages=provenance.packages(),
        device=provenance.device(),
        git_commit=provenance.git_commit(),
        started=provenance.now(),
        extras={"data_is_published": table.published, "notes": table.notes, "blind": settings.blind},
    )


def run_benchmark(
    benchmark: Benchmark,
    model: AnswersQuestions,
    out: Path,
    settings: Settings,
    *,
    judge: Judge | None = None,
    progress: Progress = None,
    shared: Path | None = None,
    team: Team | None = None,
) -> Finished | None:
    """Measure one benchmark into the bundle `out`, or finish what is there; a complete bundle is only read.

    `shared` is a bundle whose answers to the same questions are taken over (MME's serve MME-P).

    `team`: this process among several; only the first gets a result, the others None.

    `progress(total, done)` is called once and returns what is called after each batch. Raises UserError for what the
    user can mend and RunFailed where the scoring contradicts itself.
    """
    team = team or Team()
    table, subset = open_table(benchmark, settings)
    if benchmark.judge == "required" and judge is None:
        raise UserError(
            f"{benchmark.name} needs a judge",
            "give --judge openai:URL#NAME or --judge hf:ID, or leave it out of --bench",
        )
    if not team.first:
        _help(team, table, out, model, settings)
        return None
    run = describe(benchmark, table, subset, model, settings, judge)
    run.device.processes = team.size
    with Bundle.open(out, run) as bundle:
        if bundle.complete:
            team.wait()
            return _read_finished(out)
        if shared is not None:
            take_over(bundle, table, shared)
        tick = progress(len(table.rows), len(bundle.items)) if progress is not None else None
        if isinstance(model, Prepares) and len(bundle.items) < len(table.rows):
            asked = model.prepare(images=not settings.blind)
            bundle.update(extras={**bundle.run.extras, "model": asked})
        team.wait()
        loop.answer_all(
            model, table, bundle, settings.decoding, settings.batch_size,
            part=(team.rank, team.size), blind=settings.blind, progress=tick,
        )  # fmt: skip
        team.wait()
        if team.size > 1:
            bundle.adopt()
        bundle.run = served.with_requests(bundle.run, model)
        return finish(bundle, table, judge, progress)


def _help(team: Team, table: Table, out: Path, model: AnswersQuestions, settings: Settings) -> None:
    """What every process but the first does: wait for the bundle, answer its rows, say when done."""
    team.wait()
    bundle = Bundle.join(out)
    try:
        if bundle.complete:
            return
        loop.answer_all(
            model, table, bundle, settings.decoding, settings.batch_size,
            part=(team.rank, team.size), blind=settings.blind,
        )  # fmt: skip
        team.wait()
    finally:
        bundle.close()


def take_over(bundle: Bundle, table: Table, shared: Path) -> None:
    """Journal the other run's answers to this run's open questions. They must be of the same model, words and file."""
    other, items, _ = read_bundle(shared)
    mine = bundle.run
    same = (
        other.model.fingerprint == mine.model.fingerprint
        and other.data.sha256 == mine.data.sha256
        and decoding_of(other) == decoding_of(mine)
        and other.protocol == mine.protocol
        and other.extras.get("blind") == mine.extras.get("blind")
    )
    if not same:
        return
    wanted = {row.id for row in table.rows} - set(bundle.items)
    for item in items:
        if item.id in wanted and item.status != "error":
            bundle.append(item.model_copy(update={"parsed": None, "score": None, "status": "ok", "reason": None}))


def finish(bundle: Bundle, table: Table, judge: Judge | None, progress: Progress = None) -> Finished:
    """Score what the bundle holds and close it."""
    if read_again := _changed(table):
        raise UserError(f"{table.path} changed while the run was going: {read_again}", "give another --out")
    thinking: Any = protocol_of(bundle.run)["thinking"]
    outcome = score_run(table, bundle.items, judge, progress, thinking=thinking)
    switched = Counter(bool(it.extras.get("imgbos")) for it in outcome.items)[True]
    reservations = [kept for kept in bundle.run.reservations if kept.kind != "unread"]
    if (unread := unread_reservation(outcome.items)) is not None:
        reservations.append(unread)
    extras = {**bundle.run.extras, "items_with_imgbos": switched, "answers": served.answer_kinds(outcome.items)}
    bundle.run = bundle.run.model_copy(update={"extras": extras, "reservations": reservations})
    if not table.has_answers:
        write_submission(table, outcome.items, bundle.path / "submission.xlsx")
    bundle.finish(outcome.items, outcome.scores, outcome.reason)
    return Finished(bundle.path, bundle.run, outcome.scores)


def _changed(table: Table) -> str | None:
    """Why the file is not the one that was read; None where it is."""
    if not table.path.is_file():
        return "it is gone"
    return None if sha256_file(table.path) == table.file_sha256 else "its sha256 is another"


def _read_finished(out: Path) -> Finished:
    run, _, scores = read_bundle(out)
    if scores is None:
        raise UserError(f"{out} says complete but has no scores.json", "remove it and measure again")
    return Finished(out, run, scores)
