"""`armor-eval report`: one self-contained HTML page of any number of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.help import OldOut
from armor_model.base.text import visible


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
    out_file: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    old_out: OldOut = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write plots (SVG) and sheets (PNG) to this folder.")
    ] = None,
    archive: Annotated[Path | None, typer.Option(help="Also copy records, curves and sheets (no items) here.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "ARMOR report",
    row: Annotated[list[str] | None, typer.Option(help="MODEL=ROW: which row of the paper a model is.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the TSV files, for question images; default: $LMUData.")
    ] = None,
) -> None:
    """Write a page that needs no network: verdict, tables, plots, every item with images, answer and reason.

    armor-eval report runs --out-file report.html --figures figures
    """
    from armor_eval.cli.common import quiet_libraries
    from armor_eval.report.claims import load_claims, parse_row_choices
    from armor_eval.report.loading import load_runs, notices
    from armor_eval.report.page import render_page
    from armor_model.base.errors import UserError
    from armor_model.base.files import write_file

    quiet_libraries()
    out = old_out or out_file
    if out.is_dir():
        raise UserError(f"{out} is a folder, expected a file to write", f"say --out-file {out / 'report.html'}")
    views = load_runs(runs)
    page = render_page(views, title=title, row_choices=parse_row_choices(row or [], load_claims()), data=data)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, page)
    if figures is not None:
        from armor_eval.report.files import write_figures

        write_figures(views, figures)
    if archive is not None:
        from armor_eval.report.files import archive as copy_heads

        copy_heads(views, archive)
    for line in notices(views):
        typer.echo(visible(f"note: {line}"), err=True)
    typer.echo(f"{out} ({out.stat().st_size / 1e6:.1f} MB, {len(views)} runs)")
