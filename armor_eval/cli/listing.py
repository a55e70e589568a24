"""`armor-eval list`: what can be measured, and which models can be asked."""

from __future__ import annotations

from typing import Annotated

import typer

BESIDE = (
    ("geneval", "drawing: the official prompts of GenEval, or the shapes world's", "overall, the mean of six tasks"),
    ("modality", "the choice of text, picture or both: shapes world, or --prompts", "requests answered as asked"),
    ("ablate-heads", "forward switching against one head: the paper's Figures 7 and 8", "loss curves, text kept"),
    ("ablate-stages", "which parts are trained: the paper's Tables 4 and 5", "understanding and drawing by scheme"),
)
"""Measuring commands beside understanding: name, what is measured, reported number."""


def listing(
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """All that can be measured, with data set, split and reported number; then the kinds of `--model`."""
    import json

    from armor_eval.cli import common
    from armor_eval.models.registry import BUNDLED, KINDS
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.understanding.declare import benchmarks

    declared, drawn = benchmarks().values(), suites().values()
    if json_output:
        listed = [{**b.model_dump(mode="json"), "command": f"understanding --bench {b.name}"} for b in declared]
        listed += [
            {"name": name, "title": what, "number": number, "command": name, "in_paper": False}
            for name, what, number in BESIDE
        ]
        listed += [{**s.model_dump(mode="json"), "command": f"draw --suite {s.name}"} for s in drawn]
        common.write(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="understanding --bench ... (all = those of the paper's Table 2)", title_justify="left")
    for name in ("name", "data set", "split", "judge", "reported number"):
        table.add_column(name)
    for b in declared:
        star = "" if b.in_paper else " (not in all)"
        table.add_row(b.name + star, b.dataset, b.split, b.judge, b.number)
    out = common.console()
    out.print(table)
    table = Table(title="draw --suite ... (geneval too)", title_justify="left")
    for name in ("name", "suite", "kind of judge", "its own judge"):
        table.add_column(name)
    for s in drawn:
        table.add_row(s.name, s.title, s.judge, s.own_judge or "-")
    out.print(table)
    beside = Table(title="armor-eval ... (commands of their own)", title_justify="left")
    for name in ("command", "what is measured", "reported number"):
        beside.add_column(name)
    for row in BESIDE:
        beside.add_row(*row)
    out.print(beside)
    models = Table(title="--model ...", title_justify="left")
    for name in ("say", "what it is"):
        models.add_column(name)
    models.add_row(BUNDLED, "the bundled checkpoint (default)")
    models.add_row("FOLDER", "a checkpoint that armor-model or armor-train wrote")
    for kind in KINDS.values():
        models.add_row(escape(kind.shows), kind.help)
    out.print(models)
