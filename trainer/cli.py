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

from armor_model.base.errors import ArmorError
from trainer import cli_data, cli_stage
from trainer.errors import DataError, TrainingError, disk_is_full
from trainer.folders import check_free

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
def nano(
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything.")] = 0,
    random_backbone: Annotated[bool, typer.Option(help="The twin: an untrained, frozen backbone.")] = False,
    scale: Annotated[float, typer.Option(help="Share of the recipe's steps; below 1 for a quick look.")] = 1.0,
    work: Annotated[
        Path | None, typer.Option(help="Keep logs and checkpoints here; the same command then goes on after a kill.")
    ] = None,
) -> None:
    """Train armor-nano from nothing: image tokenizer, base, stages 1, 2, 3; judge it; write its card."""
    import logging

    from trainer.nano import default_recipe, scaled, train_nano, twin
    from trainer.nano_card import measure, save_nano, write_card

    # A model without a record was being judged when its run was killed.
    check_free(out, None if (out / "training.json").exists() else "config.json")
    if not 0 < scale <= 100:
        raise DataError(f"--scale is above 0, not {scale:g}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    recipe = default_recipe(seed)
    if random_backbone:
        recipe = twin(recipe)
    if scale != 1.0:
        recipe = scaled(recipe, scale)
    outcome = train_nano(recipe, work)
    save_nano(outcome, out)
    scores = measure(out, {"questions": 80, "modality": 50, "drawings": 60}, seed=1000 + seed)
    command = f"armor-train nano --out DIR --seed {seed}{' --random-backbone' if random_backbone else ''}"
    write_card(out, recipe, outcome, scores, command + (f" --scale {scale:g}" if scale != 1.0 else ""))
    for group, value in scores["mean"].items():
        typer.echo(f"{group}: mean {value:.3f}, worst {scores['worst'][group]}")
    typer.echo(f"{out} ({outcome.cpu_seconds:.0f} CPU-seconds)")


@app.command("nano-seeds")
def nano_seeds(
    checkpoints: Annotated[list[Path], typer.Argument(help="Folders that `nano` wrote, or their training.json.")],
) -> None:
    """Print several armor-nanos side by side, with intervals; name the median; compare random-backbone twins."""
    from trainer.nano_seeds import GROUPS, seeds_text

    records = []
    for path in checkpoints:
        file = path / "training.json" if path.is_dir() else path
        try:
            records.append(json.loads(file.read_text(encoding="utf-8")))
            _ = [records[-1]["scores"]["mean"][group] for group in GROUPS]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file} is no record of `armor-train nano`: {error}") from error
    typer.echo(seeds_text(records))


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
    except (ArmorError, DataError) as error:
        return _complain(str(error), 2)
    except TrainingError as error:
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
