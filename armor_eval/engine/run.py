"""The evaluation engine: one task and one model into a run bundle, or what is missing of one.

The engine alone owns the bundle, what is left to do, batches, several processes, failures, progress, and whether a run
is complete. How a question becomes an item is the task's (armor_eval.engine.task).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from armor_eval.engine import ask as asking
from armor_eval.engine.ask import Asked, Prepared, asked_batches, judged_batches
from armor_eval.engine.batches import AUTO, SPLIT, BatchSize, batches_of, check_auto, size_of
from armor_eval.engine.task import Begins, Conversation, JudgesSideBySide, Progress, Ready, Request, Task, Tick
from armor_eval.models.base import Decoding, DrawsImages, Question, RespondsFreely, own_decoding
from armor_eval.runs import provenance, served
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.runs.schema import Item, Profile, Run, Scores
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.hashing import sha256_json

if TYPE_CHECKING:
    from armor_eval.models.base import Model

T = TypeVar("T")

DRAWN = ("geneval", "suite", "modality", "interleaved")
"""Kinds of runs whose record says what images were drawn with."""
STREAMED = {"understanding": Question, "modality": Conversation, "interleaved": Conversation}
"""Kinds of runs whose requests may take the rows of finished ones -> what is asked."""

MEMORY = "memory"
"""In run.json's extras: what was asked at once after memory had run out; a run that is resumed asks no more."""


@dataclass(frozen=True)
class Settings:
    """How any task is run; what only one kind of task knows is that task's own."""

    profile: Profile
    command: list[str]
    """The command line, for the record and for `continue with`."""
    decoding: Decoding = field(default_factory=Decoding)
    batch_size: BatchSize = 16
    """Most requests under way at once; `auto`: what the model's memory holds, by their lengths."""
    shard: tuple[int, int] | None = None
    """(index from 0, of how many): only this part is asked, and nothing is scored (armor_eval.runs.merge joins)."""
    workers: int | None = None
    """Threads that make requests ahead of the model; None: by the cores that there are."""


@dataclass(frozen=True)
class Finished:
    """A run's result, whether just measured or found complete."""

    path: Path
    run: Run
    scores: Scores


def evaluate(
    task: Task,
    model: Model,
    out: Path,
    settings: Settings,
    *,
    processes: Processes | None = None,
    progress: Progress | None = None,
    anew: bool = False,
) -> Finished | None:
    """Measure into the bundle `out`, or finish what is there; a complete bundle is only read. With `anew` what is there
    is replaced: for a task whose outputs are kept elsewhere.

    None in every process but the first. Raises UserError for what the user can mend, RunFailed where the run cannot
    go on; the journal keeps what was answered and the same command continues.
    """
    processes = processes or Processes()
    task.check(model)
    if task.describe(model.info).kind in DRAWN:
        settings = replace(settings, decoding=own_decoding(model, settings.decoding))
    if settings.batch_size == AUTO:
        check_auto(model, task.units(), task.whole_batches)
    bundle = _open(task, model, out, settings, processes, anew)
    with bundle:
        if processes.first:
            if not bundle.complete and isinstance(task, Begins):
                task.begin(bundle, model)
            processes.wait()
        if bundle.complete:
            return read_finished(out) if processes.first else None
        tick = progress(len(task.units()), len(bundle.items)) if progress is not None and processes.first else None
        _ask_all(task, model, bundle, settings, processes, tick)
        processes.wait()
        if not processes.first:
            return None
        if processes.size > 1:
            bundle.adopt()
        if settings.shard is not None:
            bundle.leave_partial(f"shard {shard_text(settings.shard)}: join all of them with armor-eval merge")
            empty = Scores(metrics=[], counts=Counter(i.status for i in bundle.items.values()), expected_items=0)
            return Finished(bundle.path, bundle.run, empty)
        outcome = task.finish(bundle, progress)
        if outcome.update:
            bundle.update(**outcome.update)
        bundle.finish(outcome.items, outcome.scores, outcome.reason)
        return Finished(bundle.path, bundle.run, outcome.scores)


def read_finished(out: Path) -> Finished:
    """A complete bundle's result. UserError where its scores are gone."""
    run, _, scores = read_bundle(out)
    if scores is None:
        raise UserError(f"{out} says complete but has no scores.json", "remove it and measure again")
    return Finished(out, run, scores)


def run_record(task: Task, model: Model, settings: Settings, processes: int = 1) -> Run:
    """run.json as it stands at the start."""
    described = task.describe(model.info)
    drawing = {}
    if described.kind in DRAWN and described.asks:
        drawer = cast(DrawsImages | RespondsFreely, model)  # the task's check() has refused any other
        drawing = {"drawing": drawer.settings(settings.decoding)}
    protocol = dict(described.protocol)
    if described.asks and settings.decoding.guidance is not None and "guidance" in protocol:
        protocol["guidance"] = f"{settings.decoding.guidance:g}"
    device = provenance.device()
    device.processes = processes
    return Run(
        run_id=sha256_json([described.benchmark, model.info.fingerprint, described.data.sha256, provenance.now()])[:16],
        kind=described.kind,
        benchmark=described.benchmark,
        command=settings.command,
        profile=settings.profile,
        status="running",
        subset=described.subset,
        model=model.info,
        data=described.data,
        protocol=protocol,
        prompt_sha256=described.prompt_sha256,
        scorer=described.scorer,
        judge=described.judge,
        decoding=settings.decoding.model_dump() if described.asks else dict(described.decoded),
        reservations=list(described.reservations),
        seeds={name: settings.decoding.seed if seed is None else seed for name, seed in described.seeds.items()},
        packages=provenance.packages(),
        device=device,
        git_commit=provenance.git_commit(),
        started=provenance.now(),
        **described.spent,
        extras=dict(described.extras) | drawing | ({"shard": shard_text(settings.shard)} if settings.shard else {}),
    )


