"""Writes armor-nano's checkpoint folder with its model card: recipe, seed, cost and measured scores, all generated."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trainer.folders import whole_folder
from trainer.nano import NanoOutcome, NanoRecipe
from trainer.nano_eval import Judge, Rate
from trainer.shapes.world import WORLD_VERSION, held_out_sha256

DRAWING = {"image_temperature": 0.5, "guidance": 1.0}
"""How pictures of the card are drawn."""


def save_nano(outcome: NanoOutcome, folder: Path) -> None:
    """Model, processor and image tokenizer, weights in fp16 on disk; read back as fp32, which is faster on a CPU.

    Takes the place of what is in the folder. Raises TrainingError where the disk is full.
    """
    import copy

    from armor_model import save
    from armor_model.loading import quiet_transformers

    quiet_transformers()
    processor = copy.deepcopy(outcome.processor)
    processor.vq = processor.vq.half()
    with whole_folder(folder, f"no space left for the model in {folder.parent}") as draft:
        save(copy.deepcopy(outcome.model).half(), processor, draft)
        path = draft / "config.json"
        config = json.loads(path.read_text())
        config["dtype"] = "float32"
        for tower in ("text_config", "vision_config"):
            config[tower]["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def measure(folder: Path, each: dict[str, int], seed: int, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Judge a checkpoint folder: accuracy by question type, modality choice, drawings by task. Plain numbers, for
    JSON."""
    from armor_model import GenerationSettings, load
    from armor_model.loading import quiet_transformers

    quiet_transformers()
    model, processor = load(folder)
    judge = Judge(model, processor, GenerationSettings(**(settings or DRAWING)))
    drawings, pictures = judge.drawings(each["drawings"], seed)
    found = {
        "questions": judge.questions(each["questions"], seed),
        "modality": judge.modality(each["modality"], seed),
        "modality_last_turn": judge.modality(each["modality"], seed, "last"),
        "modality_new_wordings": judge.modality(each["modality"], seed, "new"),
        "drawings": drawings,
    }
    scores: dict[str, Any] = {group: {k: _numbers(r) for k, r in rates.items()} for group, rates in found.items()}
    scores["mean"] = {group: float(np.mean([r.value for r in rates.values()])) for group, rates in found.items()}
    scores["worst"] = {group: min(rates, key=lambda k: rates[k].value) for group, rates in found.items()}
    scores["seed"] = seed
    scores["settings"] = settings or DRAWING
    contact_sheet([p for _, p in pictures]).save(folder / "drawings.png")
    return scores


def _numbers(rate: Rate) -> dict[str, Any]:
    return {"value": rate.value, "n": rate.of, "ci95": list(rate.interval)}


def contact_sheet(pictures: list[Any], columns: int = 24) -> Any:
    """Small pictures side by side."""
    from PIL import Image

    side, gap = pictures[0].width, 2
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap), rows * (side + gap)), (128, 128, 128))
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (side + gap), i // columns * (side + gap)))
    return sheet


def write_card(folder: Path, recipe: NanoRecipe, outcome: NanoOutcome, scores: dict[str, Any], command: str) -> None:
    """`training.json` (everything, for programs) and `README.md` (the same, for people)."""
    sizes = {name: sum(p.numel() for p in ps) for name, ps in outcome.model.parts().items()}
    record = {
        "world": WORLD_VERSION,
        "held_out_sha256": held_out_sha256(),
        "command": command,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "cost": [asdict(report) for report in outcome.reports],
        "cpu_seconds": outcome.cpu_seconds,
        "vq": asdict(outcome.vq),
        "parameters": {**sizes, "image_tokenizer": sum(p.numel() for p in outcome.processor.vq.parameters())},
        "scores": scores,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "README.md").write_text(card_text(record))


