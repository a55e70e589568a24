"""The official evaluator's result file (`evaluate_images.py --outfile`), read as stored detections.

One JSON object a line: filename, tag, prompt, correct, reason, and as JSON texts `metadata` and `details` ({class:
boxes that passed its thresholds}). The colours that CLIP gave stand in it only where they were wrong, in `reason`; the
others follow, since a prompt's colours are right where no reason says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from armor_eval.tasks.geneval.prompts import Metadata
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of

KEYS = frozenset({"filename", "correct", "reason", "metadata", "details"})


def is_official(record: object) -> bool:
    return isinstance(record, dict) and record.keys() >= KEYS


def as_detected(record: JsonView) -> JsonObject:
    """The line in the form of tasks.geneval.detections. Raises ValueError on what is not in the official form."""
    try:
        metadata, boxes = json_of(record["metadata"]), json_of(record["details"])
        meta = Metadata.model_validate(metadata)
        colors = _colors(meta, boxes, str(record["reason"] or ""))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"metadata and details are not JSON texts of objects: {error}") from None
    return {
        "image": record["filename"],
        "metadata": metadata,
        "detections": boxes,
        "colors": colors,
        "recorded": record["correct"],
    }


def _colors(meta: Metadata, boxes: Mapping[str, list], reason: str) -> dict[str, list[str]]:
    """Class -> the colours of its first `count` objects, where there are as many and the prompt names one."""
    found: dict[str, list[str]] = {}
    for wanted in meta.include:
        if wanted.color is None or len(boxes.get(wanted.name, [])) < wanted.count:
            continue
        start = re.escape(f"expected {wanted.color} {wanted.name}>={wanted.count}, found ")
        line = re.search(rf"^{start}\d+ {wanted.color}; and (.+)$", reason, re.MULTILINE)
        seen = re.findall(r"(\d+) (\w+)", line[1]) if line else [(wanted.count, wanted.color)]
        named = [color for many, color in seen for _ in range(int(many))]
        if len(named) != wanted.count:
            raise ValueError(f"reason: {len(named)} colours for {wanted.count} {wanted.name}")
        found[wanted.name] = named
    return found
