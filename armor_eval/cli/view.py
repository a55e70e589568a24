"""`armor-eval view`: all runs under some folders in a browser, with full images; one that is going on is shown live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def view(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders that hold some; default runs.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine only; 0 takes a free one.")] = 8765,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the TSV files, for question images; default: $LMUData.")
    ] = None,
) -> None:
    """Serve a sortable table of all runs and the page of each, until Ctrl-C; nothing leaves this machine.

    armor-eval view runs
    """
    from armor_eval.cli import common
    from armor_eval.report.serve import Library, make_app
    from armor_model.base.errors import UserError

    common.need_server("view", "view")
    common.quiet_libraries()
    roots = runs or [Path("runs")]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"no such folder: {root}", "give the folder that measuring commands wrote to (--out)")
    common.serve(make_app(Library(roots, data)), port)
