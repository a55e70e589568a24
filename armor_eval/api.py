"""The Python API, `armor_eval.evaluate(model, tasks, out=...)`: for notebooks and training loops, and what the command
line calls.

    import armor_eval
    [mmb, pope] = armor_eval.evaluate("hf:OpenGVLab/InternVL3-1B-hf", ["MMB", "POPE"], out="runs/mine", limit=200)
    mmb.scores.metrics[0].value, mmb.path

Every run is a bundle in OUT/NAME: the same call again resumes it, or reads what is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from armor_eval import engine
from armor_eval.engine import Finished, Processes, Settings, Task
from armor_eval.engine.task import Progress
from armor_eval.models import registry
from armor_eval.models.base import Decoding
from armor_eval.profiles import ProfileSpec, choose_profile
from armor_eval.runs.bundle import run_folder
from armor_eval.runs.merge import parse_shard
from armor_eval.tasks.geneval.task import default_task
from armor_eval.tasks.modality.task import ModalityTask
from armor_eval.tasks.understanding.declare import choose
from armor_eval.tasks.understanding.judges import make_judges
from armor_eval.tasks.understanding.task import Options, UnderstandingTask
from armor_model.base.errors import UserError

COMMAND = "armor_eval.evaluate"
"""What a run records as its command, where none is given."""
Bar = Callable[[str], AbstractContextManager[Progress | None]]
"""By a task's name: what shows its progress while it runs."""


@dataclass(frozen=True)
class Named:
    """A task, the name of its run's folder, and how it is run."""

    name: str
    task: Task
    settings: Settings


def evaluate(
    model: Any,
    tasks: Iterable[str] | Iterable[Named],
    out: Path | str | Callable[[str], Path],
    *,
    profile: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    data: Path | str | None = None,
    judge: str | None = None,
    decoding: Decoding | None = None,
    batch_size: int | None = None,
    shard: str | None = None,
    repeats: int = 1,
    model_options: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
    progress: Bar | None = None,
) -> list[Finished]:
    """Measure a model; one finished run a task and repeat, in order ([] in every process but the first).

    Args:
        model: what `--model` takes (`armor-nano`, a folder, `hf:ID`, `openai:URL#NAME` ...), an adapter that is loaded
            already, or (ArmorForConditionalGeneration, ArmorProcessor), as a training loop has them.
        tasks: benchmarks by name, `all`, `FILE.toml` of your own, `geneval`, `modality`; or Named tasks, which bring
            their own settings.
        out: folder of the runs, each in OUT/NAME; or a function from a task's name to its folder.
        profile: `shapes` (embedded) or `official`; by default the model's.
        limit: only so many units of each task, chosen by `seed`, which also seeds what is drawn.
        data: folder of the official TSV files.
        judge: `openai:URL#NAME` or `hf:ID`, for what needs one.
        decoding: by default greedy, as long as the task's protocol says.
        batch_size: by default the task's.
        shard: `I/N`, only this part, to be joined by `armor-eval merge`.
        repeats: so many seeds of a sampled run, from `seed` on, in OUT/NAME@SEED; see armor_eval.stats.repeats.
        model_options: of the model's loader (`dtype`, `device`, `model_args` ...); what it cannot honour is refused.
        processes: of torchrun or accelerate, from `armor_eval.engine.join_processes`.
        progress: shows how far a task is.

    Raises UserError for what the caller can mend, RunFailed where a run cannot go on; answers so far are kept.
    """
    spec = choose_profile(profile, model if isinstance(model, str) or model is None else "given")
    named = list(tasks)
    if repeats < 1:
        raise UserError(f"repeats must be at least 1, not {repeats}")
    given = dict(limit=limit, data=data, judge=judge, decoding=decoding, batch_size=batch_size, shard=shard)  # noqa: C408
    adapter, ours = _adapter(model, spec, dict(model_options or {}), processes)
    finished: list[Finished] = []
    try:
        for turn in range(repeats):
            at = seed + turn
            folder = _folders(out, f"@{at}" if repeats > 1 else "")
            if named and all(isinstance(one, Named) for one in named):
                if any(value is not None for value in given.values()) or repeats > 1:
                    wrong = ", ".join(name for name, value in given.items() if value is not None) or "repeats"
                    raise UserError(f"{wrong}: given tasks bring their own settings", "give names of tasks with it")
                runs = named
            else:
                runs = make_tasks(named, spec, seed=seed, drawn_from=at, folder=folder, **given)
                if repeats > 1:
                    refuse_greedy(runs)
            for one in runs:
                with progress(one.name) if progress is not None else nullcontext() as shown:
                    done = engine.evaluate(
                        one.task, adapter, folder(one.name), one.settings, processes=processes, progress=shown
                    )
                finished += [done] if done is not None else []
    finally:
        if ours:
            adapter.close()
    return finished


