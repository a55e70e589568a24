"""`armor-eval modality`: does it answer with text, an image or both, as asked; and models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common, judge_options
from armor_eval.tasks.modality import LINE
from armor_model.base.cli import only_given
from armor_model.base.errors import UserError
from armor_model.base.help import OldOut

if TYPE_CHECKING:
    from armor_eval.engine import Finished

modality = typer.Typer(no_args_is_help=False)


@modality.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: common.Profile = None,
    prompts: Annotated[
        Path | None, typer.Option(help=f"JSON lines of requests; needed outside of shapes. A line: {LINE}")
    ] = None,
    multi_turn: Annotated[
        bool,
        typer.Option(
            help="Ask the conversations of the shapes world instead: questions about the model's own drawings, changes "
            "to them, requests that its world does not hold."
        ),
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N requests of each kind, seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/modality/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests a batch.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset and seeds the images.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; default 512, shapes 64.")] = None,
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
    """Measure the choice of modality. The same command again resumes an interrupted run, or shows a finished one.

    armor-eval modality --limit 50

    armor-eval modality --multi-turn

    armor-eval modality --model DIR --prompts requests.jsonl --repeats 3
    """
    if context.invoked_subcommand is not None:
        return
    from armor_eval.cli import responding
    from armor_eval.models.base import Decoding
    from armor_eval.profiles import choose_profile
    from armor_eval.tasks.modality.task import ModalityTask
    from armor_eval.tasks.modality.turns import BENCHMARK, ConversationTask

    common.quiet_libraries()
    chosen = choose_profile(profile, model)
    if multi_turn and prompts is not None:
        raise UserError("--multi-turn asks its own conversations", "leave --prompts or --multi-turn out")

    def task(at: int) -> tuple[str, ModalityTask | ConversationTask]:
        if multi_turn:
            return BENCHMARK, ConversationTask(chosen, limit=limit, seed=seed, drawn_from=at)
        return "modality", ModalityTask(chosen, prompts=prompts, limit=limit, seed=seed, drawn_from=at)

    finished = responding.measure(
        BENCHMARK if multi_turn else "modality",
        model,
        chosen,
        lambda at: [task(at)],
        Decoding(
            max_new_tokens=max_new_tokens or chosen.response_tokens,
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
    common.finish(finished, show, as_text=not json_output, shard=shard)


@modality.command("side-by-side")
def side_by_side(
    model: Annotated[list[str], typer.Option(help="A model; repeat for several.")],
    out_file: Annotated[
        Path, typer.Option(help="The page to write; the runs go to NAME-runs beside it, the figure to NAME.pdf.")
    ] = Path("side-by-side.html"),
    old_out: OldOut = None,
    profile: Annotated[str | None, typer.Option(help="shapes or official: which prompts are asked.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "--picture", help="The image of the paper's first prompt (official).")
    ] = None,
    judge: judge_options.Then = None,
    rubric: judge_options.Rubric = "armor-rubric-v1",
    prompt: judge_options.Words = None,
    calibration: judge_options.Known = None,
    judge_dtype: judge_options.DType = None,
    judge_args: judge_options.Args = None,
    judge_json: judge_options.Json = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the images.")] = 0,
    dtype: common.DType = None,
    device: common.Device = None,
) -> None:
    """Ask several models the prompts of the paper's section 6.2 and show the answers side by side, with a judge's
    grades where one is given. The same command again resumes, and asks what is missing.

    armor-eval modality side-by-side --model armor-nano --out-file page.html
    """
    from armor_eval.cli import judging, responding
    from armor_eval.models.base import Decoding
    from armor_eval.profiles import choose_profile
    from armor_eval.report.loading import load_runs
    from armor_eval.report.page import render_page
    from armor_eval.report.side import TITLE, side_doc, write_side_figure
    from armor_eval.tasks.modality.records import side_by_side as requests_of
    from armor_eval.tasks.modality.task import ModalityTask
    from armor_model.base.files import make_folder, write_file

    out = old_out or out_file
    figure, runs = out.with_suffix(".pdf"), out.with_name(f"{out.stem}-runs")
    if out.is_dir() or out == figure:
        raise UserError(
            f"{out} is {'a folder' if out.is_dir() else 'the figure'}, expected a file to write",
            f"say --out-file {out / 'side-by-side.html' if out.is_dir() else out.with_suffix('.html')}",
        )
    if len({common.short_name(one) for one in model}) < len(model):
        raise UserError("two of the models have one name", "give each once, folders of different names")
    make_folder(out.parent)
    common.quiet_libraries()
    grading = judge_options.judge_options(judge_dtype, judge_args, judge_json)
    judging.check_grading(judge, rubric, prompt, None, calibration, grading)
    chosen = choose_profile(profile, model[0])
    requests, remarks = requests_of(chosen, image)
    finished: list[Finished] = []
    for spec in model:
        finished += responding.measure(
            "side-by-side",
            spec,
            chosen,
            lambda at: [("side-by-side", ModalityTask(chosen, prompts=requests, drawn_from=at))],
            Decoding(max_new_tokens=chosen.response_tokens, seed=seed),
            limit=None,
            out=runs / common.short_name(spec),
            batch_size=len(requests.records),
            repeats=1,
            shard=None,
            workers=None,
            options=common.model_options(dtype, device, None, None),
            progress=False,
        )
    if judge is not None:
        finished += judging.judge_runs(finished, judge, grading, rubric, prompt, None, calibration, batch_size=16)
    views = load_runs(one.path for one in finished)
    write_file(out, render_page(views, title=TITLE, docs=list(filter(None, [side_doc(views)])), with_plots=False))
    write_side_figure(views, figure)
    for line in remarks:
        common.notices().print(f"note: {line}", markup=False, soft_wrap=True)
    common.write(f"{out} and {figure}")
    if any(one.run.status != "complete" for one in finished):
        raise typer.Exit(1)


def show(done: Finished) -> None:
    run, out = done.run, common.console()
    title = f"{run.benchmark} - {run.model.name} - profile {run.profile}"
    common.print_doc(out, common.metrics_doc(title, done.scores.metrics))
    if (confusion := run.extras.get("confusion")) is not None:
        table = common.Doc("confusion", "wanted (rows) and given", "", ["", *confusion["given"]])
        for wanted, row in zip(confusion["wanted"], confusion["counts"], strict=True):
            table.add([wanted, *map(str, row)])
        common.print_doc(out, table)
    for line in common.remarks(done):
        out.print(line, markup=False)
    out.print(str(done.path), markup=False, soft_wrap=True)
