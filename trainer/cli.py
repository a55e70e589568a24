"""`armor-train`: one command a step of the training. Nothing heavy is imported before a command runs.

armor-train build-data --tars DIR --texts FILE --out data          captioned pictures, text pairs: conversations
armor-train tokenize data/conversations.jsonl --out shards         conversations: tokens and image codes, once
armor-train stage --stage 1 --model M --data shards --out run1     then 2 on run1/model, 3 on run2/model
armor-train curves run1 run2 --out losses.svg                      their loss curves
armor-train nano --out runs/nano --seed 0                          all of it, in the shapes world
armor-train nano-seeds runs/nano-0 runs/nano-1 runs/nano-2         several of them side by side
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import ArmorError, RunFailed, UserError, disk_is_full
from trainer import cli_data, cli_stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train ARMOR.",
    rich_markup_mode=None,
)


@app.command()
def stages(as_json: cli_stage.Json = False) -> None:
    """Print every stage and scheme: what learns, with which weights, from what."""
    from dataclasses import asdict

    from trainer.stages import SCHEMES, STAGES

    if as_json:
        declared = {"stages": STAGES, "schemes": SCHEMES}
        typer.echo(json.dumps({k: [asdict(x) for x in group.values()] for k, group in declared.items()}, indent=1))
        return

    for stage in STAGES.values():
        data = ", ".join(f"{k} {n:,}" for k, n in stage.mixture.items())
        typer.echo(f"stage {stage.name}: trains {', '.join(stage.trains)}")
        epochs = f" x {stage.epochs} passes" if stage.epochs > 1 else ""
        typer.echo(f"    text {stage.alpha:g}, image {stage.beta:g}; {data}{epochs} ({stage.source})")
    for scheme in SCHEMES.values():
        typer.echo(f"scheme {scheme.name}: {' -> '.join(scheme.stages)}, {scheme.heads} heads ({scheme.source})")


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `stage` or `base`, or --work of `nano`.")],
    out: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf.")] = Path("losses.svg"),
) -> None:
    """Draw loss curves of one run or several: a panel for each stage, a colour for each loss, a line for each run."""
    from trainer.curves import draw_curves

    shown = draw_curves(runs, out)
    typer.echo(f"{out}: {len(shown)} stage{'s' * (len(shown) != 1)} of {len(runs)} run{'s' * (len(runs) != 1)}")


app.command("build-data")(cli_data.build_data)
app.command("tokenize")(cli_data.tokenize)
app.command("vqgan")(cli_stage.vqgan)
app.command("base")(cli_stage.base)
app.command("stage")(cli_stage.stage)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the run stopped, 2 wrong input, 130 Ctrl-C."""
    try:
        return (
            app(args=list(sys.argv[1:] if argv is None else argv), prog_name="armor-train", standalone_mode=False) or 0
        )
    except (ArmorError, UserError) as error:
        return _complain(str(error), 2)
    except RunFailed as error:
        return _complain(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted; `stage` and `base` go on with --resume, `tokenize` by itself", 130)
    except Exception as error:  # a usage error's class differs between Typer versions; all know how to print themselves
        if disk_is_full(error):
            return _complain(f"no space left on the disk: {error}", 1)
        if isinstance(error, OSError) and error.filename is not None:
            return _complain(f"cannot use {error.filename}: {error.strerror}", 2)
        if not hasattr(error, "format_message"):
            raise
        if "\n" in error.format_message():  # the whole usage, where a command was called without anything
            sys.stderr.write(error.format_message() + "\n")
            return 2
        return _complain(error.format_message(), 2)


def _complain(line: str, code: int) -> int:
    sys.stderr.write(f"armor-train: {' '.join(line.split())}\n")
    return code
