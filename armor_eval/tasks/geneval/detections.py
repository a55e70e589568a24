"""The stored form of what a detector saw in an image, and re-scoring it: `armor-eval geneval score --detections FILE`.

One JSON object a line: `{image, metadata, detections: {class: [[x1, y1, x2, y2, score], ...]}, colors: {class: [name,
...]}}`. Boxes stand by falling score; the thresholds, the limit a class and every rule are applied in the order of the
file. `colors[class][i]` belongs to `detections[class][i]`; null where nobody asked. A result file of the official
evaluator is read too (armor_eval.tasks.geneval.detections).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from armor_eval.tasks.geneval.prompts import Metadata, check_metadata
from armor_eval.tasks.geneval.verdicts import Rules, Verdict, judge
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import fault_of, json_of

STORED_ABOVE = 0.05
"""Every run stores the detections whose score is strictly above."""


class Detected(BaseModel):
    """One image's record."""

    model_config = ConfigDict(extra="ignore")

    image: str
    metadata: JsonObject
    detections: dict[str, list[tuple[float, float, float, float, float]]]
    colors: dict[str, list[str | None]] = {}
    recorded: bool | None = None
    """The verdict that the official evaluator gave, where the file is its own."""

    @field_validator("detections")
    @classmethod
    def _finite(cls, value: dict[str, list[list[float]]]) -> dict[str, list[list[float]]]:
        for name, boxes in value.items():
            for i, box in enumerate(boxes):
                if not all(math.isfinite(number) for number in box):
                    raise ValueError(f"{name}[{i}] holds a number that is not finite")
        return value


class ColorMissingError(Exception):
    """A verdict needs a colour that the record does not hold."""


def read_detections(path: Path) -> Iterator[tuple[str, Detected, Metadata]]:
    """(where, record, checked metadata) a line; a UserError names file and line, also of an image that was there
    before. Class names are not held to a list."""
    seen: dict[str, int] = {}
    try:
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                record = _parse(line, where)
                first = seen.setdefault(record.image, number)
                if first != number:
                    raise UserError(f"{where}: image {record.image!r} stands in line {first} already")
                yield where, record, check_metadata(record.metadata, None, where)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read detections {path}: {error}") from None


def _parse(line: str, where: str) -> Detected:
    try:
        record = json_of(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from None
    try:
        return Detected.model_validate(as_detected(record) if is_official(record) else record)
    except ValidationError as error:
        raise UserError(
            f"{where}: {fault_of(error)}",
            hint="expected {image, metadata, detections: {class: [[x1, y1, x2, y2, score]]}, colors: {class: [name]}}",
        ) from None
    except ValueError as error:
        raise UserError(f"{where}: {error}", "expected a line of the official evaluator's result file") from None


def verdict_of(record: Detected, meta: Metadata, rules: Rules) -> Verdict:
    """Judge a stored record; ColorMissingError if it lacks a colour that the rules ask for."""

    def color_of(name: str, indices: list[int]) -> list[str]:
        stored = record.colors.get(name, [])
        found: list[str] = []
        for i in indices:
            if (color := stored[i] if i < len(stored) else None) is None:
                raise ColorMissingError(f"the colour of {name}[{i}] is not stored")
            found.append(color)
        return found

    return judge(meta, record.detections, color_of, rules)


def score_file(path: Path, rules: Rules) -> Iterator[JsonObject]:
    """A line of `geneval score` for each stored image: image, tag, prompt, correct, reason.

    Of an official result also its own verdict (`recorded`), and if ours follows from the boxes alone (`from_boxes`).
    """
    for where, record, meta in read_detections(path):
        try:
            verdict = verdict_of(record, meta, rules)
        except ColorMissingError as error:
            raise UserError(
                f"{where}: {error}",
                hint="these thresholds look at an object that has no colour on file: judge the images again",
            ) from None
        yield {
            "image": record.image,
            "tag": meta.tag,
            "prompt": meta.prompt,
            "correct": verdict.correct,
            "reason": verdict.reason,
            **({} if record.recorded is None else _beside(record, meta, rules)),
        }


def _beside(record: Detected, meta: Metadata, rules: Rules) -> dict[str, bool | None]:
    """A verdict follows from the boxes where no colour is asked, or where it is wrong whatever the colours are."""
    plain = meta.model_copy(update={"include": [w.model_copy(update={"color": None}) for w in meta.include]})
    wrong = not judge(plain, record.detections, lambda name, indices: [], rules).correct
    return {"recorded": record.recorded, "from_boxes": wrong or plain == meta}


# --- the official evaluator's result file, read as stored detections -------------------------------------------------
# One JSON object a line: filename, tag, prompt, correct, reason, and as JSON texts `metadata` and `details` ({class:
# boxes that passed its thresholds}). The colours that CLIP gave stand in it only where they were wrong, in `reason`;
# the others follow, since a prompt's colours are right where no reason says otherwise.


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


# --- detected instances of one image ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Instances:
    """N detections by falling score in an image of H x W pixels."""

    labels: np.ndarray
    """int [N], class indices."""
    scores: np.ndarray
    """float32 [N]."""
    boxes: np.ndarray
    """float32 [N, 4], x1, y1, x2, y2."""
    masks: np.ndarray
    """bool [N, H, W]."""

    @classmethod
    def nothing(cls, size: tuple[int, int]) -> Instances:
        return cls(np.zeros(0, int), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), np.zeros((0, *size), bool))

    def by_class(self, classes: Sequence[str], above: float) -> dict[str, list[list[float]]]:
        """The stored form, `{class: [[x1, y1, x2, y2, score], ...]}`, of the scores strictly above a threshold.

        Numbers are the shortest decimals that mean the same float32, so that .3 is stored as .3 and not above it.
        """
        stored: dict[str, list[list[float]]] = {}
        for label, score, box in zip(self.labels, self.scores, self.boxes, strict=True):
            if score > above:
                stored.setdefault(classes[label], []).append([float(str(v)) for v in (*box, score)])
        return stored

    def masks_of(self, label: int, above: float) -> np.ndarray:
        """Masks of one class in the order of `by_class`, bool [n, H, W]."""
        return self.masks[(self.labels == label) & (self.scores > above)]
