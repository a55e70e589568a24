"""`armor-eval suite FILE.toml`: everything that is measured of one model, then tables and a page, in one command;
`merge`, which joins the parts that `--shard I/N` measured; and `demo`, a tour of the shapes world by the bundled model.
"""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import Field, ValidationError

from armor_eval.base.data import Declared
from armor_eval.cli import common
from armor_eval.cli.report import FORMATS
from armor_eval.models.base import Decoding
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from armor_eval.engine import Finished
    from armor_eval.models.base import DrawsImages


class Plan(Declared):
    """What the file may say; everything but `tasks` has a default, which is that of `armor_eval.evaluate`."""

    tasks: list[str] = Field(default_factory=list)
    """Benchmarks by name or `./FILE.toml`, `all`, `geneval`, `modality`, suites of drawing by name."""
    suites: list[str] = Field(default_factory=list)
    """Suites of drawing declared in files of your own: `./FILE.toml`."""
    model: str | None = None
    """What `--model` takes; default armor-nano."""
    profile: str | None = None
    out: Path | None = None
    """Folder of the runs, each in OUT/NAME, of OUT/tables and OUT/report.html; default runs/suite/NAME of the file."""
    limit: int | None = Field(None, ge=1)
    """Only so many units of each task, chosen by `seed`."""
    seed: int = Field(0, ge=0)
    repeats: int = Field(1, ge=1)
    baselines: bool = False
    """Also the model without images and a constant answer, of each benchmark; what `interleaved --baselines` adds."""
    batch_size: int | None = Field(None, ge=1)
    workers: int | None = Field(None, ge=1)
    """As `--workers`."""
    data: Path | None = None
    """Folder of the official TSV files, and of the suites' files."""
    judge: str | None = None
    """Of the benchmarks that need one."""
    suite_judge: str | None = None
    """Of the suites; default: each suite's."""
    dtype: str | None = None
    device: str | None = None
    device_map: str | None = None
    model_args: str | None = None
    """k=v,... as `--model-args` takes them."""
    decoding: Decoding | None = None
    """A table: temperature, max_new_tokens, image_temperature ..."""


def suite(
    file: Annotated[Path, typer.Argument(help="What to measure of which model; e.g. benchmarks/armor-nano.toml.")],
    model: Annotated[str | None, typer.Option(help="Another model than the file's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Another folder than the file's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N units of each task: another limit.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the file's.")] = None,
    dtype: common.DType = None,
    device: common.Device = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print runs and scores as JSON.")] = False,
) -> None:
    """Measure a model by benchmarks, geneval, modality and suites, then write tables and a page. The same command again
    goes on where it was interrupted.

    armor-eval suite benchmarks/armor-nano.toml

    armor-eval suite plan.toml --model checkpoints/step-4000 --out runs/step-4000
    """
    from armor_eval import evaluate
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.report.files import write_tables
    from armor_eval.report.loading import load_runs, notices
    from armor_eval.report.page import render_page
    from armor_eval.report.results import results_doc
    from armor_eval.report.tables import build
    from armor_eval.tasks.suites.declare import choose
    from armor_model.base.files import write_file

    common.quiet_libraries()
    plan = read_plan(file)
    given = {"model": model, "out": out, "limit": limit, "seed": seed, "dtype": dtype, "device": device}
    plan = plan.model_copy(update={name: value for name, value in given.items() if value is not None})
    folder = plan.out or Path("runs") / "suite" / file.stem
    finished = evaluate(
        plan.model,
        [*plan.tasks, *(choose(plan.suites) if plan.suites else [])],
        folder,
        profile=plan.profile,
        limit=plan.limit,
        seed=plan.seed,
        data=plan.data,
        judge=plan.judge,
        suite_judge=plan.suite_judge,
        decoding=plan.decoding,
        batch_size=plan.batch_size,
        workers=plan.workers,
        repeats=plan.repeats,
        baselines=plan.baselines,
        command=COMMAND_LINE.get(),
        progress=common.bars(not json_output),
        model_options=common.model_options(plan.dtype, plan.device, plan.device_map, plan.model_args),
    )
    views = load_runs(one.path for one in finished)
    write_tables(build(views), folder / "tables", FORMATS, notices(views))
    page = folder / "report.html"
    write_file(page, render_page(views, title=f"{finished[0].run.model.name}: {file.stem}", data=plan.data))
    if json_output:
        common.write(common.as_json(finished, repeated=plan.repeats > 1))
    else:
        if (doc := results_doc(views)) is not None:
            common.print_doc(common.console(), doc)
        if plan.repeats > 1:
            common.print_repeats(finished)
        common.console().print(f"{page} and {folder / 'tables'}", markup=False, soft_wrap=True)
    if any(one.run.status != "complete" for one in finished):
        raise typer.Exit(1)


