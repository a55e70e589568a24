"""`armor-train build-data` and `tokenize`: from published files to what training reads."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from armor_model.base.errors import UserError
from trainer.configure import Json


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
    from trainer.data import contamination, readers
    from trainer.data.dialogues import world_count
    from trainer.data.records import counted, losses
    from trainer.data.screens import ScreenSettings

    if source not in readers.SOURCES:
        raise UserError(f"unknown source {source!r}; known: {', '.join(readers.SOURCES)}")
    if not tars and not texts and not dialogues:
        raise UserError("nothing to build from: give --tars, --texts or --dialogues")
    for each in dialogues or []:
        world_count(each)
    number, count = readers.parse_part(part)
    if number and not tars:
        raise UserError(f"--part {part}: texts and dialogues belong to part 0, and there are no --tars to share out")
    if drop_contaminated and not prompts:
        raise UserError("--drop-contaminated needs --prompts", "armor-eval geneval prompts > geneval.jsonl")
    shards = readers.share_of(readers.tars(tars), (number, count)) if tars else []
    recipe = builder.Recipe(
        readers.SOURCES[source],
        ScreenSettings(min_side=min_side, min_aesthetic=min_aesthetic, min_latin=min_latin),
        tuple(prompt for path in prompts or [] for prompt in contamination.read_prompts(path)),
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

    from functools import partial

    from armor_model.base.devices import check_device
    from trainer.checkpoints import find_model
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
