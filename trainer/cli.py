"""`armor-train`: one command a step of the training. Nothing heavy is imported before a command runs.

armor-train build-data --tars DIR --texts FILE --out data          captioned images, text pairs: conversations
armor-train tokenize data/conversations.jsonl --out shards         conversations: tokens and image codes, once
armor-train stage --stage 1 --model M --data shards --out run1     then 2 on run1/model, 3 on run2/model
armor-train curves run1 run2 --out-file losses.svg                 their loss curves

Commands that train take --config FILE.toml and --set a.b=c; their options are made from trainer/config.py.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from armor_model.base.cli import run_app
from armor_model.base.help import OldOut, dressed, program
from trainer.cli_data import build_data, tokenize
from trainer.config import StageConfig, VQConfig
from trainer.configure import Json, as_options, from_options

GUESTS = ("trainer.shapes.commands",)
"""Modules that add commands of a synthetic world of their own, by `add_to(app)`: the one place that knows them."""

app = program("""Train ARMOR: data, image tokenizer, base, stages, loss curves.

    armor-train build-data --tars DIR --texts pairs.jsonl --out data

    armor-train tokenize data/conversations.jsonl --model M --out shards

    armor-train stage --stage 1 --model M --data shards --out run1

    armor-train curves run1 --out-file losses.svg
    """)


def configured(default: Any, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function of (configuration, as_json) a command whose options are the configuration's fields."""

    def decorate(run: Callable[..., None]) -> Callable[..., None]:
        def command(as_json: bool, **options: Any) -> None:
            run(from_options(default, options), as_json)

        command.__name__, command.__doc__ = run.__name__, run.__doc__
        setattr(command, "__signature__", Signature(as_options(default, without)))  # noqa: B010 - what Typer reads
        return command

    return decorate


@app.command()
def stages(as_json: Json = False) -> None:
    """Print every stage and scheme: what learns, with which weights, from what.

    armor-train stages --json
    """
    from trainer.stages import SCHEMES, STAGES

    if as_json:
        declared: dict[str, Mapping[str, Any]] = {"stages": STAGES, "schemes": SCHEMES}
        typer.echo(json.dumps({k: [asdict(x) for x in group.values()] for k, group in declared.items()}, indent=1))
        return

    for stage in STAGES.values():
        data = ", ".join(f"{k} {n:,}" for k, n in stage.mixture.items())
        typer.echo(f"stage {stage.name}: trains {', '.join(stage.trains)}")
        epochs = f" x {stage.epochs} passes" if stage.epochs > 1 else ""
        typer.echo(f"    text {stage.alpha:g}, image {stage.beta:g}; {data}{epochs} ({stage.source})")
    for scheme in SCHEMES.values():
        model = f"{scheme.heads} heads, {scheme.backbone} base"
        typer.echo(f"scheme {scheme.name}: {' -> '.join(scheme.stages)}, {model} ({scheme.source})")


app.command("build-data")(build_data)
app.command("tokenize")(tokenize)


@app.command(no_args_is_help=True)
@configured(VQConfig())
def vqgan(config: VQConfig, as_json: bool) -> None:
    """Train a small image tokenizer (patch VQ) from images, of the sizes that a checkpoint is made for.

    The codes' meaning changes, so shards are made with the new checkpoint and stages 2 and 3 are trained on it.
    Chameleon's published VQGAN is never trained here.

    armor-train vqgan --images DIR --model M --out with-images
    """
    from trainer.vq import run_vqgan

    result = run_vqgan(config)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    dropped = f"; {result['dropped']:,} left out as no readable images" if result["dropped"] else ""
    typer.echo(
        f"{config.out}: {result['psnr']:.1f} dB, {result['codes_used']} of {result['codebook_size']} codes used, "
        f"from {result['pictures']:,} images{dropped}"
    )


@app.command(no_args_is_help=True)
@configured(StageConfig(stage="base"), without=["stage"])
def base(config: StageConfig, as_json: bool) -> None:
    """Train the understanding model itself on t2t, ti2t and refuse conversations: `stage --stage base`.

    The paper starts from a finished InternVL2.5 and never does this; it is for a base of one's own, before stage 1.
    Every part but the new ones learns. With no refusals in the data: --mix t2t=COUNT,ti2t=COUNT.

    Exit codes: 0 done, 1 failed, 2 wrong input, 75 told to end by SIGTERM or SIGUSR1 between steps (--resume).

    armor-train base --model M --data shards --out base
    """
    train_stage(config, as_json)


@app.command(no_args_is_help=True)
@configured(StageConfig())
def stage(config: StageConfig, as_json: bool) -> None:
    """Train one stage on tokenised data.

    On several devices: `torchrun --nproc-per-node N -m trainer stage ...`, or `accelerate-launch --multi_gpu
    --num_processes N -m trainer stage ...`; on CPUs both start gloo processes (`--cpu` would start one only).
    `--shard`, or `accelerate-launch --use_fsdp`, shards instead of copying.

    Exit codes: 0 done, 1 failed, 2 wrong input, 75 told to end by SIGTERM or SIGUSR1 between steps (--resume).

    armor-train stage --stage 1 --model M --data shards --out run1

    armor-train stage --stage 2 --model run1/model --data shards --out run2 --resume
    """
    train_stage(config, as_json)


def train_stage(config: StageConfig, as_json: bool) -> None:
    """Run a stage and print what came of it, in the main process."""
    from trainer.logs import told_on_stderr
    from trainer.run import run_stage

    with told_on_stderr("trainer"):
        result = run_stage(config, ["armor-train", *sys.argv[1:]])
    if result is None:  # not the main process
        return
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    losses = ", ".join(f"{k.removeprefix('loss/')} {v:.3f}" for k, v in result["losses"].items() if "loss" in k)
    cost = result["cost"]
    typer.echo(f"stage {result['stage']}: {result['steps']:,} steps, loss {losses}")
    typer.echo(f"{cost['images_seen']:,} images, {cost['tokens']:,} tokens, {cost['device_days']:.3g} device-days")
    typer.echo(f"{result['model']}")


@app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `stage` or `base`, or --work of `nano`.")],
    out_file: Annotated[Path, typer.Option(help="Image to write: .svg, .png or .pdf.")] = Path("losses.svg"),
    old_out: OldOut = None,
) -> None:
    """Draw loss curves of one run or several: a panel for each stage, a colour for each loss, a line for each run.

    armor-train curves run1 run2 --out-file losses.svg
    """
    from trainer.curves import draw_curves

    out = old_out or out_file
    stages = draw_curves(runs, out)
    typer.echo(f"{out}: {len(stages)} stage{'s' * (len(stages) != 1)} of {len(runs)} run{'s' * (len(runs) != 1)}")


for guest in GUESTS:
    import_module(guest).add_to(app)


KEPT = {
    "stage": ", checkpoints are kept",
    "base": ", checkpoints are kept",
    "tokenize": ", finished shards are kept",
    "build-data": ", it begins anew",
}
"""What an interrupted command leaves for the same command to go on with."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the run stopped, 2 wrong input, 130 Ctrl-C, 143 SIGTERM."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    resume = ["--resume"] if command in ("stage", "base") and "--resume" not in argv else []
    again = shlex.join(["armor-train", *argv, *resume])
    tree = dressed(app, "armor-train")
    return run_app(tree, "armor-train", argv, go_on=f"continue with: {again}", kept=KEPT.get(command, ""))
