"""Writes armor-nano's checkpoint folder with its model card: recipe, seed, cost and measured scores, all generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path

import numpy as np

from armor_model.base.files import whole_folder
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none
from armor_model.base.parsing import json_of
from armor_model.base.sheets import Tile, contact_sheet
from trainer.shapes.evaluation import Judge, Rate
from trainer.shapes.recipe import NanoOutcome, NanoRecipe
from trainer.shapes.world import WORLD_VERSION, held_out_sha256

DRAWING = {"image_temperature": 0.5, "guidance": 1.0}
"""How images of the card are drawn, and what the checkpoint says of itself."""
OWN = "generation_config.json"
"""Where it says so (armor_model.loading.image_defaults)."""


def save_nano(outcome: NanoOutcome, folder: Path) -> None:
    """Model, processor and image tokenizer, weights in fp16 on disk; read back as fp32, which is faster on a CPU.

    Takes the place of what is in the folder. Raises RunFailed where the disk is full.
    """
    import copy

    from armor_model import save
    from armor_model.base.runtime import quiet_transformers

    quiet_transformers()
    processor = copy.deepcopy(outcome.processor)
    processor.vq = not_none(processor.vq).half()
    with whole_folder(folder, "config.json", no_space=f"no space left for the model in {folder.parent}") as draft:
        save(copy.deepcopy(outcome.model).half(), processor, draft)
        drawing = json_of((draft / OWN).read_text()) | {"image_temperature": DRAWING["image_temperature"]}
        (draft / OWN).write_text(json.dumps(drawing, indent=2, sort_keys=True) + "\n")
        path = draft / "config.json"
        config = json.loads(path.read_text())
        config["dtype"] = "float32"
        for tower in ("text_config", "vision_config"):
            config[tower]["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")


def measure(folder: Path, each: dict[str, int], seed: int, settings: JsonObject | None = None) -> JsonObject:
    """Judge a checkpoint folder: accuracy by question type, modality choice, drawings by task. Plain numbers, for
    JSON."""
    from armor_model import GenerationSettings, load
    from armor_model.base.runtime import quiet_transformers

    quiet_transformers()
    model, processor = load(folder)
    judge = Judge(model, processor, GenerationSettings(**(settings or DRAWING)))
    drawings, images = judge.drawings(each["drawings"], seed)
    found = {
        "questions": judge.questions(each["questions"], seed),
        "modality": judge.modality(each["modality"], seed),
        "modality_last_turn": judge.modality(each["modality"], seed, "last"),
        "modality_new_wordings": judge.modality(each["modality"], seed, "new"),
        "drawings": drawings,
    }
    scores: JsonObject = {group: {k: _numbers(r) for k, r in rates.items()} for group, rates in found.items()}
    scores["mean"] = {group: float(np.mean([r.value for r in rates.values()])) for group, rates in found.items()}
    scores["worst"] = {group: min(rates, key=lambda k: rates[k].value) for group, rates in found.items()}
    scores["seed"] = seed
    scores["settings"] = settings or DRAWING
    tiles = [Tile(image) for _, image in images]
    rows = [("", tiles[i : i + 24]) for i in range(0, len(tiles), 24)]
    contact_sheet(rows, side=images[0][1].width).save(folder / "drawings.png")
    return scores


def _numbers(rate: Rate) -> JsonObject:
    return {"value": rate.value, "n": rate.of, "ci95": list(rate.interval)}


def write_card(folder: Path, recipe: NanoRecipe, outcome: NanoOutcome, scores: JsonObject, command: str) -> None:
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
        "parameters": {**sizes, "image_tokenizer": sum(p.numel() for p in not_none(outcome.processor.vq).parameters())},
        "scores": scores,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    (folder / "README.md").write_text(card_text(record))


def card_text(record: JsonObject) -> str:
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


GROUPS = ("questions", "modality", "modality_last_turn", "modality_new_wordings", "drawings")


def seeds_text(records: Sequence[JsonObject]) -> str:
    """Several trainings side by side, each cell with its 95 % Wilson interval; a pure function of their training.json.

    The one to bundle is the median by the mean of understanding, modality choice and held-out drawing, not the best.
    Random-backbone twins are compared with the trainings of their seeds in a table of their own.
    """
    twins = [r for r in records if r["recipe"]["random_backbone"]]
    records = [r for r in records if not r["recipe"]["random_backbone"]]
    lines = _side_by_side(records) if records else _side_by_side(twins)
    if len(records) > 2:
        middle = sorted(records, key=overall)[(len(records) - 1) // 2]
        means = ", ".join(f"{overall(r):.3f}" for r in records)
        lines += [
            f"Mean of understanding, modality and drawing: {means}; the median is seed {middle['recipe']['seed']}.",
            "",
        ]
    return "\n".join(lines + (_twins(records, twins) if records and twins else []))


def _side_by_side(records: Sequence[JsonObject]) -> list[str]:
    names = [
        f"seed {r['recipe']['seed']}{', random backbone' if r['recipe']['random_backbone'] else ''}" for r in records
    ]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(records)]
    lines.append("| CPU-seconds | " + " | ".join(f"{r['cpu_seconds']:.0f}" for r in records) + " |")
    for group in GROUPS:
        means = (f"{r['scores']['mean'][group]:.3f}" for r in records)
        lines.append(f"| **{group.replace('_', ' ')}**, mean | " + " | ".join(means) + " |")
        for task in sorted(records[0]["scores"][group]):
            cells = []
            for record in records:
                rate = record["scores"][group][task]
                cells.append(f"{rate['value']:.2f} [{rate['ci95'][0]:.2f}, {rate['ci95'][1]:.2f}]")
            lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _twins(records: Sequence[JsonObject], twins: Sequence[JsonObject]) -> list[str]:
    """What drawing owes to understanding: the same stages on a base that learned and on one that did not. Differences
    are paired by seed; the interval is Student's over seeds."""
    from scipy import stats

    untrained = {r["recipe"]["seed"]: r for r in twins}
    pairs = [(r, untrained[r["recipe"]["seed"]]) for r in records if r["recipe"]["seed"] in untrained]
    if not pairs:
        return []
    seeds = ", ".join(str(r["recipe"]["seed"]) for r, _ in pairs)
    lines = [
        f"| mean over seeds {seeds} | trained base | random backbone | difference, 95 % over seeds |",
        "|---|---|---|---|",
    ]

    def row(name: str, *path: str) -> str:
        ours, theirs = ([reduce(getitem, path, r["scores"]) for r in side] for side in zip(*pairs, strict=True))
        differences = np.subtract(ours, theirs)
        said = f"{differences.mean():+.2f}"
        if len(pairs) > 1:
            half = stats.t.ppf(0.975, len(pairs) - 1) * differences.std(ddof=1) / len(pairs) ** 0.5
            said += f" [{differences.mean() - half:+.2f}, {differences.mean() + half:+.2f}]"
        return f"| {name} | {np.mean(ours):.2f} | {np.mean(theirs):.2f} | {said} |"

    for group in GROUPS:
        lines.append(row(f"**{group.replace('_', ' ')}**, mean", "mean", group))
    for task in sorted(pairs[0][0]["scores"]["drawings"]):
        lines.append(row(task, "drawings", task, "value"))
    return [*lines, ""]


def overall(record: JsonObject) -> float:
    """What seeds are ordered by."""
    mean = record["scores"]["mean"]
    return float(np.mean([mean["questions"], mean["modality"], mean["drawings"]]))
