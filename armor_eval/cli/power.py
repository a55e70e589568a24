"""armor-eval power: how many items it takes to see a drop, or what drop a benchmark can show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def power(
    bench: Annotated[str, typer.Option("--bench", help="Benchmark, e.g. MMB.")],
    drop: Annotated[float | None, typer.Option("--drop", help="True drop to be seen, in the number's unit.")] = None,
    clusters: Annotated[
        int | None, typer.Option(min=2, help="Groups to plan for; default: the published size.")
    ] = None,
    changed: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of groups in which equal models differ; default 0.1.")
    ] = None,
    runs: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Two runs to read sizes and changes from, instead.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Plan a comparison: the drop that it can show with 80 % power, and how many items would show a smaller one.

    armor-eval power --bench MMB --drop 2

    armor-eval power --bench POPE --runs runs/base/POPE runs/candidate/POPE
    """
    import json

    from armor_eval.cli.common import write
    from armor_eval.compare import planning

    plan = planning.plan(bench, drop, clusters, planning.CHANGED if changed is None else changed, runs)
    write(json.dumps(plan.as_dict(), indent=1) if json_output else plan.in_words())
