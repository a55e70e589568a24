"""`armor-train stage`, `base` and `vqgan`: the commands that train on a user's own data."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def stage(
    stage: Annotated[str, typer.Option("--stage", help="1, 2, 3 or another declared stage (see: armor-train stages).")],
    data: Annotated[list[Path], typer.Option(help="Directory of shards (armor-train tokenize); repeatable.")],
    model: Annotated[str, typer.Option(help="Checkpoint to start from.")],
    out: Annotated[Path, typer.Option(help="Run directory: log, checkpoints, and the model at the end.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Conversations in a step, over all processes.")] = 64,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps; by default the stage's passes over its data.")
    ] = None,
    share: Annotated[float, typer.Option(help="Share of the stage's counts.")] = 1.0,
    mix: Annotated[str | None, typer.Option(help="Counts of one pass instead of the stage's: t2i=100,t2ti=50.")] = None,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-4,
    schedule: Annotated[str, typer.Option(help="cosine or constant, both after the warm-up.")] = "cosine",
    warmup: Annotated[int, typer.Option(min=0, help="Warm-up steps.")] = 0,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of matrices; decoupled.")] = 0.0,
    clip: Annotated[float, typer.Option(min=0, help="Largest gradient norm; 0 is off.")] = 1.0,
    accumulate: Annotated[int, typer.Option(min=1, help="Micro-batches in a step.")] = 1,
    precision: Annotated[str | None, typer.Option(help="fp32 (the default) or bf16.")] = None,
    gradient_checkpointing: Annotated[bool, typer.Option(help="Recompute blocks to save memory.")] = False,
    shard: Annotated[bool, typer.Option(help="Shard over the processes (FSDP2) instead of copying (DDP).")] = False,
    pack_to: Annotated[int | None, typer.Option(min=1, help="Pack examples into rows of this many positions.")] = None,
    condition_dropout: Annotated[float | None, typer.Option(help="Share of t2i requests that are emptied.")] = None,
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints; 0 at the end only.")] = 500,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints kept beside the best.")] = 2,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --out.")] = False,
    log_every: Annotated[int, typer.Option(min=1, help="Steps that one log line averages over.")] = 10,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events beside the log.")] = False,
    sample_every: Annotated[int, typer.Option(min=0, help="Steps between sample pictures (Figure 6); 0 none.")] = 0,
    sample_prompt: Annotated[
        list[str] | None, typer.Option(help="Prompt to draw, into <out>/samples; repeatable.")
    ] = None,
    save_dtype: Annotated[
        str | None, typer.Option(help="Of the model at the end: float32, bfloat16, float16; by default as loaded.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Order of the data, and the sample pictures.")] = 0,
    as_json: Json = False,
) -> None:
    """Train one stage on tokenised data.

    On several devices: `torchrun --nproc-per-node N -m trainer stage ...`, or `accelerate-launch --multi_gpu
    --num_processes N -m trainer stage ...`; on CPUs both start gloo processes (`--cpu` would start one only).
    `--shard`, or `accelerate-launch --use_fsdp`, shards instead of copying.
    """
    from trainer.run import StageRequest, run_stage

    given = {k: v for k, v in locals().items() if k not in ("StageRequest", "run_stage", "as_json")}
    given["sample_prompt"] = sample_prompt or []
    result = run_stage(StageRequest(**given))
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


def base(**options: object) -> None:
    """Train the understanding model itself on t2t, ti2t and refuse conversations: `stage --stage base`.

    The paper starts from a finished InternVL2.5 and never does this; it is for a base of one's own, before stage 1.
    Every part but the new ones learns. With no refusals in the data: --mix t2t=COUNT,ti2t=COUNT.
    """
    stage(stage="base", **options)


_SHARED = inspect.signature(stage, eval_str=True)
base.__signature__ = _SHARED.replace(parameters=[p for n, p in _SHARED.parameters.items() if n != "stage"])


def vqgan(
    images: Annotated[list[Path], typer.Option(help="Picture, or directory of them; repeatable.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write: --model with the new image tokenizer.")],
    model: Annotated[str, typer.Option(help="Checkpoint whose image tokenizer is trained anew.")] = "armor-nano",
    steps: Annotated[int, typer.Option(min=10, help="Steps; the first 30 % without quantisation.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures in a step.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-3,
    foreground: Annotated[float, typer.Option(help="Extra weight of what is not white; 5 for drawings.")] = 0.0,
    limit: Annotated[int, typer.Option(min=1, help="Most pictures held in memory.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and codebook.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small image tokenizer (patch VQ) from pictures, of the sizes that a checkpoint is made for.

    The codes' meaning changes, so shards are made with the new checkpoint and stages 2 and 3 are trained on it.
    Chameleon's published VQGAN is never trained here.
    """
    from trainer.vq import VQRequest, run_vqgan

    result = run_vqgan(VQRequest(images, out, model, steps, batch_size, lr, foreground, limit, seed))
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    dropped = f"; {result['dropped']:,} left out as no readable pictures" if result["dropped"] else ""
    typer.echo(
        f"{out}: {result['psnr']:.1f} dB, {result['codes_used']} of {result['codebook_size']} codes used, "
        f"from {result['pictures']:,} pictures{dropped}"
    )
