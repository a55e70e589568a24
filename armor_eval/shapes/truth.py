"""What is true of a scene, worked out from the words of a question: the gold side of blocks and of the rule judge."""

from __future__ import annotations

import re
from collections.abc import Callable

from trainer.shapes.questions import SIDES, plural
from trainer.shapes.world import CELL_NAMES, COLOR_NAMES, RELATIONS, SHAPES, Scene, Thing, holds

_COLOR = f"(?P<color>{'|'.join(COLOR_NAMES)})"
_SHAPE = f"(?P<shape>{'|'.join(SHAPES)})"
_OTHER = f"(?P<other>{'|'.join(SHAPES)})"
_CELL = f"(?P<cell>{'|'.join(CELL_NAMES)})"
_RELATION = f"(?P<relation>{'|'.join(RELATIONS)})"
_SINGULAR = {plural(shape): shape for shape in SHAPES}
_MANY = f"(?P<many>{'|'.join(_SINGULAR)})"
_GROUP = rf"(?:{_MANY}|(?:{_COLOR} )?shapes|(?P<empty>empty corners))"

Found = dict[str, str | None]


def _only(scene: Scene, word: str | None) -> Thing | None:
    """The one kind of thing that a word names: its first bearer, if all bearers agree on colour and shape."""
    bearers = [thing for thing in scene.things if word in (thing.color, thing.shape)]
    return bearers[0] if len({(thing.color, thing.shape) for thing in bearers}) == 1 else None


def _number(scene: Scene, found: Found) -> int:
    if found.get("empty"):
        return 4 - len(scene.things)
    shape = _SINGULAR.get(found.get("many") or "")
    return sum(shape in (None, t.shape) and found.get("color") in (None, t.color) for t in scene.things)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _color(scene: Scene, found: Found) -> str | None:
    thing = _only(scene, found["shape"])
    return thing.color if thing else None


def _shape(scene: Scene, found: Found) -> str | None:
    thing = _only(scene, found["color"])
    return thing.shape if thing else None


def _place(scene: Scene, found: Found) -> str | None:
    bearers = [thing for thing in scene.things if thing.shape == found["shape"]]
    return CELL_NAMES[bearers[0].cell] if len(bearers) == 1 else None


def _at(scene: Scene, found: Found) -> str:
    thing = scene.at(CELL_NAMES.index(str(found["cell"])))
    return thing.shape if thing else "nothing"


def _sides(scene: Scene, found: Found) -> str | None:
    shape = _shape(scene, found)
    return SIDES[shape] if shape else None


def _exists(scene: Scene, found: Found) -> str:
    wanted = (found.get("color"), found.get("shape"))
    return _yes(any(wanted[0] in (None, t.color) and wanted[1] in (None, t.shape) for t in scene.things))


def _pair(scene: Scene, found: Found) -> tuple[Thing, Thing] | None:
    bearers = [[t for t in scene.things if t.shape == found[name]] for name in ("shape", "other")]
    return (bearers[0][0], bearers[1][0]) if all(len(b) == 1 for b in bearers) else None


def _relation(scene: Scene, found: Found) -> str | None:
    pair = _pair(scene, found)
    return _yes(holds(pair[0], str(found["relation"]), pair[1])) if pair else None


def _beside(scene: Scene, found: Found) -> str | None:
    bearers = [t for t in scene.things if t.shape == found["other"]]
    if len(bearers) != 1:
        return None
    beside = {t.shape for t in scene.things if holds(t, str(found["relation"]), bearers[0])}
    return beside.pop() if len(beside) == 1 else None


def _more(scene: Scene, found: Found) -> str:
    first, second = (sum(t.shape == _SINGULAR[str(found[k])] for t in scene.things) for k in ("many", "than"))
    return _yes(first > second)


def _same(scene: Scene, found: Found) -> str:
    shape = _SINGULAR.get(found.get("many") or "")
    return _yes(all(shape in (None, t.shape) and found.get("color") in (None, t.color) for t in scene.things))


def _has_sides(scene: Scene, found: Found) -> str | None:
    sides = _sides(scene, found)
    return _yes(sides == found["n"]) if sides else None


_RULES: tuple[tuple[str, Callable[[Scene, Found], str | None]], ...] = (
    (rf"what (?:is the color of|color is) the {_SHAPE}", _color),
    (rf"(?:what|which) shape is {_COLOR}|what is the (?P<color2>{'|'.join(COLOR_NAMES)}) shape", _shape),
    (rf"where is the {_SHAPE}", _place),
    (rf"which shape is at the {_CELL}", _at),
    (rf"which shape is {_RELATION} the {_OTHER}", _beside),
    (rf"how many sides does the {_COLOR} shape have", _sides),
    (rf"does the {_COLOR} shape have (?P<n>\d+) sides", _has_sides),
    (rf"is the number of {_GROUP} (?P<n>\d)", lambda scene, found: _yes(str(_number(scene, found)) == found["n"])),
    (rf"how many shapes are {_COLOR}", lambda scene, found: str(_number(scene, found))),
    (rf"how many {_GROUP} are (?:there|in the picture|empty)", lambda scene, found: str(_number(scene, found))),
    (r"how many corners are empty", lambda scene, found: str(4 - len(scene.things))),
    (rf"is there a (?:{_COLOR} (?:shape|{_SHAPE})|(?P<shape2>{'|'.join(SHAPES)}))", _exists),
    (rf"is the {_SHAPE} {_RELATION} the {_OTHER}", _relation),
    (rf"are there more {_MANY} than (?P<than>{'|'.join(_SINGULAR)})", _more),
    (rf"are all shapes (?:{_MANY}|{_COLOR})", _same),
)
_COMPILED = tuple((re.compile(pattern), rule) for pattern, rule in _RULES)


def answer(scene: Scene, text: str) -> str | None:
    """The answer to a question of the shapes world; None where the scene does not settle it (two circles, no square).

    Raises ValueError for a question that no rule reads.
    """
    for pattern, rule in _COMPILED:
        match = pattern.search(text)
        if match:
            found: Found = match.groupdict()
            for name in ("color", "shape"):
                found[name] = found.get(name) or found.get(f"{name}2")
            return rule(scene, found)
    raise ValueError(f"not a question of the shapes world: {text!r}")


_THING = re.compile(rf"{_COLOR} {_SHAPE}(?: (?:is )?(?:at|in) the {_CELL})?")


def things_said(text: str) -> list[tuple[str, str, str | None]]:
    """(colour, shape, cell name or None) for each coloured shape that a text names, in order."""
    return [(m["color"], m["shape"], m["cell"]) for m in _THING.finditer(text.lower())]


def scene_said(text: str) -> Scene:
    """The scene that a full description tells. Raises ValueError if a thing has no place, or a place two things."""
    things = things_said(text)
    if any(cell is None for _, _, cell in things):
        raise ValueError(f"the description leaves a place open: {text!r}")
    return Scene(tuple(Thing(color, shape, CELL_NAMES.index(str(cell))) for color, shape, cell in things))