def make_tasks(
    names: Sequence[str], spec: ProfileSpec, *, folder: Callable[[str], Path], limit: int | None = None, seed: int = 0,
    drawn_from: int | None = None, data: Path | str | None = None, judge: str | None = None,
    decoding: Decoding | None = None, batch_size: int | None = None, shard: str | None = None,
) -> list[Named]:  # fmt: skip
    """The tasks of a profile by name, with its defaults. `seed` chooses subsets, `drawn_from` (by default the same)
    seeds what is sampled. UserError for an unknown name, and for a judge that is lacking."""
    part, drawn = parse_shard(shard), seed if drawn_from is None else drawn_from

    def settings(tokens: int | None, batch: int) -> Settings:
        chosen = decoding or (Decoding() if tokens is None else Decoding(max_new_tokens=tokens))
        return Settings(spec.name, [COMMAND], chosen.model_copy(update={"seed": drawn}), batch_size or batch, part)

    asked = [name for name in names if name not in ("geneval", "modality")]
    benchmarks = choose(asked) if asked else []
    judges = make_judges(spec.name, judge, benchmarks)
    options = Options(limit, seed, Path(data) if data is not None else None)
    tasks = [
        Named(
            b.name,
            UnderstandingTask(
                b, spec.name, options, judge=judges.get(b.name), shared=folder(b.shares) if b.shares else None
            ),
            settings(spec.understanding_tokens, spec.understanding_batch),
        )
        for b in benchmarks
    ]  # fmt: skip
    if "geneval" in names:
        tasks.append(Named("geneval", default_task(spec, limit=limit, seed=seed, drawn_from=drawn), settings(None, 16)))
    if "modality" in names:
        modality = ModalityTask(spec, limit=limit, seed=seed, drawn_from=drawn)
        tasks.append(Named("modality", modality, settings(spec.response_tokens, 32)))
    return tasks


def refuse_greedy(tasks: Sequence[Named]) -> None:
    """UserError where every repeat of a task would be the same."""
    for one in tasks:
        decoding = one.settings.decoding
        sampled = decoding.temperature if isinstance(one.task, UnderstandingTask) else decoding.image_temperature
        if sampled == 0:
            raise UserError(f"{one.name} is decoded greedily: every repeat would be the same", "give a temperature")


def _adapter(model: Any, spec: ProfileSpec, options: dict[str, Any], processes: Processes | None) -> tuple[Any, bool]:
    """The adapter, and whether it was loaded here."""
    if model is None or isinstance(model, str | Path):
        own = processes.device if processes is not None else None
        return registry.load(None if model is None else str(model), spec.name, own_device=own, **options), True
    if options:
        raise UserError(f"{', '.join(options)}: the model is loaded already", "give these where it is loaded")
    if isinstance(model, tuple):
        from armor_eval.models.armor import ArmorAdapter

        return ArmorAdapter.of(*model), False
    return model, False


def _folders(out: Path | str | Callable[[str], Path], suffix: str) -> Callable[[str], Path]:
    if callable(out):
        return out
    return lambda name: run_folder(Path(out), name + suffix)
