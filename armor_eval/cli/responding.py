"""What `modality` and `interleaved` have in common: a model that answers freely is loaded, asked, and let go."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.cli import common
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from armor_eval.engine import Finished
    from armor_eval.engine.task import Task
    from armor_eval.models.base import Decoding
    from armor_eval.profiles import ProfileSpec


def measure(
    command: str,
    model: str | None,
    profile: ProfileSpec,
    tasks: Callable[[int], Iterable[tuple[str, Task]]],
    decoding: Decoding,
    *,
    limit: int | None,
    out: Path | None,
    batch_size: int,
    repeats: int,
    shard: str | None,
    workers: int | None,
    options: JsonObject,
    progress: bool,
) -> list[Finished]:
    """The finished runs of the tasks that `tasks(seed of what is drawn)` names, beginning with the command's own name,
    each in OUT/NAME or below runs/COMMAND. `options`: of the model's loader."""
    from armor_eval import Named, evaluate
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, join_processes
    from armor_eval.models import registry
    from armor_eval.models.base import RespondsFreely
    from armor_eval.runs.bundle import run_folder
    from armor_eval.runs.merge import parse_shard

    common.check_repeats(repeats, decoding.image_temperature)
    part, seed = parse_shard(shard), decoding.seed
    named = [
        Named(
            name + suffix,
            task,
            Settings(
                profile.name,
                list(COMMAND_LINE.get()),
                decoding.model_copy(update={"seed": at}),
                batch_size,
                part,
                workers,
            ),
        )
        for at, suffix in common.suffixes(seed, repeats)
        for name, task in tasks(at)
    ]
    processes = join_processes()
    adapter = registry.load(model, profile.name, does=RespondsFreely, own_device=processes.device, **options)
    chosen = command + (f"-limit{limit}-seed{seed}" if limit is not None else "") + common.shard_name(shard)
    default = Path("runs") / command / f"{common.short_name(adapter.info.name)}-{profile.name}-{chosen}"

    def folder(run: str) -> Path:
        return default.with_name(default.name + run.removeprefix(command)) if out is None else run_folder(out, run)

    try:
        return evaluate(adapter, named, folder, processes=processes, progress=common.bars(processes.first and progress))
    finally:
        adapter.close()
