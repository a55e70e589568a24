"""From judged items to scores.json and the stored detections."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import protocol_of, remark_of
from armor_eval.runs.schema import Item, Run, Scores
from armor_eval.stats.composite import Composite
from armor_eval.tasks.drawn import score_items
from armor_eval.tasks.formulas import composites_for
from armor_model.base.files import write_file

DETECTIONS = "detections.jsonl"


def score_run(run: Run, items: Sequence[Item], expected: int) -> Scores:
    """Metrics with intervals clustered by prompt, also of the prompts that training never showed; the headline is
    withheld while an image has no verdict, and says where the run is not of the expected protocol."""
    composites = composites_for("geneval")
    if any("held_out" in item.extras for item in items if item.score is not None):
        composites = composites + [
            replace(c, name=f"held-out {c.name}", primary=False, keep=_held_out(c)) for c in composites
        ]
    remark = remark_of(protocol_of(run), "geneval" if run.profile == "official" else run.profile)
    return score_items(items, composites, expected, "pictures have no verdict", remark)


def _held_out(composite: Composite) -> Callable[[Item], bool]:
    """The composite's own choice of items, and of those the prompts that training never showed."""

    def keep(item: Item) -> bool:
        return bool(item.extras.get("held_out")) and (composite.keep is None or composite.keep(item))

    return keep


def write_detections(bundle: Bundle, items: Sequence[Item]) -> None:
    """detections.jsonl, which `armor-eval geneval score` judges again."""
    lines = [
        {
            "image": item.output_images[0],
            "metadata": item.gold,
            "detections": item.extras["detections"],
            "colors": item.extras["colors"],
        }
        for item in items
        if item.status == "ok"
    ]
    write_file(bundle.path / DETECTIONS, "".join(json.dumps(line) + "\n" for line in lines))
