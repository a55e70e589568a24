"""From a judge's readings of an image to its score, and from scored items to the reported numbers.

A reduction is a pure function of one image's readings and a list of composites over items; adding one is one line in
REDUCTIONS. An item carries its score (0..1), `extras.probes` (id, skill, value, reply) and `extras.numbers`.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.stats.composite import UNIT, Composite, fraction, in_group, percent, ratio
from armor_eval.tasks.suites import written
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Reading, UnreadReply
from armor_eval.tasks.suites.rubric import Rubric
from armor_eval.tasks.understanding.thinking import strip_thoughts

if TYPE_CHECKING:
    from armor_eval.runs.schema import Item
    from armor_eval.tasks.suites.declare import Suite


@dataclass(frozen=True)
class Scored:
    """One image's score."""

    score: float
    """What the headline is made of, 0..1."""
    values: tuple[float, ...]
    """One a probe, 0..1: what slices by skill pool."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Further numbers that composites read."""


@dataclass(frozen=True)
class Reduction:
    """How readings become a score, and scores numbers."""

    score: Callable[[Suite, SuiteItem, Sequence[Reading]], Scored]
    """Raises judges.UnreadReply where a reply says nothing that can be scored."""
    composites: Callable[[Suite], list[Composite]]
    """Exactly one is primary."""


# --- composites: means and pooled means by prompt --------------------------------------------------------------------


def mean_of(name: str, number: str | None = None, *, primary: bool = False, group: str | None = None) -> Composite:
    """100 x the mean over images of their score, or of one of their numbers; of one group only where it is named."""
    tally = partial(tally_number, number)
    return Composite(name, ("sum", "n"), tally, percent, primary=primary, keep=in_group(group))


def pooled(name: str, holds: Callable[[str], bool], *, sample: int | None = None) -> Composite:
    """100 x the mean over all probes whose skill `holds`, whatever image they are of; of one sample only where it is
    named."""
    tally = partial(_tally_probes, holds)
    return Composite(name, ("sum", "n"), tally, percent, keep=partial(_has_skill, holds, sample))


def _has_skill(holds: Callable[[str], bool], sample: int | None, item: Item) -> bool:
    right = sample is None or item.extras.get("sample") == sample
    return right and any(holds(probe["skill"]) for probe in item.extras.get("probes", ()))


def tally_number(number: str | None, items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of the number, images)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for item in items:
        if item.score is not None and (number is None or number in item.extras["numbers"]):
            row = table[item.cluster]
            row[0] += item.score if number is None else item.extras["numbers"][number]
            row[1] += 1
    return table


