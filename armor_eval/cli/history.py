"""`armor-eval history`: a score over commits and dates, with intervals."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


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
    import json

    from armor_eval.cli import common
    from armor_eval.report.history import history as lines_of
    from armor_eval.report.history import history_doc, history_json, history_plots
    from armor_eval.report.loading import load_runs
    from armor_model.base.errors import UserError, unknown_name

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
        from armor_eval.report.files import write_documents

        written = write_documents([doc], out, "history", "History", history_plots(found, by.value))
        common.notices().print("\n".join(str(path) for path in written), markup=False, soft_wrap=True)
    if json_output:
        common.write(json.dumps(history_json(found), indent=1, ensure_ascii=False))
    else:
        common.print_doc(common.console(), doc)
