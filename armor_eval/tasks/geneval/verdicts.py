"""GenEval's rules as pure functions: one image's detections and its prompt's metadata in, right or wrong and why out.

Definition: facts of the official evaluator (commit af4902f). Boxes are (x1, y1, x2, y2, score) in pixels, a list a
class, in the detector's order by falling score. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from armor_eval.tasks.geneval.prompts import Metadata, Wanted
from armor_model.base.optional import not_none

Box = Sequence[float]
ColorOf = Callable[[str, list[int]], list[str]]
"""(class, indices into that class's stored list) -> a colour name each."""


@dataclass(frozen=True)
class Rules:
    """Everything a different value of would change a verdict."""

    threshold: float = 0.3
    """A detection counts if its score is strictly above."""
    counting_threshold: float = 0.9
    """The same for prompts of the counting task."""
    max_objects: int = 16
    """Detections kept a class."""
    position_threshold: float = 0.1
    """Share of both objects' sizes that an offset must exceed before it is a relation."""

    def score_threshold(self, tag: str) -> float:
        return self.counting_threshold if tag == "counting" else self.threshold


@dataclass(frozen=True)
class Verdict:
    correct: bool
    reason: str
    """Empty if correct; else what was expected and what was found, `; ` between several."""


def passing(boxes: Sequence[Box], threshold: float, limit: int) -> list[int]:
    """Indices of the detections that count, in stored order: score strictly above the threshold, the first `limit`."""
    return [i for i, box in enumerate(boxes) if box[4] > threshold][:limit]


def relations_of(box: Box, target: Box, position_threshold: float = 0.1) -> set[str]:
    """Where `box` lies relative to `target`: none, one or two of left of / right of / above / below."""
    offsets, revised = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (box[low] + box[high]) / 2 - (target[low] + target[high]) / 2
        slack = position_threshold * (abs(box[high] - box[low]) + abs(target[high] - target[low]))
        offsets.append(offset)
        revised.append(math.copysign(max(abs(offset) - slack, 0.0), offset))
    if all(abs(value) < 1e-3 for value in revised):
        return set()
    length = math.sqrt(offsets[0] ** 2 + offsets[1] ** 2)  # of the offset before the slack was taken off
    dx, dy = revised[0] / length, revised[1] / length
    found = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in found.items() if holds}


def judge(meta: Metadata, boxes: Mapping[str, Sequence[Box]], color_of: ColorOf, rules: Rules = Rules()) -> Verdict:
    """The official verdict. `color_of` is asked only for the objects whose colour the prompt names."""
    threshold = rules.score_threshold(meta.tag)
    counted = {name: passing(found, threshold, rules.max_objects) for name, found in boxes.items()}
    reasons: list[str] = []
    groups: list[list[Box] | None] = []
    for wanted in meta.include:
        indices = counted.get(wanted.name, [])[: wanted.count]
        group = [boxes[wanted.name][i] for i in indices]
        problem = _too_few(wanted, indices) or _wrong_color(wanted, indices, color_of)
        if problem is None and wanted.position is not None:
            problem = _wrong_position(wanted, group, groups, meta, rules)
        if problem is not None:
            reasons.append(problem)
        groups.append(group if problem is None else None)
    for unwanted in meta.exclude:
        found = len(counted.get(unwanted.name, []))
        if found >= unwanted.count:
            reasons.append(f"expected fewer than {unwanted.count} {unwanted.name}, found {found}")
    return Verdict(not reasons, "; ".join(reasons))


def _too_few(wanted: Wanted, indices: list[int]) -> str | None:
    if len(indices) >= wanted.count:
        return None
    return f"expected at least {wanted.count} {wanted.name}, found {len(indices)}"


def _wrong_color(wanted: Wanted, indices: list[int], color_of: ColorOf) -> str | None:
    if wanted.color is None:
        return None
    colors = color_of(wanted.name, indices)
    right = colors.count(wanted.color)
    if right >= wanted.count:
        return None
    seen = ", ".join(f"{colors.count(color)} {color}" for color in dict.fromkeys(colors))
    return f"expected {wanted.count} {wanted.color} {wanted.name}, found {right} (seen: {seen})"


def _wrong_position(
    wanted: Wanted, group: list[Box], groups: list[list[Box] | None], meta: Metadata, rules: Rules
) -> str | None:
    relation, index = not_none(wanted.position)
    target_name = meta.include[index].name
    if (targets := groups[index]) is None:
        return f"no {target_name} for the {wanted.name} to be {relation}"
    for box in group:
        for target in targets:
            found = relations_of(box, target, rules.position_threshold)
            if relation not in found:
                words = " and ".join(sorted(found)) or "in no clear relation"
                return f"expected {wanted.name} {relation} {target_name}, found it {words}"
    return None


# --- the soft score, for training on it ------------------------------------------------------------------------------


def soft_score(
    meta: Metadata,
    boxes: Mapping[str, Sequence[Box]],
    colors: Mapping[str, Sequence[str | None]],
    rules: Rules = Rules(),
) -> float:
    """Mean over the prompt's demands, 0 to 1: of each class the share of its count that was found, of a colour the
    share of the count that has it, of a relation the share of its pairs for which it holds, of `exclude` what is
    allowed over what was found, times the mean share of the classes (so a blank image earns 0).

    Our own definition: GenEval publishes verdicts only. `boxes` and `colors` are the stored form of a detection.
    """
    threshold = rules.score_threshold(meta.tag)
    counted = {name: passing(found, threshold, rules.max_objects) for name, found in boxes.items()}
    there: list[float] = []
    demands: list[float] = []
    groups: list[list[Box]] = []
    for wanted in meta.include:
        indices = counted.get(wanted.name, [])[: wanted.count]
        group = [boxes[wanted.name][i] for i in indices]
        there.append(len(indices) / wanted.count)
        if wanted.color is not None:
            names = [colors[wanted.name][i] for i in indices]
            demands.append(names.count(wanted.color) / wanted.count)
        if wanted.position is not None:
            relation, index = wanted.position
            pairs = [(box, target) for box in group for target in groups[index]]
            holds = [relation in relations_of(box, target, rules.position_threshold) for box, target in pairs]
            demands.append(fmean(holds) if holds else 0.0)
        groups.append(group)
    for unwanted in meta.exclude:
        found = len(counted.get(unwanted.name, []))
        allowed = 1.0 if found < unwanted.count else (unwanted.count - 1) / found
        demands.append(allowed * (fmean(there) if there else 1.0))
    return fmean([*there, *demands])
