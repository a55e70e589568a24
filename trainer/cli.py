"""`armor-train`: one command a step of the training. Nothing heavy is imported before a command runs.

armor-train stages
armor-train nano --out runs/nano --seed 0
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from armor_model.errors import ArmorError
from trainer.errors import DataError, TrainingError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train ARMOR.",
    rich_markup_mode=None,
)


@app.command()
def stages() -> None:
    """Print every stage and scheme: what learns, with which weights, from what."""
    from trainer.stages import SCHEMES, STAGES

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
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    random_backbone: Annotated[bool, typer.Option(help="The twin: an untrained, frozen backbone.")] = False,
    scale: Annotated[float, typer.Option(help="Share of the recipe's steps; below 1 for a quick look.")] = 1.0,
    work: Annotated[Path | None, typer.Option(help="Keep logs and stage checkpoints here.")] = None,
) -> None:
    """Train armor-nano from nothing: image tokenizer, base, stages 1, 2, 3; judge it; write its card."""
    import logging

    from trainer.nano import default_recipe, scaled, train_nano, twin
    from trainer.nano_card import measure, save_nano, write_card

    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    recipe = default_recipe(seed)
    if random_backbone:
        recipe = twin(recipe)
    if scale != 1.0:
        recipe = scaled(recipe, scale)
    out.mkdir(parents=True, exist_ok=True)
    outcome = train_nano(recipe, work)
    save_nano(outcome, out)
    scores = measure(out, {"questions": 80, "modality": 50, "drawings": 60}, seed=1000 + seed)
    command = f"armor-train nano --out DIR --seed {seed}{' --random-backbone' if random_backbone else ''}"
    write_card(out, recipe, outcome, scores, command + (f" --scale {scale:g}" if scale != 1.0 else ""))
    for group, value in scores["mean"].items():
        typer.echo(f"{group}: mean {value:.3f}, worst {scores['worst'][group]}")
    typer.echo(f"{out} ({outcome.cpu_seconds:.0f} CPU-seconds)")


@app.command("build-data")
def build_data(
    out: Annotated[Path, typer.Option(help="Directory to write: conversations.jsonl, images/, report.json.")],
    tars: Annotated[list[Path] | None, typer.Option(help="Tars of captioned pictures, or directories of them.")] = None,
    source: Annotated[
        str, typer.Option(help="How the tars name their fields: laion, text-to-image-2m, webdataset.")
    ] = ("webdataset"),
    index: Annotated[Path | None, typer.Option(help="LAION's parquet index, joined by url.")] = None,
    texts: Annotated[list[Path] | None, typer.Option(help="JSON lines of question/answer pairs, for t2t.")] = None,
    mixed_share: Annotated[float, typer.Option(help="Share of pictures asked for together with words (t2ti).")] = 0.5,
    limit: Annotated[int | None, typer.Option(help="Stop after this many pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Of the wordings.")] = 0,
    min_side: Annotated[int, typer.Option(help="Screen: pixels of the shorter side; 0 off.")] = 256,
    min_aesthetic: Annotated[float, typer.Option(help="Screen: LAION aesthetic score; 0 off.")] = 5.0,
    min_latin: Annotated[float, typer.Option(help="Screen: share of Latin letters in a caption; 0 off.")] = 0.8,
) -> None:
    """Turn captioned pictures into t2i and t2ti conversations, and text pairs into t2t."""
    from itertools import chain

    from trainer.data import build as builder
    from trainer.data import readers
    from trainer.data.records import Tally
    from trainer.data.screens import ScreenSettings

    if source not in readers.SOURCES:
        raise DataError(f"unknown source {source!r}; known: {', '.join(readers.SOURCES)}")
    if not tars and not texts:
        raise DataError("nothing to build from: give --tars, --texts or both")
    tallies = {"tars": Tally(), "texts": Tally()}
    shards = readers.tars(tars) if tars else []
    found = readers.read_tars(
        shards, readers.SOURCES[source], tallies["tars"], readers.read_index(index) if index else None
    )
    pairs = chain.from_iterable(builder.read_text_pairs(path, tallies["texts"]) for path in texts or [])
    settings = ScreenSettings(min_side=min_side, min_aesthetic=min_aesthetic, min_latin=min_latin)
    report = builder.build(out, found, pairs, tallies, settings, seed, mixed_share, limit)
    for name, part in (("readers", report["readers"]["tars"]), ("screens", report["screens"])):
        dropped = ", ".join(f"{rule} {n:,}" for rule, n in part["dropped"].items()) or "nothing"
        typer.echo(f"{name}: dropped {dropped}")
    typer.echo(f"{out}: " + ", ".join(f"{kind} {n:,}" for kind, n in sorted(report["conversations"].items())))


@app.command("tokenize")
def tokenize_(
    conversations: Annotated[Path, typer.Argument(help="A conversations file (JSON lines, or ShareGPT4V's JSON).")],
    out: Annotated[Path, typer.Option(help="Directory of shards to write or to go on with.")],
    model: Annotated[
        str | None, typer.Option(help="Checkpoint whose processor reads; the bundled one by default.")
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Conversations in a shard.")] = 2048,
    max_length: Annotated[int, typer.Option(help="Longer conversations are left out, in positions.")] = 4096,
) -> None:
    """Turn conversations into token ids and image codes once: resumable, checksummed parquet shards."""
    from armor_model import bundled, load_processor
    from trainer.data.shards import tokenize

    folder = bundled("armor-nano") if model in (None, "armor-nano") else Path(model)
    manifest = tokenize(conversations, out, load_processor(folder), folder.name, shard_size, max_length)
    kept = sum(entry["rows"] for entry in manifest["shards"])
    dropped = dict(manifest["read"]["dropped"])
    for entry in manifest["shards"]:
        for rule, n in entry["dropped"].items():
            dropped[rule] = dropped.get(rule, 0) + n
    typer.echo(f"{out}: {kept:,} conversations in {len(manifest['shards'])} shards; dropped {dropped or 'nothing'}")


@app.command()
def stage(
    stage: Annotated[str, typer.Option("--stage", help="1, 2, 3 or another declared stage (see: armor-train stages).")],
    data: Annotated[list[Path], typer.Option(help="Directories of shards (armor-train tokenize).")],
    model: Annotated[str, typer.Option(help="Checkpoint to start from.")],
    out: Annotated[Path, typer.Option(help="Run directory: log, checkpoints, and the model at the end.")],
    batch_size: Annotated[int, typer.Option(help="Conversations in a step, over all processes.")] = 64,
    steps: Annotated[int | None, typer.Option(help="Steps; by default the stage's passes over its counts.")] = None,
    share: Annotated[float, typer.Option(help="Share of the stage's counts.")] = 1.0,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="cosine or constant, both after the warm-up.")] = "cosine",
    warmup: Annotated[int, typer.Option(help="Warm-up steps.")] = 0,
    accumulate: Annotated[int, typer.Option(help="Micro-batches in a step.")] = 1,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    gradient_checkpointing: Annotated[bool, typer.Option(help="Recompute blocks to save memory.")] = False,
    pack_to: Annotated[int | None, typer.Option(help="Pack examples into rows of this many positions.")] = None,
    condition_dropout: Annotated[float | None, typer.Option(help="Share of t2i requests that are emptied.")] = None,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
    keep: Annotated[int, typer.Option(help="Checkpoints kept beside the best.")] = 2,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events beside the log.")] = False,
    seed: Annotated[int, typer.Option(help="Order of the data.")] = 0,
) -> None:
    """Train one stage on tokenised data; `accelerate launch -m trainer stage ...` runs it on many devices."""
    from trainer.stage_run import StageRequest, run_stage

    run_stage(StageRequest(**{k: v for k, v in locals().items() if k not in ("StageRequest", "run_stage")}))


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
        return _complain("interrupted; go on with --resume", 130)
    except Exception as error:  # a usage error's class differs between Typer versions; all know how to print themselves
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), 2)


def _complain(line: str, code: int) -> int:
    sys.stderr.write(f"armor-train: {' '.join(line.split())}\n")
    return code
