"""From judged items to scores.json, the stored detections and the contact sheets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from armor_eval.engine import Outcome
from armor_eval.runs.blank import blank_of, reserve_blank
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.protocols import protocol_of, remark_of
from armor_eval.runs.schema import Item, Metric, Scores
from armor_eval.stats.composite import Composite, measure
from armor_eval.tasks.formulas import composites_for
from armor_eval.tasks.suites.images import write_sheets
from armor_model.base.files import write_file
from armor_model.base.jsons import JsonObject

DETECTIONS = "detections.jsonl"


def score_items(items: Sequence[Item], expected: int, remark: str | None) -> Scores:
    """Metrics with intervals clustered by prompt; the headline is withheld while an image has no verdict.

    `remark` is put under the headline (prompts that are not the official ones ...).
    """
    judged = [item for item in items if item.status == "ok"]
    lost = expected - len(judged)
    metrics: list[Metric] = []
    composites = composites_for("geneval")
    held_out = [replace(c, name=f"held-out {c.name}", primary=False, keep=_held_out(c)) for c in composites]
    for composite in composites + (held_out if any("held_out" in item.extras for item in judged) else []):
        metric = measure(judged, composite)
        if metric.n == 0 and not composite.primary:
            continue
        metrics.append(metric)
    withheld = f"{lost} of {expected} pictures have no verdict" if lost else None
    for i, metric in enumerate(metrics):
        if metric.primary and withheld:
            metrics[i] = metric.model_copy(update={"value": None, "ci95": None, "note": f"withheld: {withheld}"})
        elif metric.primary and remark:
            metrics[i] = metric.model_copy(update={"note": remark})
    counts = Counter(item.status for item in items)
    return Scores(metrics=metrics, counts=counts, expected_items=expected, blank=blank_of(items)[0], withheld=withheld)


def _held_out(composite: Composite) -> Callable[[Item], bool]:
    """The composite's own choice of items, and of those the prompts that training never showed."""

    def keep(item: Item) -> bool:
        return bool(item.extras.get("held_out")) and (composite.keep is None or composite.keep(item))

    return keep


def outcome(bundle: Bundle, expected: int, extras: JsonObject, lost: str | None) -> Outcome:
    """Score what was journaled; write detections.jsonl and the sheets. `lost` says why prompts may be missing."""
    items = sorted(bundle.items.values(), key=lambda item: item.id)
    profile = bundle.run.profile
    remark = remark_of(protocol_of(bundle.run), "geneval" if profile == "official" else profile)
    scores = score_items(items, expected, remark)
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
    write_sheets(bundle, items)
    sizes = Counter(item.extras["size"] for item in items if "size" in item.extras)
    extras = {**bundle.run.extras, **extras, "image_sizes": dict(sizes.most_common())}
    reservations = reserve_blank(bundle.run.reservations, *blank_of(items))
    return Outcome(items, scores, lost, {"extras": extras, "reservations": reservations})
