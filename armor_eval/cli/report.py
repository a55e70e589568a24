"""`armor-eval report`, `tables` and `card`: pages and tables of runs that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_model.base.help import OldOut
from armor_model.base.text import visible

if TYPE_CHECKING:
    from armor_eval.report.card import Card, Kept

PaperRow = Annotated[list[str] | None, typer.Option(help="MODEL=ROW: which row of the paper a model is.")]


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
    out_file: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    old_out: OldOut = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also write plots (SVG) and sheets (PNG) to this folder.")
    ] = None,
    archive: Annotated[Path | None, typer.Option(help="Also copy records, curves and sheets (no items) here.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "ARMOR report",
    row: PaperRow = None,
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


FORMATS = ("md", "tex", "csv", "html")


def tables(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders, or folders that hold some.")] = None,
    more: Annotated[list[Path] | None, typer.Option("--runs", help="The same, as an option; may be repeated.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; without it Markdown goes to the terminal.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table (table2 ... table5, claims, shapes-...).")
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="Comma list of md, tex, csv, html.")] = "md,tex,csv,html",
    row: PaperRow = None,
) -> None:
    """Write the paper's tables with measured rows, intervals and verdicts.

    Without runs every cell says what a run would take. Embedded-profile results stand in tables of their own.

    armor-eval tables runs --out tables
    """
    from armor_eval.report import tables as build_tables
    from armor_eval.report.claims import load_claims, parse_row_choices
    from armor_eval.report.loading import load_runs, notices
    from armor_model.base.errors import unknown_name

    wanted = [f.strip() for f in formats.split(",") if f.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    paths = [*(runs or []), *(more or [])]
    views = load_runs(paths) if paths else []
    chosen = parse_row_choices(row or [], load_claims())
    docs = build_tables.build(views, only=table or (), chosen=chosen)
    lines = notices(views) if paths else ["no runs given: every cell says what a run would take"]
    if out is None:
        from armor_eval.report.formats import markdown

        typer.echo("\n".join(markdown(d) for d in docs))
    else:
        from armor_eval.report.files import write_tables

        for path in write_tables(docs, out, wanted, lines):
            typer.echo(str(path))
    for line in lines:
        typer.echo(visible(f"note: {line}"), err=True)


def card(
    checkpoint: Annotated[str, typer.Argument(help="The model: a folder, or what --model said, or its name.")],
    runs: Annotated[list[Path], typer.Argument(help="Its run folders, or folders that hold some; training too.")],
    base: Annotated[
        Path | None, typer.Option(help="Runs of the model it was made from: how much of them is kept.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for card.md, card.html, card.json and a CSV a table.")] = Path(
        "card"
    ),
    json_output: Annotated[bool, typer.Option("--json", help="Print the card as JSON too.")] = False,
) -> None:
    """Write one page about a checkpoint: understanding, drawing, suites, modality, interleaved answers, text, what is
    kept of a base, cost, reservations, claims.

    What was not measured is listed with the command that measures it.

    armor-eval card armor-nano runs --out card

    armor-eval card checkpoints/step-4000 runs training --base runs-of-the-base --out card
    """
    from armor_eval.cli import common
    from armor_eval.report.card import as_json, collect, docs_of
    from armor_eval.report.files import write_documents
    from armor_eval.report.loading import load_runs, notices
    from armor_model.base.files import write_file

    common.quiet_libraries()
    collected = collect(checkpoint, load_runs(runs))
    if base is not None:
        collected.kept = _kept(base, collected)
    written = write_documents(docs_of(collected), out, "card", f"Card of {collected.model.model.name}")
    record = json.dumps(as_json(collected), indent=1, ensure_ascii=False) + "\n"
    write_file(out / "card.json", record)
    for line in notices(collected.views):
        typer.echo(f"note: {line}", err=True)
    if json_output:
        common.write(record.rstrip())
        return
    common.write(f"{out / 'card.html'} ({len(collected.views)} runs, {len(written) + 1} files)")


def _kept(base: Path, collected: Card) -> list[Kept]:
    """Of understanding and of text apart, each benchmark that the base measured too, and their mean. UserError where
    it measured none."""
    from armor_eval.compare.retention import retention
    from armor_eval.compare.sources import find
    from armor_eval.report.card import KEPT, Kept
    from armor_model.base.errors import UserError

    there = {(source.run.kind, source.run.benchmark) for source in find(base)}
    rows: list[Kept] = []
    for kind in KEPT:
        views = [view for view in collected.of_kind(kind) if (kind, view.run.benchmark) in there]
        if views:
            each, mean = retention(base, [view.path for view in views])
            rows += [Kept(kind, row.benchmark, row.kept, row.ci95) for row in [*each, mean]]
    if not rows:
        raise UserError(
            f"{base} and the card's runs share neither understanding nor text", "give the base's runs of both"
        )
    return rows
