"""The Python API, `armor_eval.evaluate(model, tasks, out=...)`: for notebooks and training loops, and what the command
line calls.

    import armor_eval
    [mmb, pope] = armor_eval.evaluate("hf:OpenGVLab/InternVL3-1B-hf", ["MMB", "POPE"], out="runs/mine", limit=200)
    mmb.scores.metrics[0].value, mmb.path

Every run is a bundle in OUT/NAME: the same call again resumes it, or reads what is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval import engine
from armor_eval.engine import Finished, Processes, Settings, Task
from armor_eval.engine.batches import BatchSize
from armor_eval.engine.run import run_record
from armor_eval.engine.task import Progress
from armor_eval.models import registry
from armor_eval.models.base import AnswersQuestions, Decoding, DrawsImages, RespondsFreely
from armor_eval.models.drawing import device_of
from armor_eval.models.mock import MockModel
from armor_eval.profiles import ProfileSpec, choose_profile
from armor_eval.runs.bundle import run_folder
from armor_eval.runs.merge import parse_shard
from armor_eval.tasks.drawn import choose_prompts
from armor_eval.tasks.geneval.task import GenEvalTask, own_judging
from armor_eval.tasks.interleaved.task import BASELINES, InterleavedTask
from armor_eval.tasks.modality.task import ModalityTask
from armor_eval.tasks.modality.turns import ConversationTask
from armor_eval.tasks.suites.declare import Suite, read_data, suites
from armor_eval.tasks.suites.judges import load_judge, spec_for
from armor_eval.tasks.suites.task import SuiteTask
from armor_eval.tasks.understanding.data import locate
from armor_eval.tasks.understanding.declare import Benchmark, choose
from armor_eval.tasks.understanding.judge import make_judges
from armor_eval.tasks.understanding.task import Options, UnderstandingTask
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    from armor_eval.models.base import Model

COMMAND = "armor_eval.evaluate"
"""What a run records as its command, where none is given."""
Bar = Callable[[str], AbstractContextManager[Progress | None]]
"""By a task's name: what shows its progress while it runs."""
TEXT = frozenset({"max_new_tokens", "temperature", "top_k", "top_p", "mask_imgbos"})
IMAGES = frozenset({"guidance", "image_temperature", "image_top_k", "image_top_p"})
FREE: dict[str, type[ModalityTask | ConversationTask | InterleavedTask]] = {
    "modality": ModalityTask,
    "conversation": ConversationTask,
    "interleaved": InterleavedTask,
}
"""What asks for free answers."""
CONSTANT = "-constant"
"""Behind the name of a benchmark's run: the baseline of one answer to everything."""
NEEDS = {"geneval": DrawsImages} | dict.fromkeys(FREE, RespondsFreely)
"""Task that is neither benchmark nor suite -> the protocol of models.base that it asks."""
READS = {"geneval": IMAGES} | dict.fromkeys(FREE, TEXT | IMAGES)
"""The same -> the fields of the decoding that it uses; a benchmark uses TEXT, a suite IMAGES."""


@dataclass(frozen=True)
class Named:
    """A task, the name of its run's folder, and how it is run."""

    name: str
    task: Task
    settings: Settings


@dataclass(frozen=True)
class Planned:
    """A task with its folder."""

    named: Named
    folder: Path
    late: bool = False
    """It takes over what another one was answered."""
    constant: str | None = None
    """The answer to everything of a baseline that asks no model."""

    def answers(self, adapter: Any) -> Any:
        """Who is asked: the model, or a mock that gives the constant; in turns where the task goes on from answers."""
        if isinstance(self.named.task, ConversationTask) and isinstance(adapter, RespondsFreely):
            return self.named.task.asked_through(adapter)
        return adapter if self.constant is None else MockModel(self.constant)


