"""`armor-eval ablate-heads`: forward switching against one head, the paper's Figures 7 and 8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.configure import Set


def ablate_heads(
    out: Annotated[Path, typer.Option(help="Run folder; the same command in it goes on where it stopped.")] = Path(
        "runs/ablate-heads"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few steps: under 2 minutes, no verdict.")] = False,
    steps: Annotated[int | None, typer.Option(min=2, help="Optimizer steps of every arm.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma list, three at least for a verdict.")] = None,
    base: Annotated[
        str | None, typer.Option(help="`train`, `bundled`, an ARMOR checkpoint folder, or a base to train on: smolvlm.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML with any field of the plan; wins over --quick.")] = None,
    set_: Set = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Train both arms from the same start on the same data; compare losses, drawings and text; say what holds.

    Several processes share an arm: torchrun --nproc-per-node N -m armor_eval ablate-heads ..., or accelerate launch.

    armor-eval ablate-heads --quick
    """
    from armor_eval.ablations.heads import ablate_heads as run
    from armor_eval.ablations.plan import HeadsPlan
    from armor_eval.cli.ablate_stages import run_ablation

    fields = {"steps": steps, "base": base, "seeds": seeds}
    raise typer.Exit(run_ablation(run, HeadsPlan, out, quick, config, set_, fields, json_output))
