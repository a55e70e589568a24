"""`armor-eval card`: one page of one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from armor_eval.report.card import Card, Kept


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
    import json

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