def card_text(record: dict[str, Any]) -> str:
    """The model card; a pure function of training.json."""
    recipe, scores = record["recipe"], record["scores"]
    twin = recipe["random_backbone"]
    total = sum(record["parameters"].values())
    lines = [
        f"# armor-nano{' with a random backbone' if twin else ''}",
        "",
        f"A real ARMOR of {total:,} parameters for the shapes world v{record['world']} (32x32 pictures, 5 colours, "
        "4 shapes, 4 cells): it answers questions about pictures, draws, and chooses between text, picture and both.",
        "It knows nothing else: its vocabulary is the world's. It exists to prove the pipeline, and stands in no "
        "comparison with the paper's 8B.",
        "",
        f"Reproduce: `{record['command']}` (seed {recipe['seed']}; {record['cpu_seconds']:.0f} CPU-seconds on one "
        "thread where it was made).",
        f"Held-out list: sha256 `{record['held_out_sha256'][:16]}`; no training picture or request holds a listed "
        "combination. Held out are whole contents of one or two things or of one shape: composed requests do show, "
        "say, a circle left of a square beside a third thing, or two red crosses beside a blue one.",
        "Requests are shown in one layout only where no relation decides: things stand in reading order as they are "
        "named, so drawings vary less than the world does.",
        "",
        "## Recipe and cost",
        "",
        "| step | optimizer steps | batch | lr | data | CPU-seconds | last losses |",
        "|---|---|---|---|---|---|---|",
    ]
    remaining = list(recipe["stages"])
    for report in record["cost"]:
        stage = next((s for s in remaining if s["stage"] == report["name"]), None)
        if stage:
            remaining.remove(stage)  # a stage can stand in the recipe more than once
        how = stage["how"] if stage else {}
        data = ", ".join(f"{k} {v}" for k, v in stage["mixture"].items()) if stage else ""
        lr = f"{how['lr']:g}" + (f", Muon {how['muon_lr']:g}" if how.get("muon_lr") else "") if how else ""
        losses = ", ".join(
            f"{k.removeprefix('loss/')} {v:.3f}"
            for k, v in report["losses"].items()
            if k.startswith(("loss", "psnr", "acc"))
        )
        lines.append(
            f"| {report['name']} | {report['steps'] or ''} | {how.get('batch_size', '')} | {lr} | {data} "
            f"| {report['cpu_seconds']:.0f} | {losses} |"
        )
    lines += [
        "",
        f"Image tokenizer: {record['vq']['psnr']:.1f} dB, {record['vq']['codes_used']} codes in use. "
        f"Adapter initialised: {recipe['adapter_init']}. Condition dropout in stages 2 and 3, so guidance works.",
        "",
        "## Parameters",
        "",
        "| part | parameters |",
        "|---|---|",
        *(f"| {name} | {n:,} |" for name, n in record["parameters"].items()),
        "",
        "## Scores",
        "",
        "Judged by the trainer's own rule (nearest tile a cell, exact; anything beyond the request is wrong), "
        f"seed {scores['seed']}, pictures drawn with "
        f"{', '.join(f'{k} {v:g}' for k, v in scores['settings'].items())}. 95 % Wilson intervals. "
        "The harness judges again with a detector.",
        "",
    ]
    titles = {
        "questions": "Understanding, by question type (open, and as multiple choice)",
        "modality": "Answers the first turn with text, picture or both (training's wordings, new contents; one drawing "
        "request in ten opens with small talk, so that .90 is the most to expect of t2i and t2ti)",
        "modality_last_turn": "The same conversations, answered at their last turn",
        "modality_new_wordings": "Requests in wordings that training never used",
        "drawings": "Drawing held-out combinations",
    }
    for group, title in titles.items():
        lines += [
            f"### {title}: mean {scores['mean'][group]:.3f}, worst {scores['worst'][group]}",
            "",
            "| | score | n | 95 % |",
            "|---|---|---|---|",
            *(
                f"| {name} | {r['value']:.3f} | {r['n']} | {r['ci95'][0]:.2f} to {r['ci95'][1]:.2f} |"
                for name, r in sorted(scores[group].items())
            ),
            "",
        ]
    lines += ["Drawn for this card: `drawings.png`.", ""]
    return "\n".join(lines)
