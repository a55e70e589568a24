"""`armor-eval ablate-stages`: what each training scheme keeps, Tables 4 and 5, Figures 6 and 9; `ablate-heads`: forward
switching against one head, Figures 7 and 8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from armor_model.base.jsons import JsonObject
from trainer.configure import Set

Base = Annotated[
    str | None, typer.Option(help="`train`, `bundled`, an ARMOR checkpoint folder, or a base to train on, as smolvlm.")
]
Config = Annotated[Path | None, typer.Option(help="TOML with any field of the plan; wins over --quick.")]


def ablate_stages(
    out: Annotated[Path, typer.Option(help="Run folder; the same command in it goes on where it stopped.")] = Path(
        "runs/ablate-stages"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Two schemes, few steps: under 2 minutes, no verdict.")
    ] = False,
    seeds: Annotated[str | None, typer.Option(help="Comma list.")] = None,
    base: Base = None,
    config: Config = None,
    set_: Set = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Train the paper's schemes and ours from one base; measure what understanding is kept and what is drawn.

    armor-eval ablate-stages --quick
    """
    from armor_eval.ablations.plan import StagesPlan
    from armor_eval.ablations.schemes import ablate_stages as run

    fields = {"base": base, "seeds": seeds}
    raise typer.Exit(run_ablation(run, StagesPlan, out, quick, config, set_, fields, json_output))


def run_ablation(
    run: Callable[..., str],
    kind: Any,
    out: Path,
    quick: bool,
    config: Path | None,
    changes: list[str] | None,
    fields: JsonObject,
    json_output: bool,
) -> int:
    """Build the plan, run it, say where the bundle is and what it found. Exit code 0 for a complete run, else 1."""
    from armor_eval.cli import COMMAND_LINE, common
    from armor_eval.runs.bundle import read_head
    from armor_model.base.errors import ArmorError, UserError
    from armor_model.base.runtime import quiet_transformers
    from trainer import devices

    if fields.get("seeds") is not None:
        try:
            fields["seeds"] = tuple(int(s) for s in fields["seeds"].split(","))
        except ValueError as error:
            raise UserError(
                f"--seeds {fields['seeds']!r} is no comma list of numbers", "for example --seeds 0,1,2"
            ) from error
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, expected a folder", "give another --out")
    common.quiet_libraries()
    quiet_transformers()
    plan = kind.read(config, changes or (), small=quick, **fields)
    first = devices.start().is_main_process
    try:
        status = run(
            plan, out, list(COMMAND_LINE.get()), say=lambda line: typer.echo(line, err=True) if first else None
        )
    except ArmorError as error:
        raise UserError(str(error), f"{out} keeps every finished arm") from error
    if first:
        done, scores = read_head(out)
        if json_output:
            common.write(json.dumps(common.as_record(out, done, scores), indent=1))
        else:
            typer.echo(done.extras["verdict"])
            typer.echo(f"{out}: {status}; see it with: armor-eval report {out}")
    return 0 if status == "complete" else 1


def ablate_heads(
    out: Annotated[Path, typer.Option(help="Run folder; the same command in it goes on where it stopped.")] = Path(
        "runs/ablate-heads"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few steps: under 2 minutes, no verdict.")] = False,
    steps: Annotated[int | None, typer.Option(min=2, help="Optimizer steps of every arm.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma list, three at least for a verdict.")] = None,
    base: Base = None,
    config: Config = None,
    set_: Set = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print run and scores as JSON.")] = False,
) -> None:
    """Train both arms from the same start on the same data; compare losses, drawings and text; say what holds.

    Several processes share an arm: torchrun --nproc-per-node N -m armor_eval ablate-heads ..., or accelerate launch.

    armor-eval ablate-heads --quick
    """
    from armor_eval.ablations.heads import ablate_heads as run
    from armor_eval.ablations.plan import HeadsPlan

    fields = {"steps": steps, "base": base, "seeds": seeds}
    raise typer.Exit(run_ablation(run, HeadsPlan, out, quick, config, set_, fields, json_output))
