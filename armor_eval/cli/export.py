"""`armor-eval export`: runs in the formats of other tools, leaderboards and trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    import json

    from armor_eval.cli import common
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
    from armor_model.base.errors import UserError

    bench, _, rest = text.partition("=")
    name, _, task = rest.partition("#")
    if not (bench and task and name.count("/") == 1):
        raise UserError(f"--dataset {text!r} is not BENCH=OWNER/NAME#TASK", "e.g. --dataset MMMU=MMMU/MMMU#validation")
    return bench, name, task
