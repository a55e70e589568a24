"""`armor-train`: one command a step of the training. Nothing heavy is imported before a command runs.

armor-train build-data --tars DIR --texts FILE --out data          captioned images, text pairs: conversations
armor-train tokenize data/conversations.jsonl --out shards         conversations: tokens and image codes, once
armor-train stage --stage 1 --model M --data shards --out run1     then 2 on run1/model, 3 on run2/model
armor-train curves run1 run2 --out-file losses.svg                 their loss curves

Commands that train take --config FILE.toml and --set a.b=c; their options are made from trainer/config.py.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib import import_module
from inspect import Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from armor_model.base.cli import run_app
from armor_model.base.errors import UserError
from armor_model.base.help import OldOut, dressed, program
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


@app.command("build-data")
def build_data(
    out: Annotated[
        Path, typer.Option(help="Directory to write or to go on with: conversations.jsonl, images/, report.json.")
    ],
    tars: Annotated[
        list[str] | None,
        typer.Option(help="Tar of captioned images, directory of them, or http(s), hf or gs url; repeatable."),
    ] = None,
    source: Annotated[
        str, typer.Option(help="How the tars name their fields: laion, text-to-image-2m, webdataset.")
    ] = "webdataset",
    index: Annotated[Path | None, typer.Option(help="LAION's parquet index, joined by url.")] = None,
    texts: Annotated[list[Path] | None, typer.Option(help="JSON lines of question/answer pairs, for t2t.")] = None,
    dialogues: Annotated[
        list[str] | None,
        typer.Option(
            help="Dialogues of text and images: InterSyn's, any conversations file, or shapes-v1=N; repeatable.",
            metavar="FILE",
        ),
    ] = None,
    part: Annotated[
        str, typer.Option(help="Only part I of N of the tars, I from 0: for N processes or machines.", metavar="I/N")
    ] = "0/1",
    mixed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of images asked for together with words (t2ti).")
    ] = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many images.")] = None,
    prompts: Annotated[
        list[Path] | None,
        typer.Option(
            help="A benchmark's prompts (lines, or JSON lines): captions that repeat one are counted; repeatable."
        ),
    ] = None,
    near: Annotated[
        float, typer.Option(min=0, max=1, help="Overlap of word trigrams (Jaccard) from which on one is near.")
    ] = 0.6,
    drop_contaminated: Annotated[bool, typer.Option(help="Leave these captions out.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read tars.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the wordings.")] = 0,
    min_side: Annotated[int, typer.Option(help="Screen: pixels of the shorter side; 0 off.")] = 256,
    min_aesthetic: Annotated[float, typer.Option(help="Screen: LAION aesthetic score; 0 off.")] = 5.0,
    min_latin: Annotated[float, typer.Option(help="Screen: share of Latin letters in a caption; 0 off.")] = 0.8,
    as_json: Json = False,
) -> None:
    """Turn captioned images into t2i and t2ti conversations, text pairs into t2t; take dialogues in.

    Every screen says how many it dropped. With --part, texts and dialogues belong to part 0, and duplicates are found
    within a part.

    armor-train build-data --tars DIR --texts pairs.jsonl --out data

    armor-train build-data --tars DIR --source laion --index index.parquet --part 0/8 --out data-0

    armor-train build-data --dialogues intersyn.jsonl --dialogues shapes-v1=20000 --out dialogues
    """
    from trainer.data import build as builder
    from trainer.data import readers
    from trainer.data.records import counted, losses
    from trainer.data.screens import ScreenSettings, read_prompts

    if source not in readers.SOURCES:
        raise UserError(f"unknown source {source!r}; known: {', '.join(readers.SOURCES)}")
    if not tars and not texts and not dialogues:
        raise UserError("nothing to build from: give --tars, --texts or --dialogues")
    for each in dialogues or []:
        readers.world_count(each)
    number, count = readers.parse_part(part)
    if number and not tars:
        raise UserError(f"--part {part}: texts and dialogues belong to part 0, and there are no --tars to share out")
    if drop_contaminated and not prompts:
        raise UserError("--drop-contaminated needs --prompts", "armor-eval geneval prompts > geneval.jsonl")
    shards = readers.share_of(readers.tars(tars), (number, count)) if tars else []
    recipe = builder.Recipe(
        readers.SOURCES[source],
        ScreenSettings(min_side=min_side, min_aesthetic=min_aesthetic, min_latin=min_latin),
        tuple(prompt for path in prompts or [] for prompt in read_prompts(path)),
        near,
        drop_contaminated,
        seed,
        mixed_share,
        limit,
    )
    scores = readers.read_index(index) if index is not None else None
    mine = ((texts or []), (dialogues or [])) if number == 0 else ([], [])
    report = builder.build(out, recipe, shards, mine[0], scores, f"{number}/{count}", workers, mine[1])
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    for name, one in (*report["readers"].items(), ("screens", report["screens"])):
        typer.echo(f"{name}: read {one['read']:,}, kept {one['kept']:,}, dropped {losses(one['dropped'])}")
    kinds = ", ".join(f"{kind} {n:,}" for kind, n in sorted(report["conversations"].items()))
    typer.echo(f"{out}: {kinds}")
    for line in counted(report["screens"]["noted"]):
        typer.echo(f"    {line}")


@app.command("tokenize")
def tokenize(
    conversations: Annotated[Path, typer.Argument(help="A conversations file (JSON lines, or ShareGPT4V's JSON).")],
    out: Annotated[Path, typer.Option(help="Directory of shards to write or to go on with.")],
    model: Annotated[str | None, typer.Option(help="Checkpoint to be trained: its folder, or armor-nano.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Conversations in a shard.")] = 2048,
    max_length: Annotated[int, typer.Option(min=1, help="Longer conversations are left out, in positions.")] = 4096,
    image_root: Annotated[
        Path | None, typer.Option(help="Folder that the records' images are relative to; by default the file's.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that make shards, on the same device.")] = 1,
    device: Annotated[str | None, typer.Option(help="Of the image tokenizer; a GPU where there is one.")] = None,
    as_json: Json = False,
) -> None:
    """Turn conversations into token ids and image codes once: resumable, checksummed parquet shards.

    Under torchrun, or with RANK and WORLD_SIZE set, each process makes its share of the shards.

    armor-train tokenize data/conversations.jsonl --model M --out shards --workers 4
    """
    if model is None:  # shards for another model than the one in mind are hours lost
        raise UserError("missing option --model", "whose tokens? The checkpoint's folder, or armor-nano")

    from armor_model.base.devices import check_device
    from armor_model.loading import find_model
    from trainer.data import tokenizing
    from trainer.data.records import RULES, counted

    folder = find_model(model)
    load = partial(tokenizing.load, folder, check_device(device) if device else None)
    processor = tokenizing.load(folder, "cpu") if workers > 1 else load()
    samples = processor.check_template()
    part = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    manifest = tokenizing.tokenize(
        conversations,
        out,
        processor,
        folder.name,
        shard_size,
        max_length,
        image_root=image_root,
        workers=workers,
        load=load,
        part=part,
    )
    if manifest is None:
        typer.echo(f"{out}: part {part[0]} of {part[1]} is done; the one that ends last writes the manifest")
        return
    if as_json:
        typer.echo(json.dumps(manifest, indent=1))
        return
    total = manifest["read"]
    size = f"{total['kept']:,} of {total['read']:,} conversations in {len(manifest['shards'])} shards"
    typer.echo(f"{out}: {size}, for {folder.name}, whose tokenizer reads {samples} sample conversations as we do")
    for rule, n in total["dropped"].items():
        typer.echo(f"    dropped {n:,} {rule}: {RULES[rule]}")
    for line in counted(total["noted"]):
        typer.echo(f"    {line}")


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
    "build-data": ", finished tars are kept",
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