def shard_text(shard: tuple[int, int]) -> str:
    """(1, 4) -> `2/4`."""
    return f"{shard[0] + 1}/{shard[1]}"


def _open(task: Task, model: Model, out: Path, settings: Settings, processes: Processes, anew: bool) -> Bundle:
    """The first process makes or resumes the bundle, the others join it once that one has begun."""
    if processes.first:
        return Bundle.open(out, run_record(task, model, settings, processes.size), anew=anew)
    processes.wait()
    return Bundle.join(out)


def _ask_all(
    task: Task, model: Model, bundle: Bundle, settings: Settings, processes: Processes, tick: Tick | None
) -> None:
    size = size_of(model, settings.batch_size, settings.decoding)
    size.remember(bundle.run.extras.get(MEMORY, {}))
    batches = batches_of(
        task.units(),
        bundle.items,
        SPLIT if settings.batch_size == AUTO else settings.batch_size,
        processes.rank,
        processes.size,
        shard=settings.shard or (0, 1),
        whole=task.whole_batches,
        cut=size.batches,
    )

    def prepared(prepare: Callable[[Sequence[Request | Exception]], T]) -> Prepared[T]:
        return Prepared(batches, lambda units: prepare(list(task.requests(units, bundle.path))), settings.workers)

    kind = None if task.whole_batches else STREAMED.get(bundle.run.kind)
    if (streaming := asking.streaming(model, kind)) is not None:
        streamed = asking.AsTheyFinish(model, streaming, settings.decoding, size)
        answered = asked_batches(prepared(streamed.encoded), streamed)
    else:
        answered = asked_batches(prepared(lambda requests: requests), asking.batch_by_batch(model, settings.decoding))
    threads = task.judging_threads if isinstance(task, JudgesSideBySide) else 1
    answered = _none_failing_at_once(answered) if not bundle.items else answered
    for batch, items in judged_batches(answered, lambda batch: _judge(task, batch, bundle), threads):
        _journal(batch, items, bundle, tick)
        if processes.first:  # at once: a shard, or a run that dies while it scores, must keep what the server refused
            bundle.run = served.with_requests(bundle.run, model)
            if size.lowered and bundle.run.extras.get(MEMORY) != size.remembered():
                bundle.update(extras={**bundle.run.extras, MEMORY: size.remembered()})


def _none_failing_at_once(answered: Iterator[Asked]) -> Iterator[Asked]:
    """The batches, unless all of the first one failed: then RunFailed, before anything is judged."""
    for number, batch in enumerate(answered):
        outputs = [o for r, o in zip(batch.requests, batch.outputs, strict=True) if not isinstance(r, Exception)]
        several = len({unit.cluster for unit in batch.units}) > 1  # one prompt's images may all be refused
        if not number and several and len(outputs) > 1 and all(isinstance(output, Exception) for output in outputs):
            raise RunFailed(f"none of the first {len(outputs)} could be had: {outputs[0]}")
        yield batch


def _judge(task: Task, batch: Asked, bundle: Bundle) -> list[Item]:
    """Judge what came of a batch; a unit without an output stays open."""
    had = [each for each in zip(batch.units, batch.requests, batch.outputs, strict=True) if each[2] is not None]
    if not had or (len(had) < len(batch.units) and task.whole_batches):
        return []
    units, requests, outputs = zip(*had, strict=True)
    return task.judge(units, requests, outputs, bundle)


def _journal(batch: Asked, items: list[Item], bundle: Bundle, tick: Tick | None) -> None:
    """Append a batch's items, those that are new."""
    bundle.asked_seconds += batch.seconds
    requests_asked = sum(not isinstance(request, (Ready, Exception)) for request in batch.requests)
    missing = [item for item in items if item.id not in bundle.items]
    for item in missing:
        seconds = item.seconds or round(batch.seconds / requests_asked if requests_asked else 0.0, 6)
        bundle.append(item.model_copy(update={"seconds": seconds}))
    if tick is not None:
        tick(len(missing), sum(item.status == "error" for item in missing))


# --- the process group: alone, or one of several that torchrun, accelerate or an MPI started -------------------------
# accelerate 1.15's `--cpu --num_processes 4` starts one process; only with --mpirun_hostfile and an MPI it starts four.
# On CPUs too: torchrun --nproc-per-node 4 -m armor_eval ..., accelerate launch --multi_gpu --num_processes 4 -m ...


log = logging.getLogger(__name__)

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where torchrun and the kinds of MPI say how many processes there are, in the order accelerate looks for them."""


@dataclass(frozen=True)
class Processes:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = lambda: None
    """Returns when every process has come here."""
    device: str | None = None

    @property
    def first(self) -> bool:
        """The process that owns run.json and the scores, and prints."""
        return self.rank == 0


def join_processes() -> Processes:
    """The group that the launcher's environment names; torch is imported only where there is one."""
    size = next((int(os.environ[name]) for name in SIZES if int(os.environ.get(name, "0")) > 0), 1)
    if size <= 1:
        if "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ:  # set where several were asked for
            log.warning("accelerate launch --cpu started one process: use torchrun, or --multi_gpu, on CPUs as well")
        return Processes()
    import torch
    from accelerate import PartialState

    # The slowest process may be hours behind where answers differ in length.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=14))
    if state.num_processes != size:
        raise UserError("accelerate does not see the processes that were started", "see accelerate test")
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))
