"""A soft GenEval score: how much of what a prompt asks for is there, for training on it; 1 exactly where the verdict is
right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from armor_eval.tasks.geneval.prompts import Metadata
from armor_eval.tasks.geneval.verdicts import Box, Rules, passing, relations_of


def soft_score(
    meta: Metadata,
    boxes: Mapping[str, Sequence[Box]],
    colors: Mapping[str, Sequence[str | None]],
    rules: Rules = Rules(),
) -> float:
    """Mean over the prompt's demands, 0 to 1: of each class the share of its count that was found, of a colour the
    share of the count that has it, of a relation the share of its pairs for which it holds, of `exclude` what is
    allowed over what was found.

    Our own definition: GenEval publishes verdicts only. `boxes` and `colors` are the stored form of a detection.
    """
    threshold = rules.score_threshold(meta.tag)
    counted = {name: passing(found, threshold, rules.max_objects) for name, found in boxes.items()}
    demands: list[float] = []
    groups: list[list[Box]] = []
    for wanted in meta.include:
        indices = counted.get(wanted.name, [])[: wanted.count]
        group = [boxes[wanted.name][i] for i in indices]
        demands.append(len(indices) / wanted.count)
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
        demands.append(1.0 if found < unwanted.count else (unwanted.count - 1) / found)
    return fmean(demands)