def evaluate(
    model: str | Model | tuple[object, object] | None,
    tasks: Iterable[str | Suite] | Iterable[Named],
    out: Path | str | Callable[[str], Path],
    *,
    profile: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    data: Path | str | None = None,
    judge: str | None = None,
    suite_judge: str | None = None,
    decoding: Decoding | None = None,
    batch_size: BatchSize | None = None,
    shard: str | None = None,
    workers: int | None = None,
    repeats: int = 1,
    baselines: bool = False,
    command: Sequence[str] = (COMMAND,),
    model_options: JsonView | None = None,
    processes: Processes | None = None,
    progress: Bar | None = None,
) -> list[Finished]:
    """Measure a model; one finished run a task and repeat, in order ([] in every process but the first).

    Args:
        model: what `--model` takes (`armor-nano`, a folder, `hf:ID`, `openai:URL#NAME` ...), an adapter that is loaded
            already, or (ArmorForConditionalGeneration, ArmorProcessor), as a training loop has them.
        tasks: benchmarks by name, `all`, `FILE.toml` of your own, `geneval`, `modality`, `conversation`, `interleaved`,
            suites of drawing by name or as they were read (armor_eval.tasks.suites.declare); or Named tasks, which
            bring their own settings.
        out: folder of the runs, each in OUT/NAME; or a function from a task's name to its folder.
        profile: `shapes` (embedded) or `official`; by default the model's.
        limit: only so many units of each task, chosen by `seed`, which also seeds what is drawn.
        data: folder of the official TSV files, and of the suites' files.
        judge: `openai:URL#NAME` or `hf:ID`, for the benchmarks that need one.
        suite_judge: of the suites' images, as `armor-eval draw --judge` takes it; by default each suite's.
        decoding: by default greedy, as long as the task's protocol says.
        batch_size: by default the task's; `auto`, of benchmarks: what the model's memory holds.
        shard: `I/N`, only this part, to be joined by `armor-eval merge`.
        workers: threads that prepare requests ahead of the model; by default by the cores.
        repeats: so many seeds of a sampled run, from `seed` on, in OUT/NAME@SEED; see armor_eval.stats.repeats.
        baselines: also what a benchmark's score is held against, each behind its run: OUT/NAME-blind, the same without
            images, OUT/NAME-constant, one answer to everything; of `interleaved` also its texts, its images alone.
        command: what the runs record as their command.
        model_options: of the model's loader (`dtype`, `device`, `model_args` ...); what it cannot honour is refused.
        processes: of torchrun or accelerate, from `armor_eval.engine.join_processes`.
        progress: shows how far a task is.

    Raises UserError for what the caller can mend, RunFailed where a run cannot go on; answers so far are kept.
    """
    spec = choose_profile(profile, model if isinstance(model, str) or model is None else "given")
    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    if not asked:
        raise UserError("there is no task to measure", "name one: see armor-eval list")
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, not {repeats}")
    if baselines and (repeats > 1 or shard is not None):
        raise UserError("baselines are of one whole run", "leave repeats, shard or baselines out")
    how: JsonObject = {
        "limit": limit,
        "data": data,
        "judge": judge,
        "suite_judge": suite_judge,
        "decoding": decoding,
        "batch_size": batch_size,
        "shard": shard,
        "workers": workers,
    }
    with ExitStack() as opened:
        plan: list[Planned]
        if len(tasks_given := [one for one in asked if isinstance(one, Named)]) == len(asked):
            more = ["repeats"] * (repeats > 1) + ["baselines"] * baselines
            if given := [name for name, value in how.items() if value is not None] or more:
                wrong = ", ".join(given)
                raise UserError(f"{wrong}: given tasks bring their own settings", "give names of tasks with it")
            folder = _folders(out)
            plan = [Planned(one, folder(one.name)) for one in tasks_given]
        else:
            names = _names(asked)
            if isinstance(model, str) or model is None:
                for name, what in names.items():
                    usual = DrawsImages if isinstance(what, Suite) else AnswersQuestions
                    registry.check(model, spec.name, NEEDS.get(name, usual))
            plan = _plan(names, spec, _folders(out), seed, repeats, baselines, opened, command, **how)
        adapter = _adapter(model, spec, dict(model_options or {}), processes, opened)
        if len(plan) > 1:  # what the last task refuses, be it of the model, its settings or the data, ends all at once
            for one in plan:
                one.named.task.check(one.answers(adapter))
                run_record(one.named.task, one.answers(adapter), one.named.settings)
        done: dict[Path, Finished | None] = {}
        for one in sorted(plan, key=lambda each: each.late):
            named, asked_model = one.named, one.answers(adapter)
            with progress(named.name) if progress is not None else nullcontext() as shown:
                done[one.folder] = engine.evaluate(
                    named.task, asked_model, one.folder, named.settings, processes=processes, progress=shown
                )
    return [finished for one in plan if (finished := done[one.folder]) is not None]


