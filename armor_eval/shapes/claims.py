"""What a text of the shapes world claims, held exactly against what an image shows and against what was asked for.

A claim is a thing (`a red circle at the top left`, `two squares` are two), the absence of one (`no cross`), or a
relation of one thing to another. Things are matched one to one: two claims never count on one thing of the image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from armor_model.base.jsons import JsonObject
from trainer.shapes.questions import plural
from trainer.shapes.requests import matches
from trainer.shapes.world import CELL_NAMES, COLOR_NAMES, NUMBERS, OPPOSITE, RELATIONS, SHAPES, Scene, Thing, holds

_FORMS = {form: shape for shape in SHAPES for form in (shape, plural(shape))}
_COUNTS = {"a": 1} | {w: n for n, w in enumerate(NUMBERS)} | {str(n): n for n in range(len(NUMBERS))}
_CELL = rf"(?:,? (?:is |are )?(?:at|in) the (?P<cell>{'|'.join(CELL_NAMES)})(?: corner)?)"
_PHRASE = re.compile(
    rf"\b(?P<absent>(?:no|not|without|zero|0)(?: an?| the| any)? )?(?:(?P<det>the|{'|'.join(_COUNTS)}) )?"
    rf"(?:(?P<color>{'|'.join(COLOR_NAMES)}) )?(?P<shape>{'|'.join(sorted(_FORMS, key=len, reverse=True))})\b"
    rf"(?P<is> (?:is|are) (?:{'|'.join(COLOR_NAMES)})\b)?{_CELL}?"
)
_BETWEEN = re.compile(rf"\s+(?:(?:that |which )?(?:is|are) )?(?P<relation>{'|'.join(RELATIONS)})\s+$")


class Atom(NamedTuple):
    """A thing as far as it is named: None where its colour or place is left open."""

    color: str | None
    shape: str
    cell: int | None


@dataclass
class Told:
    """The claims of one text."""

    things: list[Atom] = field(default_factory=list)
    absent: list[Atom] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    """(first, relation, second), as places in `things`."""

    def __len__(self) -> int:
        return len(self.things) + len(self.absent) + len(self.relations)


@dataclass(frozen=True)
class Agreement:
    """A text against an image, as shares."""

    precision: float
    """Of the claims, those that are true of the image; 0 without claims."""
    recall: float
    """Of the image's things, those that the text tells of; 0 for an empty image."""

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    @property
    def exact(self) -> bool:
        return self.precision == self.recall == 1.0


def claims_of(text: str) -> Told:
    """The claims of a text in the world's words, in order; `the circle` speaks of a circle that was named before."""
    told = Told()
    text = " ".join(text.lower().split())
    before: tuple[int, int] | None = None
    for found in _PHRASE.finditer(text):
        color = found["color"] or (found["is"].split()[-1] if found["is"] else None)
        atom = Atom(color, _FORMS[found["shape"]], CELL_NAMES.index(found["cell"]) if found["cell"] else None)
        if found["absent"] or _COUNTS.get(found["det"] or "") == 0:
            told.absent.append(atom)
            before = None
            continue
        place = _named(told, atom) if found["det"] == "the" else None
        if place is None:
            place = len(told.things)
            told.things += [atom] * _COUNTS.get(found["det"] or "a", 1)
        if before is not None and (between := _BETWEEN.match(text[before[1] : found.start()])):
            told.relations.append((before[0], between["relation"], place))
        before = (place, found.end())
    return told


def _named(told: Told, atom: Atom) -> int | None:
    """Where a thing that fits was named before, filled with what is new about it; None where none was."""
    for place, known in enumerate(told.things):
        if known.shape == atom.shape and all(
            None in pair or pair[0] == pair[1] for pair in ((known.color, atom.color), (known.cell, atom.cell))
        ):
            filled = (atom.color or known.color, atom.shape, known.cell if atom.cell is None else atom.cell)
            told.things[place] = Atom(*filled)
            return place
    return None


Fits = Callable[[Atom, Atom], bool]


def _shown(claim: Atom, thing: Atom) -> bool:
    """A claim against a thing of an image: what the claim leaves open is free."""
    return claim.shape == thing.shape and claim.color in (None, thing.color) and claim.cell in (None, thing.cell)


