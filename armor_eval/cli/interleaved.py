"""`armor-eval interleaved`: answers of text and images, each held exactly against the request and the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common, judge_options
from armor_model.base.cli import only_given
from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from armor_eval.engine import Finished, Task


def interleaved(
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: Annotated[str | None, typer.Option(help="Whose requests; default: those of the embedded world.")] = None,
    baselines: Annotated[
        bool,
        typer.Option("--baselines", help="Also: asked without images, its texts alone, its images alone, a constant."),
    ] = False,
    tasks: Annotated[
        Path | None,
        typer.Option(
            help="Ask this file's questions instead: JSON lines of id and question (and given, its images), requests "
            "as of modality, UEval's or OpenING's file."
        ),
    ] = None,
    judge: judge_options.Then = None,
    rubric: judge_options.Rubric = "armor-rubric-v1",
    prompt: judge_options.Words = None,
    calibration: judge_options.Known = None,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N requests of each kind, seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the runs; default runs/interleaved/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests a batch.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset and seeds the images.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; default 1024, shapes 128.")] = None,
    image_temperature: common.ImageTemperature = None,
    repeats: common.Repeats = 1,
    shard: common.Shard = None,
    workers: common.Workers = None,
    request_json: common.RequestJson = None,
    dtype: common.DType = None,
    device: common.Device = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Measure interleaved answers: single turns, edits of a given image, follow-ups on earlier images, stories of two
    to four images; or, with --tasks and --judge, ask questions of any kind and have the answers graded. The same
    command again resumes an interrupted run, or shows a finished one.

    armor-eval interleaved --limit 10 --baselines

    armor-eval interleaved --model DIR --tasks questions.jsonl --judge hf:OWNER/JUDGE
    """
    from armor_eval.cli import judging, responding
    from armor_eval.models.base import Decoding
    from armor_eval.profiles import EMBEDDED, choose_profile
    from armor_eval.tasks.interleaved.task import BASELINES, InterleavedTask
    from armor_eval.tasks.modality.task import ModalityTask

    if baselines and (repeats > 1 or tasks is not None):
        raise UserError("--baselines are of the embedded requests, with one seed", "leave --repeats and --tasks out")
    if judge is not None and shard is not None:
        raise UserError("a shard's answers are not judged", "merge the shards, then armor-eval judge answers")
    common.quiet_libraries()
    grading = judge_options.judge_options(judge_dtype, judge_args, judge_json)
    judging.check_grading(judge, rubric, prompt, tasks, calibration, grading)
    chosen = choose_profile(profile or (EMBEDDED if tasks is None else None), model)

    def asked(at: int) -> Iterator[tuple[str, Task]]:
        if tasks is not None:
            yield (
                f"interleaved-{common.short_name(tasks.stem)}",
                ModalityTask(chosen, prompts=tasks, limit=limit, seed=seed, drawn_from=at),
            )
            return
        for baseline in (None, *(BASELINES if baselines else ())):
            task = InterleavedTask(chosen, baseline=baseline, limit=limit, seed=seed, drawn_from=at)
            yield f"interleaved{'-' + baseline if baseline else ''}", task

    finished = responding.measure(
        "interleaved",
        model,
        chosen,
        asked,
        Decoding(
            max_new_tokens=max_new_tokens or chosen.interleaved_tokens,
            seed=seed,
            **only_given(image_temperature=image_temperature),
        ),
        limit=limit,
        out=out,
        batch_size=batch_size,
        repeats=repeats,
        shard=shard,
        workers=workers,
        options=common.model_options(
            dtype, device, device_map, model_args, **common.server_options(model, request_json)
        ),
        progress=not json_output,
    )
    if judge is not None:
        finished += judging.judge_runs(finished, judge, grading, rubric, prompt, tasks, calibration, batch_size)
    common.finish(finished, _show, as_text=not json_output, shard=shard, repeats=repeats > 1)


def _show(done: Finished) -> None:
    from armor_eval.cli import judging, modality
    from armor_eval.report.loading import RunView

    run, out = done.run, common.console()
    if run.kind == "modality":
        return modality.show(done)
    if run.judge.endpoint != "none":
        return judging.show(done)
    who = RunView(done.path, run, done.scores).who
    common.print_doc(out, common.metrics_doc(f"interleaved - {who} - profile {run.profile}", done.scores.metrics))
    given = ", ".join(f"{name} {count}" for name, count in sorted(run.extras["given"].items()))
    out.print(f"answered with: {given}", markup=False)
    if (told := run.extras["coherence"]) is not None:
        out.print(
            f"text and image both right: {told['both']:.1f} %; {told['independent']:.1f} % if one had nothing to do "
            f"with the other",
            markup=False,
        )
    for line in common.remarks(done):
        out.print(line, markup=False)
    out.print(str(done.path), markup=False, soft_wrap=True)
