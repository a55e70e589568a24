"""`armor-eval report`, `tables`, `card`, `history` and `export`: what is made of runs that are there."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armor_eval.cli import common
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.files import write_file
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
    from armor_eval.report import files
    from armor_eval.report.claims import load_claims, parse_row_choices
    from armor_eval.report.loading import load_runs, notices
    from armor_eval.report.page import render_page

    common.quiet_libraries()
    out = old_out or out_file
    if out.is_dir():
        raise UserError(f"{out} is a folder, expected a file to write", f"say --out-file {out / 'report.html'}")
    views = load_runs(runs)
    page = render_page(views, title=title, row_choices=parse_row_choices(row or [], load_claims()), data=data)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, page)
    if figures is not None:
        files.write_figures(views, figures)
    if archive is not None:
        files.archive(views, archive)
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
    from armor_eval.report.claims import load_claims, parse_row_choices
    from armor_eval.report.files import write_tables
    from armor_eval.report.formats import markdown
    from armor_eval.report.loading import load_runs, notices
    from armor_eval.report.tables import build

    wanted = [f.strip() for f in formats.split(",") if f.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    paths = [*(runs or []), *(more or [])]
    views = load_runs(paths) if paths else []
    chosen = parse_row_choices(row or [], load_claims())
    docs = build(views, only=table or (), chosen=chosen)
    lines = notices(views) if paths else ["no runs given: every cell says what a run would take"]
    if out is None:
        typer.echo("\n".join(markdown(d) for d in docs))
    else:
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
    from armor_eval.report.card import as_json, collect, docs_of
    from armor_eval.report.files import write_documents
    from armor_eval.report.loading import load_runs, notices

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
    """Of understanding and of text apart, each benchmark that the base measured too, and their mean; one at least."""
    from armor_eval.compare.retention import retention
    from armor_eval.compare.sources import find
    from armor_eval.report.card import KEPT, Kept

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


class By(StrEnum):
    date = "date"
    commit = "commit"


def history(
    folder: Annotated[list[Path], typer.Argument(help="Folders that hold runs.", metavar="FOLDER...")],
    bench: Annotated[list[str] | None, typer.Option(help="Only this benchmark; may be repeated.")] = None,
    metric: Annotated[str | None, typer.Option(help="A number by name; default: each benchmark's headline.")] = None,
    by: Annotated[By, typer.Option(help="What the plot's axis shows.")] = By.date,
    join_models: Annotated[
        bool,
        typer.Option("--join-models", help="One line for runs of different models, e.g. a training's checkpoints."),
    ] = False,
    controls: Annotated[bool, typer.Option("--controls", help="Blind and constant baselines too.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for history.md, .csv, .html and a plot a benchmark.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Show how scores moved; only comparable runs share a line, and the table says why others do not.

    armor-eval history runs --out history

    armor-eval history runs --bench MMB --by commit

    armor-eval history checkpoints --join-models --bench POPE --out pope
    """
    from armor_eval.report.files import write_documents
    from armor_eval.report.history import history as lines_of
    from armor_eval.report.history import history_doc, history_json, history_plots
    from armor_eval.report.loading import load_runs

    common.quiet_libraries()
    views = load_runs(folder)
    known = {view.run.benchmark.lower(): view.run.benchmark for view in views}
    for name in bench or ():
        if name.lower() not in known:
            raise unknown_name("benchmark among these runs", name, known.values())
    wanted = {name.lower() for name in bench or known}
    found = lines_of(
        [v for v in views if v.run.benchmark.lower() in wanted],
        metric=metric,
        join_models=join_models,
        controls=controls,
    )
    if not found.lines:
        raise UserError(
            f"no line can be drawn: {'; '.join(found.left_out[:3]) or 'these runs have no scores'}",
            "give complete runs of a benchmark, or another --metric",
        )
    doc = history_doc(found)
    if out is not None:
        written = write_documents([doc], out, "history", "History", history_plots(found, by.value))
        common.notices().print("\n".join(str(path) for path in written), markup=False, soft_wrap=True)
    if json_output:
        common.write(json.dumps(history_json(found), indent=1, ensure_ascii=False))
    else:
        common.print_doc(common.console(), doc)


def export(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
    to: Annotated[str, typer.Option(help="eee, hf, model-index, inspect, lm-eval, csv, parquet, wandb or mlflow.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    org: Annotated[str | None, typer.Option(help="Who measured (eee).")] = None,
    relationship: Annotated[
        str | None,
        typer.Option(help="Of who measured to the model (eee): first_party, third_party, collaborative, other."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="BENCH=OWNER/NAME#TASK", help="A benchmark's data set on the Hub (hf); may be repeated."),
    ] = None,
    project: Annotated[str, typer.Option(help="Project or experiment (wandb, mlflow).")] = "armor-eval",
    items: Annotated[bool, typer.Option(help="With the single items, where the run kept them.")] = True,
    partial: Annotated[bool, typer.Option(help="Also unfinished runs and withheld headlines, marked as such.")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write runs in another tool's format; nothing leaves this machine.

    Reservations, the protocol label and the profile travel with every number.

    armor-eval export runs --to inspect --out logs          # then: inspect view --log-dir logs

    armor-eval export runs --to eee --org "My lab" --relationship first_party --out shared

    armor-eval export runs/MMMU --to hf --dataset MMMU=MMMU/MMMU#validation --out repo
    """
    from armor_eval.export import export as write
    from armor_eval.export.record import Options
    from armor_eval.report.loading import load_runs

    common.quiet_libraries()
    homes = tuple(_home(text) for text in dataset or ())
    options = Options(org, relationship, homes, project, items)
    views = load_runs(runs)
    scored = [view for view in views if view.run.kind != "training"]
    if len(scored) < len(views):
        common.notices().print(f"left out: {len(views) - len(scored)} training runs, which have no scores")
    records, files = write(scored, to, out, options, partial=partial)
    if json_output:
        told = [
            {
                "run_id": r.run.run_id,
                "benchmark": r.benchmark,
                "model": r.model,
                "numbers": len(r.results),
                "items": len(r.items),
                "remarks": r.remarks,
            }
            for r in records
        ]
        common.write(json.dumps({"to": to, "files": [str(f) for f in files], "runs": told}, indent=1))
        return
    reserved = [record for record in records if record.reservations]
    numbers = sum(len(record.results) for record in records)
    common.write(f"{out}: {len(records)} runs, {numbers} numbers, {len(files)} files")
    for record in reserved:
        common.write(f"  {record.benchmark}, {record.model}: {'; '.join(record.reservations)}")


def _home(text: str) -> tuple[str, str, str]:
    """`BENCH=OWNER/NAME#TASK` in its parts."""
    bench, _, rest = text.partition("=")
    name, _, task = rest.partition("#")
    if not (bench and task and name.count("/") == 1):
        raise UserError(f"--dataset {text!r} is not BENCH=OWNER/NAME#TASK", "e.g. --dataset MMMU=MMMU/MMMU#validation")
    return bench, name, task
