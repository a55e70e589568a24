"""One stage from the command line: shards in, a trained checkpoint folder and the record of its training out.

armor-train stage --stage 2 --model armor-8b --data shards --out run
torchrun --nproc-per-node 8 -m trainer stage --stage 2 --model armor-8b --data shards --out run --shard
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model import hub
from armor_model.base.errors import Preempted, UserError, did_you_mean
from armor_model.base.files import write_file
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none
from trainer.config import StageConfig
from trainer.configure import document, to_toml
from trainer.stages import STAGES, Stage

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor


def stage_of(config: StageConfig) -> Stage:
    """The declared stage with what the configuration changes. Raises UserError."""
    if config.stage not in STAGES:
        known = f"; known: {', '.join(STAGES)}"
        raise UserError(f"unknown stage {config.stage!r}{did_you_mean(config.stage, STAGES)}{known}")
    try:
        stage = STAGES[config.stage].scaled(config.share)
        changes: JsonObject = {
            "epochs": config.epochs,
            "trains": config.trains or None,
            "alpha": config.alpha,
            "beta": config.beta,
            "mixture": config.mix,
            "condition_dropout": config.condition_dropout,
        }
        stage = replace(stage, **{name: value for name, value in changes.items() if value is not None})
        if config.lora:
            stage = replace(stage, trains=(*stage.trains, "lora"))
    except ValueError as error:
        raise UserError(str(error)) from error
    return stage


def check(config: StageConfig) -> None:
    """What can be seen to be wrong before anything heavy is loaded. Raises UserError."""
    for name in ("stage", "data", "model", "out"):
        if not getattr(config, name):
            raise UserError(f"missing option --{name}", f"or {name} = ... in the file of --config")
    out = not_none(config.out)
    model = out / "model"
    if model.exists() and not (config.loop.resume and (out / "checkpoints").is_dir()):
        raise UserError(f"{model} is there already: choose another --out, or go on with its run by --resume")
    if model.exists() and Path(config.model).resolve() == model.resolve():
        raise UserError(f"--model {model} is where this run writes; choose another --out")
    for folder in (*config.data, *config.eval_data):
        if not folder.is_dir():
            raise UserError(f"no directory of shards at {folder}: make it with armor-train tokenize")
    if config.attention == "flash_attention_2":
        if config.loop.pack_to:
            told = "--pack-to does not go with --attention flash_attention_2, which takes no mask between conversations"
            raise UserError(told, "leave one of them out")
        from transformers.utils import is_flash_attn_2_available

        if not is_flash_attn_2_available():
            raise UserError(
                "--attention flash_attention_2: no GPU, or its package is not installed", "pip install flash-attn"
            )


def run_stage(config: StageConfig, command: Sequence[str] = ()) -> JsonObject | None:
    """Load, train, and write `<out>/model` (the whole checkpoint, trained parts merged), the run record (kind
    `training`, see trainer.bundle) and `<out>/result.json`. `command`: the command line, for the record.

    Returns the result in the main process, None in the others. Raises UserError and RunFailed.
    """
    check(config)
    stage = stage_of(config)
    if config.push_to_hub:
        hub.check_login(config.push_to_hub)

    import torch

    from armor_model import load, load_processor
    from armor_model.base.runtime import quiet_transformers
    from armor_model.convert.shards import Source
    from armor_model.loading import find_model
    from trainer import devices
    from trainer.bundle import Training
    from trainer.checkpoints import save_model
    from trainer.data.shards import Shards
    from trainer.loader import Images, Mixture
    from trainer.loop import Loop
    from trainer.objective import add_lora, freeze, heldout_losses, merge_lora

    quiet_transformers()
    start, out = find_model(config.model), not_none(config.out)
    how = config.optimization
    if how.precision == "auto":
        how = replace(how, precision=devices.asked_precision() or "fp32")
    shard = config.loop.shard or devices.asked_to_shard()
    if config.loop.replicas > 1 and not shard:
        raise UserError(f"--replicas {config.loop.replicas} needs --shard", "without it every process holds a copy")
    lazily = shard and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if lazily:
        model, processor = devices.empty_model(start, config.attention), load_processor(start)
    else:
        model, processor = load(start, **({"attn_implementation": config.attention} if config.attention else {}))
    if config.lora:
        if shard:
            raise UserError("--lora and --shard do not go together", "an 8B with LoRA fits one GPU of 80 GB")
        add_lora(model, config.lora, config.seed)
    save_as = getattr(torch, config.save_dtype) if config.save_dtype else model.dtype
    if how.precision == "fp32":
        model = model.float()
    else:  # master weights of what learns; what is frozen stays as it was published, half the memory of fp32
        freeze(model, stage)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    bad = config.loop.bad_images
    shards = Shards(list(config.data), processor, config.image_root, bad)
    pools = shards.pools()
    missing = [kind for kind, count in stage.mixture.items() if count and kind not in pools]
    if missing:
        raise UserError(f"--data holds no {', '.join(missing)}; add some, or name other counts: --mix t2i=COUNT,...")
    try:
        mixture = Mixture(pools, stage.mixture, how.batch_size, config.seed, stage.condition_dropout)
        how = replace(how, steps=how.steps or len(mixture) * stage.epochs)
    except ValueError as error:
        raise UserError(str(error)) from error
    asks = config.sample_prompt or config.ask
    sample = sampler(processor, config.sample_prompt, config.ask, config.seed) if asks else None
    evaluate, held_images = None, Images()
    if config.eval_data:
        held = Shards(list(config.eval_data), processor, config.image_root, bad).pools()
        evaluate = heldout_losses(held, stage, config.eval_limit, bad_images=bad, images=held_images)
    options = replace(
        config.loop,
        out=out,
        sample=sample,
        shard=shard,
        given={kind: len(p) for kind, p in pools.items()},
        evaluate=evaluate,
        evaluate_every=(config.eval_every or how.steps) if evaluate else 0,
    )
    loop = Loop(model, stage, mixture, how, options, Source(start) if lazily else None)
    loop.begin()  # a directory that is another run's keeps its record and its configuration
    used = replace(config, optimization=how, loop=replace(config.loop, shard=shard))
    with Training.open(
        out if loop.main else None,
        name=f"stage {stage.name}",
        profile=config.profile,
        command=command,
        settings=document(used),
        start=start,
        data=(", ".join(folder.name for folder in config.data), shards.sha256, len(shards)),
        seed=config.seed,
        processes=loop.accelerator.num_processes,
        resume=config.loop.resume,
    ) as training:
        if loop.main:
            write_file(out / "config.toml", to_toml(used))
        try:
            outcome = loop.run()
        except Preempted as stopped:
            if not loop.main:
                sys.exit(Preempted.exit_code)
            again = shlex.join([*command, *([] if "--resume" in command else ["--resume"])])
            raise Preempted(stopped.message, f"go on, started as before, with: {again}") from stopped
        with loop.average.swapped():
            trained = devices.whole_model(model, loop.main, save_as, "cpu")
            if not loop.main:
                return None
            facts = {
                "base": config.model,
                "stage": stage.name,
                **{k: f"{a:,} of {b:,}" for k, (a, b) in loop.plan.reads.items()},
            }
            facts |= {name: f"{value:.4g}" for name, value in outcome.losses.items() if name.startswith("loss/")}
            if config.lora:
                merge_lora(trained)
            save_model(not_none(trained).to(save_as), processor, out / "model", facts)
        training.finish(out / "model", outcome.steps, outcome.cost, outcome.losses, [out / "log.jsonl"])
    result = {
        "stage": stage.name,
        "steps": outcome.steps,
        "losses": outcome.losses,
        "images": asdict(outcome.images),
        **({"heldout_images": asdict(held_images)} if evaluate else {}),
        "cost": {**asdict(outcome.cost), "device_days": outcome.cost.device_days},
        "processes": loop.accelerator.num_processes,
        "sharded": shard,
        "model": str(out / "model"),
    }
    if config.push_to_hub:
        result["pushed"] = hub.push(out / "model", config.push_to_hub)
    write_file(out / "result.json", json.dumps(result, indent=1) + "\n")
    return result


def sampler(
    processor: ArmorProcessor, drawn: Sequence[str], asked: Sequence[str], seed: int
) -> Callable[[ArmorModel, int], JsonObject]:
    """Draws and answers the same prompts with the same seeds each time, the paper's Figure 6: what LoopOptions.sample
    wants, (model, step) -> {name: PIL image or text}; prompt number i has seed + i. Answers may hold both."""
    names = [
        f"{i:02d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:40]}"
        for i, prompt in enumerate((*drawn, *asked))
    ]

    def sample(model: ArmorModel, step: int) -> JsonObject:
        from armor_model import draw, generate

        not_none(processor.vq).to(next(model.parameters()).device)
        seeds = [seed + i for i in range(len(names))]
        found = dict(zip(names, draw(model, processor, list(drawn), seeds=seeds[: len(drawn)]), strict=False))
        talks = [[{"role": "user", "content": prompt}] for prompt in asked]
        answers = generate(model, processor, talks, seeds=seeds[len(drawn) :]) if talks else []
        for name, answer in zip(names[len(drawn) :], answers, strict=True):
            found |= {f"{name}-{i}": part for i, part in enumerate(answer.parts)}
        return found

    return sample