def _stated(claim: Atom, wanted: Atom) -> bool:
    """A claim against a thing asked for: its colour must be told, its place only if at all truly."""
    return (
        claim.shape == wanted.shape
        and wanted.color in (None, claim.color)
        and (None in (claim.cell, wanted.cell) or claim.cell == wanted.cell)
    )


def _like(one: Atom, other: Atom) -> bool:
    """Two things wherever they are: alike as far as both are named."""
    return one.shape == other.shape and (None in (one.color, other.color) or one.color == other.color)


def pairs_of(claims: Sequence[Atom], things: Sequence[Atom], fits: Fits) -> int:
    """The most claims that can be given a thing each (maximum bipartite matching)."""
    taken: dict[int, int] = {}

    def place(claim: int, tried: set[int]) -> bool:
        for at, thing in enumerate(things):
            if at not in tried and fits(claims[claim], thing):
                tried.add(at)
                if at not in taken or place(taken[at], tried):
                    taken[at] = claim
                    return True
        return False

    return sum(place(claim, set()) for claim in range(len(claims)))


def agreement(told: Told, things: Sequence[Thing]) -> Agreement:
    """The text against the image: each claim true or not, each thing told of or not."""
    atoms = [Atom(*thing) for thing in things]
    matched = pairs_of(told.things, atoms, _shown)
    true = matched + sum(not any(_shown(claim, atom) for atom in atoms) for claim in told.absent)
    for first, relation, second in told.relations:
        firsts = [t for t, a in zip(things, atoms, strict=True) if _shown(told.things[first], a)]
        seconds = [t for t, a in zip(things, atoms, strict=True) if _shown(told.things[second], a)]
        true += any(a is not b and holds(a, relation, b) for a in firsts for b in seconds)
    return Agreement(true / len(told) if len(told) else 0.0, matched / len(things) if things else 0.0)


def atoms_of(target: JsonObject) -> list[Atom]:
    """The things that a target asks for: of a scene with their cells, of a request's content without."""
    if "scene" in target:
        return [Atom(*thing) for thing in Scene.parse(target["scene"]).things]
    return [Atom(color, shape, None) for color, shape, count in target["things"] for _ in range(count)]


def text_right(told: Told, target: JsonObject) -> bool:
    """Whether the text states all that was asked for, nothing else, and nothing that contradicts it."""
    wanted = atoms_of(target)
    if not len(told.things) == len(wanted) == pairs_of(told.things, wanted, _stated):
        return False
    if any(_shown(claim, atom) for claim in told.absent for atom in wanted):
        return False
    return _relations_right(told, target)


def _relations_right(told: Told, target: JsonObject) -> bool:
    if "scene" in target:
        return agreement(told, Scene.parse(target["scene"]).things).exact
    if (relation := target.get("relation")) is None:
        return True
    (color, shape, _), (other_color, other_shape, _) = target["things"]
    first, second = Atom(color, shape, None), Atom(other_color, other_shape, None)
    if told.relations:
        ways = ((first, relation, second), (second, OPPOSITE[relation], first))
        return all(
            any(
                _stated(told.things[a], one) and r == way and _stated(told.things[b], other) for one, way, other in ways
            )
            for a, r, b in told.relations
        )
    placed = [(a, Thing("", a.shape, a.cell)) for a in told.things if a.cell is not None]
    return any(
        holds(one, relation, other)
        for a, one in placed
        if _stated(a, first)
        for b, other in placed
        if _stated(b, second) and a is not b
    )


def image_right(things: Sequence[Thing], target: JsonObject) -> bool:
    """Whether the image shows exactly what was asked for: nothing missing, nothing more, in its place or relation."""
    if not things or len({thing.cell for thing in things}) != len(things):
        return False
    scene = Scene(tuple(things))
    if "scene" in target:
        return scene == Scene.parse(target["scene"])
    return matches(scene, tuple(tuple(t) for t in target["things"]), target.get("relation"))


def nothing_beyond(told: Told, things: Sequence[Thing], target: JsonObject) -> bool:
    """Whether neither image nor text holds a thing that was not asked for; false where one of them holds nothing."""
    wanted, shown = atoms_of(target), [Atom(*thing) for thing in things]
    return all(0 < len(named) == pairs_of(named, wanted, _like) for named in (shown, told.things))
