"""Items and probes of a suite: what is drawn, and what a judge is asked about each image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from armor_model.base.errors import UserError

ParentRule = Literal["before", "row-order"]
"""`before`: a parent stands before its child, or the file is refused. `row-order`: a child that stands before its
parent is judged by the parent's raw answer, as DPG's official script does."""


@dataclass(frozen=True)
class Probe:
    """One question about an image."""

    id: str
    """Unique in its item."""
    text: str
    """The question, without the template's words around it."""
    accept: tuple[str, ...] = ()
    """Right answers, exactly as a judge may give them; empty for kinds whose replies are parsed (`rubric`, `ocr`)."""
    parents: tuple[str, ...] = ()
    """Ids of probes of the same item: where one of them is wrong, this one is."""
    skill: str = ""
    """One of the suite's declared skills; empty where it has none."""


@dataclass(frozen=True)
class SuiteItem:
    """One prompt with what its images are asked."""

    id: str
    """As the published file has it, or the line number; part of the run's item ids."""
    prompt: str
    """What the model is given."""
    probes: tuple[Probe, ...]
    group: str | None = None
    """One of the suite's declared groups (atomicity, category): a slice of its scores."""
    cluster: str = ""
    """What is resampled together; the item itself where empty."""
    sources: tuple[Path, ...] = ()
    """Images that the model is given with the prompt (editing); the judge sees them before the image."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """More of the published row: names that the template may use, and what a reduction compares with (`target`)."""
    max_new_tokens: int | None = None
    """Of a judge's reply; None: the suite's."""


@dataclass(frozen=True)
class SuiteData:
    """A suite's items as they were read."""

    name: str
    sha256: str
    """Of the file that was read; of several over their hashes, in the declared order."""
    items: Sequence[SuiteItem]
    notes: Sequence[str] = ()
    """What a reader must know of how they were read, one line each."""
    template: str | None = None
    """The judge's words where they come from a file of the user's; None: the declaration's."""
    system: str | None = None

    @property
    def content_sha256(self) -> str:
        """Of the prompts joined by newlines: files that differ in layout only draw the same."""
        return hashlib.sha256("\n".join(item.prompt for item in self.items).encode()).hexdigest()


def check_items(
    items: Sequence[SuiteItem],
    where: str,
    *,
    skills: Sequence[str],
    groups: Sequence[str],
    accepts: bool,
    parents: ParentRule,
) -> list[str]:
    """Refuse what no score could be made of; returns notes. UserError names the item.

    `skills`, `groups`: the declared ones, empty where there are none. `accepts`: every probe needs an accept set.
    """
    if not items:
        raise UserError(f"{where} holds no items")
    late = 0
    seen: set[str] = set()
    for item in items:
        place = f"{where}: item {item.id}"
        if item.id in seen:
            raise UserError(f"{place} is there twice")
        seen.add(item.id)
        if not item.prompt.strip():
            raise UserError(f"{place} has no prompt")
        if not item.probes:
            raise UserError(f"{place} has no question")
        if (groups or item.group is not None) and item.group not in groups:
            raise UserError(f"{place}: unknown group {item.group!r}", f"declared: {', '.join(groups) or 'none'}")
        for probe in item.probes:
            if (skills or probe.skill) and probe.skill not in skills:
                raise UserError(f"{place}: unknown skill {probe.skill!r}", f"declared: {', '.join(skills) or 'none'}")
            if accepts and not any(form.strip() for form in probe.accept):
                raise UserError(f"{place}: question {probe.id} accepts no answer")
        late += _check_parents(item, place, parents)
    return [f"{late} questions stand before a parent and are judged by its raw answer"] if late else []


def _check_parents(item: SuiteItem, place: str, rule: ParentRule) -> int:
    """How many probes stand before a parent. UserError for unknown, cyclic and, by `before`, late parents."""
    order = {probe.id: at for at, probe in enumerate(item.probes)}
    if len(order) < len(item.probes):
        raise UserError(f"{place}: two questions have one id")
    late = 0
    for at, probe in enumerate(item.probes):
        for parent in probe.parents:
            if parent not in order:
                raise UserError(f"{place}: question {probe.id} hangs on {parent}, which is not there")
        late += any(order[parent] > at for parent in probe.parents)
    left = {probe.id: set(probe.parents) for probe in item.probes}
    while free := {id for id, parents in left.items() if not parents}:
        left = {id: parents - free for id, parents in left.items() if id not in free}
    if left:
        raise UserError(f"{place}: questions {', '.join(sorted(left))} hang on each other in a circle")
    if late and rule == "before":
        raise UserError(f"{place}: a question stands before the one it hangs on", "put parents first")
    return late


def filled(template: str, item: SuiteItem, probe: Probe) -> str:
    """The template with `{question}`, `{prompt}` and the item's fields put in, once: nothing in them is read again."""
    words = {**item.fields, "prompt": item.prompt, "question": probe.text}
    return re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), template)
