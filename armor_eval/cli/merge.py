"""`armor-eval merge`: joins the parts that `--shard I/N` measured and scores them by their own command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