def _tally_probes(holds: Callable[[str], bool], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (sum of the probes' values, probes)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for item in items:
        for probe in item.extras["probes"] if item.score is not None else ():
            if holds(probe["skill"]):
                table[item.cluster][0] += probe["value"]
                table[item.cluster][1] += 1
    return table


# --- soft-TIFA (GenEval 2) -------------------------------------------------------------------------------------------


def soft_tifa(suite: Suite, item: SuiteItem, readings: Sequence[Reading]) -> Scored:
    """Geometric mean of the probes' probabilities, from float64 logarithms and without a floor; the arithmetic mean and
    the share of probes whose likeliest first token is a right answer beside it."""
    logs = [-math.inf if reading.log_p is None else reading.log_p for reading in readings]
    values = tuple(math.exp(log) for log in logs)
    hits = [reading.text.lower() in probe.accept for reading, probe in zip(readings, item.probes, strict=True)]
    numbers = {"am": math.fsum(values) / len(values), "tifa": sum(hits) / len(hits)}
    return Scored(math.exp(math.fsum(logs) / len(logs)) if min(logs) > -math.inf else 0.0, values, numbers)


def soft_tifa_composites(suite: Suite) -> list[Composite]:
    return [
        mean_of("soft-TIFA GM", primary=True),
        mean_of("soft-TIFA AM", "am"),
        mean_of("TIFA", "tifa"),
        *(pooled(skill, partial(_equals, skill)) for skill in suite.skills),
        *(mean_of(f"atomicity {group}", group=group) for group in suite.groups),
    ]


def _equals(name: str, skill: str) -> bool:
    return skill == name


# --- questions that hang on each other (DPG, OneIG alignment) --------------------------------------------------------


def dependent(suite: Suite, item: SuiteItem, readings: Sequence[Reading]) -> Scored:
    """Mean of the probes, a probe being wrong where a parent is.

    options.cascade: `row-order` reads each parent as it stands when the child's row comes (zeros run down where parents
    come first), `off` reads parents' raw answers. `values` are the raw answers: DPG's categories ignore parents.
    """
    loose, pairs = suite.options.get("loose"), zip(item.probes, readings, strict=True)
    raw = {p.id: float(_loosely_right(p, r.text) if loose else r.text in p.accept) for p, r in pairs}
    current = dict(raw)
    seen = current if suite.options.get("cascade", "row-order") == "row-order" else raw
    for probe in item.probes:
        if any(seen[parent] == 0 for parent in probe.parents):
            current[probe.id] = 0.0
    return Scored(sum(current.values()) / len(current), tuple(raw.values()))


def _loosely_right(probe: Probe, reply: str) -> bool:
    """By the reply's first word, whatever its case: a chat model says `Yes, there is.` where mPLUG says `yes`."""
    word = next(iter(re.findall(r"[^\W_]+", reply.lower())), "")
    accepted = {form.strip().lower() for form in probe.accept}
    if word not in accepted | {"yes", "no"}:
        raise UnreadReply(f"question {probe.id}: {reply[:80]!r} is neither yes nor no")
    return word in accepted


def dependent_composites(suite: Suite) -> list[Composite]:
    """The headline, each broad category (what stands before a skill's first `-`) and each skill.

    options.categories: `last` counts the last sample alone, as DPG's official script does; else all.
    """
    sample = suite.samples - 1 if suite.options.get("categories") == "last" else None
    broad = list(dict.fromkeys(broad_category(skill) for skill in suite.skills))
    names = [skill for skill in suite.skills if skill not in broad]
    return [
        mean_of("score", primary=True),
        *(pooled(name, partial(_within, name), sample=sample) for name in broad),
        *(pooled(name, partial(_equals, name), sample=sample) for name in names),
        *(mean_of(group, group=group) for group in suite.groups),
    ]


def broad_category(skill: str) -> str:
    return skill.partition("-")[0].strip()


def _within(name: str, skill: str) -> bool:
    return broad_category(skill) == name


# --- chat answers: rubrics (WISE, editing) and text that was read (LongText, OneIG) ----------------------------------


def share_of(name: str, number: str | None = None, *, primary: bool = False, group: str | None = None) -> Composite:
    """As `mean_of`, from 0 to 1: for suites that print their scores so."""
    composite = mean_of(name, number, primary=primary, group=group)
    return replace(composite, unit="score", bounds=UNIT, formula=fraction)


def rubric(suite: Suite, item: SuiteItem, readings: Sequence[Reading]) -> Scored:
    """One reply's weighted mean, by the rubric of the options; its fields as numbers, 0..1."""
    rules, (reading,) = Rubric.model_validate(suite.options["rubric"]), readings
    values = rules.read(reading.text)
    if values is None:
        raise UnreadReply(f"{' '.join(reading.text.split())[:120]!r}")
    score = rules.score(values)
    return Scored(score, (score,), {name: value / rules.high for name, value in values.items()})


def rubric_composites(suite: Suite) -> list[Composite]:
    """The mean over images, of each group, and of each field where there are several."""
    fields = Rubric.model_validate(suite.options["rubric"]).fields
    return [
        share_of("overall", primary=True),
        *(share_of(group, group=group) for group in suite.groups),
        *(share_of(field, field) for field in fields if len(fields) > 1),
    ]


def longtext(suite: Suite, item: SuiteItem, readings: Sequence[Reading]) -> Scored:
    """The share of the target's words (options.units: `words` or `characters`) that were read."""
    units = written.LongText.model_validate(suite.options).units
    return _written(written.longtext(json.loads(item.fields["target"]), strip_thoughts(readings[0].text), units))


def longtext_composites(suite: Suite) -> list[Composite]:
    """Matches over targets, summed over all images: a long target weighs more."""
    written.LongText.model_validate(suite.options)
    matched = partial(_of_numbers, ("matched", "target"), fraction)
    return [matched("text score", primary=True), *(matched(group, group=group) for group in suite.groups)]


def oneig_text(suite: Suite, item: SuiteItem, readings: Sequence[Reading]) -> Scored:
    """Words (or Chinese characters) that were read, the edit distance, and whether all is exact."""
    return _written(written.oneig(item.fields["target"], strip_thoughts(readings[0].text)))


def oneig_text_composites(suite: Suite) -> list[Composite]:
    """OneIG's formula over mean edit distance, share of exact texts and share of words; options.limit: its M."""
    columns, limit = ("distance", "exact", "matched", "target"), written.OneIG.model_validate(suite.options).limit
    return [
        _of_numbers(columns, partial(_oneig, limit), "text score", primary=True),
        _of_numbers(("matched", "target"), fraction, "word accuracy"),
        share_of("exact", "exact"),
    ]


def _oneig(limit: float, sums: np.ndarray) -> np.ndarray:
    """Sums (distance, exact, matched, target, images) -> 1 - min(M, distance) (1 - exact) (1 - matched) / M."""
    images = sums[..., 4]
    distance, exact = ratio(sums[..., 0], images), ratio(sums[..., 1], images)
    return 1 - np.minimum(distance, limit) * (1 - exact) * (1 - ratio(sums[..., 2], sums[..., 3])) / limit


def _written(found: written.Written) -> Scored:
    """A target without a single unit cannot be missed: it scores 1, and weighs nothing."""
    score = found.matched / found.target if found.target else 1.0
    numbers: dict[str, float] = {"matched": found.matched, "target": found.target}
    if found.distance is not None:
        numbers |= {"distance": found.distance, "exact": float(found.distance == 0)}
    return Scored(score, (score,), numbers)


def _of_numbers(
    names: tuple[str, ...],
    formula: Callable[[np.ndarray], np.ndarray],
    name: str,
    *,
    primary: bool = False,
    group: str | None = None,
) -> Composite:
    """A formula over the sums of the named numbers and, last, the images."""
    make = partial(Composite, name, (*names, "images"), partial(_tally_numbers, names), formula)
    return make("score", bounds=UNIT, primary=primary, keep=in_group(group))


def _tally_numbers(names: tuple[str, ...], items: Sequence[Item]) -> dict[str, list[float]]:
    """Columns (the sum of each named number ..., images)."""
    table: dict[str, list[float]] = defaultdict(lambda: [0.0] * (len(names) + 1))
    for item in items:
        if item.score is not None:
            values = [*(item.extras["numbers"][name] for name in names), 1.0]
            table[item.cluster] = [a + b for a, b in zip(table[item.cluster], values, strict=True)]
    return table


REDUCTIONS: dict[str, Reduction] = {
    "soft_tifa": Reduction(soft_tifa, soft_tifa_composites),
    "dependent": Reduction(dependent, dependent_composites),
    "rubric": Reduction(rubric, rubric_composites),
    "longtext": Reduction(longtext, longtext_composites),
    "oneig_text": Reduction(oneig_text, oneig_text_composites),
}