def _names(words: Iterable[object]) -> dict[str, Benchmark | Suite | None]:
    """The tasks in the order that was asked for; None where one is neither benchmark nor suite."""
    found: dict[str, Benchmark | Suite | None] = {}
    known = suites()
    for word in words:
        if isinstance(word, Suite):
            found[word.name] = word
        elif not isinstance(word, str):
            raise UserError(f"{word!r} names no task", "give names, or armor_eval.Named for all of them")
        elif word in NEEDS or word in known:
            found[word] = known.get(word)
        else:
            found |= {b.name: b for b in choose([word], also=[*NEEDS, *known])}
    return found


def _plan(
    names: Mapping[str, Benchmark | Suite | None],
    spec: ProfileSpec,
    folder: Callable[[str], Path],
    seed: int,
    repeats: int,
    baselines: bool,
    opened: ExitStack,
    command: Sequence[str],
    *,
    limit: int | None,
    data: Path | str | None,
    judge: str | None,
    suite_judge: str | None,
    decoding: Decoding | None,
    batch_size: BatchSize | None,
    shard: str | None,
    workers: int | None,
) -> list[Planned]:
    """The tasks of a profile with its defaults, of each repeat, and their baselines. `seed` chooses subsets and, a
    repeat at a time, seeds what is sampled. UserError for what no task can honour."""
    benchmarks = [b for b in names.values() if isinstance(b, Benchmark)]
    given = decoding.model_dump(exclude_unset=True) if decoding is not None else {}
    _refuse_unused(names, given, data=data, judge=judge, suite_judge=suite_judge)
    options = Options(limit, seed, Path(data) if data is not None else None)
    judges = make_judges(spec.name, judge, benchmarks)
    for one in judges.values():
        opened.callback(one.close)
    for b in benchmarks:
        locate(b, spec.name, options.data)
    part = parse_shard(shard)
    looking: JsonObject = {}
    drawing = {
        s.name: _suite(s, spec, options, suite_judge, looking, opened) for s in names.values() if isinstance(s, Suite)
    }
    plan: list[Planned] = []
    judging = own_judging(spec) if "geneval" in names else None
    for at in range(seed, seed + repeats):
        for name, what in names.items():
            run = f"{name}@{at}" if repeats > 1 else name
            tasks: dict[str, Task] = {}
            made = {key: value for key, value in given.items() if key in _reads(name, what)}
            if isinstance(what, Suite):
                drawn_suite = drawing[name](at)
                tasks[""] = drawn_suite
                run = run.replace(name, drawn_suite.name, 1)  # which says so where the judge is not the suite's own
                usual, batch, drawn = {}, 16, 0
            elif what is not None:
                for beside in ("", *(("-blind", CONSTANT) if baselines else ())):
                    shared = folder(run.replace(name, what.shares, 1) + beside) if what.shares else None
                    how = replace(options, blind=beside == "-blind")
                    tasks[beside] = UnderstandingTask(what, spec.name, how, judge=judges.get(name), shared=shared)
                usual, batch = {"max_new_tokens": spec.understanding_tokens}, spec.understanding_batch
                drawn = at if made.get("temperature") else 0
            elif judging is not None and name == "geneval":
                tasks[""] = GenEvalTask(*judging, limit=limit, seed=seed, drawn_from=at)
                usual, batch, drawn = {}, 16, 0
            else:
                tasks[""] = FREE[name](spec, limit=limit, seed=seed, drawn_from=at)
                for kind in BASELINES if baselines and name == "interleaved" else ():
                    tasks[f"-{kind}"] = InterleavedTask(spec, baseline=kind, limit=limit, seed=seed, drawn_from=at)
                longest = spec.interleaved_tokens if name == "interleaved" else spec.response_tokens
                usual, batch, drawn = {"max_new_tokens": longest}, 32, at
            chosen = Decoding(**{**usual, **made, "seed": drawn})
            settings = Settings(spec.name, list(command), chosen, batch_size or batch, part, workers)
            for beside, task in tasks.items():
                of = what if isinstance(what, Benchmark) else None
                plan.append(
                    Planned(
                        Named(run + beside, task, settings),
                        folder(run + beside),
                        late=of is not None and of.shares is not None,
                        constant=of.scoring.constant if of is not None and beside == CONSTANT else None,
                    )
                )
    if baselines and len(plan) == len(names):
        raise UserError(f"nothing in {', '.join(names)} has baselines", "leave baselines out")
    if repeats > 1:
        refuse_greedy([one.named for one in plan])
    return plan


