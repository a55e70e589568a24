"""`armor-eval list`: what can be measured, and which models can be asked."""

from __future__ import annotations

from typing import Annotated

import typer


def listing(
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Benchmarks with their data set, split and reported number; then the kinds of `--model`."""
    import json

    from armor_eval.cli import common
    from armor_eval.models.registry import BUNDLED, KINDS
    from armor_eval.understanding.declare import benchmarks

    declared = benchmarks().values()
    if json_output:
        common.write(json.dumps([b.model_dump(mode="json") for b in declared], indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(title="understanding --bench ... (all = those of the paper's Table 2)", title_justify="left")
    for name in ("name", "data set", "split", "judge", "reported number"):
        table.add_column(name)
    for b in declared:
        star = "" if b.in_paper else " (not in all)"
        table.add_row(b.name + star, b.dataset, b.split, b.judge, b.number)
    out = common.console()
    out.print(table)
    models = Table(title="--model ...", title_justify="left")
    for name in ("say", "what it is"):
        models.add_column(name)
    models.add_row(BUNDLED, "the bundled checkpoint (default)")
    models.add_row("FOLDER", "a checkpoint that armor-model or armor-train wrote")
    for kind in KINDS.values():
        models.add_row(kind.shows, kind.help)
    out.print(models)
