"""`armor-eval demo`: the bundled model answers two benchmarks of the shapes world and draws; no network, GPU or key."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common
from armor_model.base.optional import not_none

if TYPE_CHECKING:
    from armor_eval.engine import Finished
    from armor_eval.models.base import DrawsImages

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
    from armor_eval.models.base import Decoding
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
    from armor_eval.models.base import Decoding
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
    from armor_eval.cli import common
    from armor_eval.runs.bundle import read_bundle
    from armor_eval.stats.composite import accuracy, measure

    items = read_bundle(finished.path)[1]
    groups = sorted({it.group for it in items if it.group})
    metrics = [measure([it for it in items if it.group == group], accuracy(group)) for group in groups]
    title = f"{finished.run.benchmark} by type (chance: 25 %)"
    common.print_doc(common.console(), common.metrics_doc(title, metrics, "type"))