def _suite(
    suite: Suite, spec: ProfileSpec, options: Options, judge: str | None, loaded: JsonObject, opened: ExitStack
) -> Callable[[int], SuiteTask]:
    """Makes the suite's task by the seed of its images; its files and its judge are there before anything is drawn."""
    if suite.profile != spec.name:
        raise UserError(f"{suite.name} is a suite of profile {suite.profile}", f"give profile={suite.profile!r}")
    asked = spec_for(suite, judge, "suite_judge:")
    read = read_data(suite, [options.data] if options.data is not None else [], download=False)
    chosen, subset = choose_prompts([item.group for item in read.items], options.limit, options.seed, suite.samples)
    if asked not in loaded:
        loaded[asked] = load_judge(asked, suite.profile, device=device_of(None))
        opened.callback(loaded[asked].close)
    return lambda seed: SuiteTask(suite, read, loaded[asked], chosen, subset=subset, seed=seed)


def _reads(name: str, task: Benchmark | Suite | None) -> frozenset[str]:
    """Fields of the decoding that a task uses."""
    return IMAGES if isinstance(task, Suite) else READS.get(name, TEXT)


def _refuse_unused(names: Mapping[str, Benchmark | Suite | None], decoding: JsonView, **files: object) -> None:
    """UserError for a setting that none of the tasks reads."""
    read = {"seed"}.union(*(_reads(name, task) for name, task in names.items()))
    unused = [f"decoding's {name}" for name in decoding if name not in read]
    readers = {"data": Benchmark | Suite, "judge": Benchmark, "suite_judge": Suite}
    unused += [
        name
        for name, value in files.items()
        if value is not None and not any(isinstance(task, readers[name]) for task in names.values())
    ]
    if unused:
        raise UserError(f"{', '.join(unused)}: nothing in {', '.join(names)} reads it", "leave it out")
    if "seed" in decoding:
        raise UserError("decoding's seed is the run's", "give it as seed=")


def refuse_greedy(tasks: Sequence[Named]) -> None:
    """UserError where every repeat of a task would be the same."""
    for one in tasks:
        decoding = one.settings.decoding
        writes = not isinstance(one.task, GenEvalTask | SuiteTask)
        draws = not isinstance(one.task, UnderstandingTask)
        if not ((writes and decoding.temperature) or (draws and decoding.image_temperature)):
            raise UserError(f"{one.name} is decoded greedily: every repeat would be the same", "give a temperature")


def _adapter(
    model: str | Model | tuple[Any, Any] | None,
    spec: ProfileSpec,
    options: JsonObject,
    processes: Processes | None,
    opened: ExitStack,
) -> Any:
    """The model's adapter; one that is loaded here is closed with `opened`."""
    if model is None or isinstance(model, str | Path):
        own = processes.device if processes is not None else None
        adapter = registry.load(None if model is None else str(model), spec.name, own_device=own, **options)
        opened.callback(adapter.close)
        return adapter
    if options:
        raise UserError(f"{', '.join(options)}: the model is loaded already", "give these where it is loaded")
    if isinstance(model, tuple):
        from armor_eval.models.armor import ArmorAdapter

        return ArmorAdapter.of(*model)
    return model


def _folders(out: Path | str | Callable[[str], Path]) -> Callable[[str], Path]:
    return out if callable(out) else lambda name: run_folder(Path(out), name)
