"""`armor-eval modality`: does it answer with text, a picture or both, as asked; and models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armor_eval.cli import common
from armor_eval.tasks.modality import LINE
from armor_model.base.errors import UserError

modality = typer.Typer(no_args_is_help=False, add_completion=False, rich_markup_mode=None)


@modality.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Folder of a checkpoint, or KIND:NAME; default armor-nano.")] = None,
    profile: Annotated[
        str | None, typer.Option(help="shapes (embedded) or official; default: shapes for armor-nano, else official.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help=f"JSON lines of requests; needed outside of shapes. A line: {LINE}")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N requests of each kind, seeded.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/modality/...")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests a batch.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the subset and seeds the pictures.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text; default 512, shapes 64.")] = None,
    image_temperature: Annotated[float, typer.Option(min=0, help="0 = the likeliest code each time.")] = 1.0,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Ask only this part; armor-eval merge joins the parts.")
    ] = None,
    dtype: common.DType = None,
    device: common.Device = None,
    device_map: common.DeviceMap = None,
    model_args: common.ModelArgs = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Measure the choice of modality. The same command again resumes an interrupted run, or shows a finished one."""
    if context.invoked_subcommand is not None:
        return
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.cli.understanding import check_profile
    from armor_eval.engine import Settings, evaluate, join_processes
    from armor_eval.models import registry
    from armor_eval.models.base import Decoding, RespondsFreely
    from armor_eval.runs.merge import parse_shard
    from armor_eval.tasks.modality.task import ModalityTask

    common.quiet_libraries()
    chosen = check_profile(profile, model)
    if chosen == "official" and prompts is None:
        raise UserError(
            "no public benchmark asks for a modality: outside of the shapes world requests are needed",
            f"give --prompts FILE.jsonl with lines like {LINE}, or --profile shapes",
        )
    decoding = Decoding(
        max_new_tokens=max_new_tokens or (64 if chosen == "shapes" else 512),
        image_temperature=image_temperature,
        seed=seed,
    )
    settings = Settings(chosen, list(COMMAND_LINE.get()), decoding, batch_size, parse_shard(shard))
    task = ModalityTask(prompts=prompts, limit=limit, seed=seed, readable=chosen == "shapes")
    options = common.model_options(dtype, device, device_map, model_args)
    processes = join_processes()
    adapter = registry.load(model, chosen, does=RespondsFreely, own_device=processes.device, **options)
    name = "modality" + (f"-limit{limit}-seed{seed}" if limit is not None else "") + common.shard_name(shard)
    folder = out or Path("runs") / "modality" / f"{common.short_name(adapter.info.name)}-{chosen}-{name}"
    try:
        with common.progress_bar("modality", processes.first and not json_output) as progress:
            done = evaluate(task, adapter, folder, settings, processes=processes, progress=progress)
    finally:
        adapter.close()
    if done is None:
        return
    if shard is not None:
        return common.show_shard(done)
    if json_output:
        common.write(common.as_json([done]))
    else:
        _show(done)
    if done.run.status != "complete":
        raise typer.Exit(1)


@modality.command("side-by-side")
def side_by_side(
    model: Annotated[list[str], typer.Option(help="A model; repeat for several.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("side-by-side.html"),
    profile: Annotated[str | None, typer.Option(help="shapes or official: which prompts are asked.")] = None,
    picture: Annotated[Path | None, typer.Option(help="The picture of the paper's first prompt (official).")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Ask several models the prompts of the paper's section 6.2 and show the answers side by side."""
    from armor_eval.cli.understanding import check_profile
    from armor_eval.tasks.modality.side import write_side_by_side
    from armor_model.base.files import make_folder

    if out.is_dir():
        raise UserError(f"{out} is a folder, expected a file to write", f"say --out {out / 'side-by-side.html'}")
    make_folder(out.parent)
    common.quiet_libraries()
    write_side_by_side(model, check_profile(profile, model[0]), out, picture, seed)
    common.write(str(out))


def _show(done) -> None:
    run, out = done.run, common.console()
    title = f"modality - {run.model.name} - profile {run.profile}"
    common.print_doc(out, common.metrics_doc(title, done.scores.metrics))
    confusion = run.extras["confusion"]
    table = common.Doc("confusion", "wanted (rows) and given", "", ["", *confusion["given"]])
    for wanted, row in zip(confusion["wanted"], confusion["counts"], strict=True):
        table.add([wanted, *map(str, row)])
    common.print_doc(out, table)
    for line in common.remarks(done):
        out.print(line, markup=False)
    out.print(str(done.path), markup=False, soft_wrap=True)
