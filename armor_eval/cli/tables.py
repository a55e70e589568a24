"""`armor-eval tables`: the paper's Tables 2-5 and statements beside what was measured, a verdict for every cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.text import visible

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
    row: Annotated[list[str] | None, typer.Option(help="MODEL=ROW: which row of the paper a model is.")] = None,
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