def read_plan(file: Path) -> Plan:
    """The file's plan. UserError for a file that is none, naming the key and what was meant."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {file}", "write one: see benchmarks/armor-nano.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no TOML: {error}") from None
    try:
        plan = Plan.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{file}: {_wrong(error)}") from None
    if not plan.tasks and not plan.suites:
        raise UserError(f"{file} names no task", 'say e.g. tasks = ["POPE", "geneval"]; see armor-eval list')
    return plan


def _wrong(error: ValidationError) -> str:
    """The first thing that is wrong, in one line; a key that is not known before a value that does not fit."""
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    *above, key = map(str, first["loc"])
    if first["type"] != "extra_forbidden":
        return f"{'.'.join([*above, key])}: {first['msg']}, not {first['input']!r}"
    known = Decoding.model_fields if above == ["decoding"] else Plan.model_fields
    return f"unknown key {'.'.join([*above, key])!r}{did_you_mean(key, known)}; known: {', '.join(known)}"


def merge(
    shards: Annotated[list[Path], typer.Argument(help="The folders of all N shards of one run.")],
    out: Annotated[Path, typer.Option(help="New folder of the joined run.")],
) -> None:
    """Join shards of a job array into one run and score it.

    armor-eval modality --model M --prompts P --shard 1/2 --out s1     # and 2/2, elsewhere

    armor-eval merge s1 s2 --out whole
    """
    from armor_eval.cli import main
    from armor_eval.runs.merge import merge as join

    joined = join(shards, out)
    raise typer.Exit(main(joined.command[1:]))


PROMPTS = (
    "draw a red circle",
    "draw a blue square",
    "draw a green triangle and a yellow cross",
    "draw a purple circle left of a red square",
    "draw a blue triangle above a green circle",
    "draw two yellow squares",
    "draw three red crosses",
    "draw a green square and a purple triangle",
)
"""What the contact sheet asks for: single things, pairs, colours, counts, relations."""
BENCHMARKS = ("MMB", "POPE")
"""What the tour measures: MMBench's circular multiple choice, and POPE's yes or no."""
COLUMNS = 4
"""Of the contact sheet."""


def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/demo/<time>.")] = None,
    model: Annotated[str | None, typer.Option(help="Another ARMOR checkpoint than the bundled armor-nano.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only N groups of questions.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions a batch.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawings.")] = 0,
    dtype: common.DType = None,
    device: common.Device = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print runs and scores as JSON.")] = False,
) -> None:
    """A tour: VLMEvalKit's data set and scoring on the embedded benchmark, then a sheet of drawings.

    armor-eval demo
    """
    from armor_eval.cli import COMMAND_LINE
    from armor_eval.engine import Settings, evaluate
    from armor_eval.models import registry
    from armor_eval.tasks.understanding.declare import choose
    from armor_eval.tasks.understanding.task import Options, UnderstandingTask

    common.quiet_libraries()
    folder = out or Path("runs") / "demo" / time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    adapter = registry.load(model, "shapes", **common.model_options(dtype, device, None, None))
    settings = Settings("shapes", list(COMMAND_LINE.get()), Decoding(max_new_tokens=64), batch_size)
    finished: list[Finished] = []
    for benchmark in choose(list(BENCHMARKS)):
        with common.progress_bar(f"answering {benchmark.name} of the shapes world", not json_output) as progress:
            task = UnderstandingTask(benchmark, "shapes", Options(limit=limit))
            finished.append(not_none(evaluate(task, adapter, folder / benchmark.name, settings, progress=progress)))
    sheet = folder / "drawings.png"
    drawn = draw_sheet(adapter, PROMPTS, seed, sheet)
    adapter.close()
    page = write_page(folder)
    if json_output:
        common.write(json.dumps({"drawings": str(sheet), "drawn": drawn, "runs": json.loads(common.as_json(finished))}))
    else:
        common.print_scores(finished)
        _print_types(finished[0])
        common.console().print(
            f"{drawn} of {len(PROMPTS)} images drawn, not judged: {sheet}", markup=False, soft_wrap=True
        )
        common.console().print(f"everything on one page: {page}", markup=False, soft_wrap=True)
    if any(f.run.status != "complete" for f in finished) or drawn < len(PROMPTS):
        raise typer.Exit(1)


def write_page(folder: Path) -> Path:
    """The report of the tour's runs: verdict, tables, plots and every item."""
    from armor_eval.report.loading import load_runs
    from armor_eval.report.page import render_page
    from armor_model.base.files import write_file

    page = folder / "report.html"
    images = [("What it drew, not judged", folder / "drawings.png")]
    write_file(page, render_page(load_runs([folder]), title="armor-eval demo", images=images))
    return page


def draw_sheet(model: DrawsImages, prompts: tuple[str, ...], seed: int, path: Path) -> int:
    """Draw each prompt and write one sheet of captioned images; returns how many could be drawn."""
    from armor_model.base.sheets import Tile, contact_sheet

    images = model.draw(list(prompts), [seed + i for i in range(len(prompts))], Decoding(image_temperature=0.5))
    tiles = [
        Tile(None, caption=f"failed: {image}")
        if isinstance(image, Exception)
        else Tile(image, caption=prompt.removeprefix("draw "))
        for prompt, image in zip(prompts, images, strict=True)
    ]
    rows = [("", tiles[i : i + COLUMNS]) for i in range(0, len(tiles), COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(rows, side=256).save(path)
    return sum(tile.image is not None for tile in tiles)


def _print_types(finished: Finished) -> None:
    """Accuracy of single questions, not of whole groups, by type: a good mean can hide one answered by a constant."""
    from armor_eval.runs.bundle import read_bundle
    from armor_eval.stats.composite import accuracy, measure

    items = read_bundle(finished.path)[1]
    groups = sorted({it.group for it in items if it.group})
    metrics = [measure([it for it in items if it.group == group], accuracy(group)) for group in groups]
    title = f"{finished.run.benchmark} by type (chance: 25 %)"
    common.print_doc(common.console(), common.metrics_doc(title, metrics, "type"))
