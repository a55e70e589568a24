"""Changes of scenes: one thing recoloured, reshaped, removed, added, moved, two swapped; the next image of a story.

Each gives the new content and the words that fill its wording; which wordings there are is the requests' affair.
"""

from __future__ import annotations

import numpy as np

from trainer.shapes.world import CELL_NAMES, CELLS, COLOR_NAMES, SHAPES, Scene, Thing, pick

Content = tuple[tuple[str | None, str, int], ...]
"""(colour or None, shape, count) of each thing."""


def change(rng: np.random.Generator, kind: str, source: Scene) -> tuple[Scene, dict[str, str]] | None:
    """(the scene asked for, what fills the wording); None where this source allows no such change in plain words."""
    free = [cell for cell in range(CELLS) if source.at(cell) is None]
    if kind == "add":
        if not free:
            return None
        new = Thing(pick(rng, COLOR_NAMES), pick(rng, SHAPES), pick(rng, free))
        words = {"color": new.color, "shape": new.shape, "cell": CELL_NAMES[new.cell]}
        return Scene((*source.things, new)), words
    old = pick(rng, source.things)
    rest = tuple(thing for thing in source.things if thing is not old)
    if any((thing.color, thing.shape) == (old.color, old.shape) for thing in rest):
        return None
    alike = any(thing.shape == old.shape for thing in rest)
    words = {"it": f"{old.color} {old.shape}" if alike else old.shape, "old": CELL_NAMES[old.cell]}
    if kind == "remove":
        return (Scene(rest), words) if rest else None
    if kind == "recolor":
        new = old._replace(color=pick(rng, [c for c in COLOR_NAMES if c != old.color]))
    elif kind == "reshape":
        new = old._replace(shape=pick(rng, [s for s in SHAPES if s != old.shape]))
    else:
        if not free:
            return None
        new = old._replace(cell=pick(rng, free))
    return Scene((*rest, new)), {**words, "color": new.color, "shape": new.shape, "cell": CELL_NAMES[new.cell]}


def swap(rng: np.random.Generator, source: Scene) -> tuple[Scene, dict[str, str]] | None:
    """Two things of shapes that the scene holds once change places."""
    shapes = [thing.shape for thing in source.things]
    single = [thing for thing in source.things if shapes.count(thing.shape) == 1]
    if len(single) < 2:
        return None
    a, b = (single[int(i)] for i in rng.permutation(len(single))[:2])
    rest = [thing for thing in source.things if thing not in (a, b)]
    return Scene((*rest, a._replace(cell=b.cell), b._replace(cell=a.cell))), {"it": a.shape, "other": b.shape}


def colored(rng: np.random.Generator, count: int) -> Content:
    """Coloured things of different shapes."""
    return tuple((pick(rng, COLOR_NAMES), SHAPES[int(i)], 1) for i in rng.permutation(len(SHAPES))[:count])


def next_content(rng: np.random.Generator, things: Content, before: str) -> tuple[Content, str]:
    """The next image of a story: one thing more, one less, or one in another colour."""
    at = int(rng.integers(len(things)))
    color, shape, _ = things[at]
    absent = [s for s in SHAPES if s not in {s for _, s, _ in things}]
    kind = pick(rng, ["recolor", *(["remove"] if len(things) > 1 else []), *(["add"] if absent else [])])
    if kind == "remove":
        return (*things[:at], *things[at + 1 :]), f"picture {before} without the {shape}"
    if kind == "add":
        new = (pick(rng, COLOR_NAMES), pick(rng, absent), 1)
        return (*things, new), f"picture {before} with a {new[0]} {new[1]} too"
    new = (pick(rng, [c for c in COLOR_NAMES if c != color]), shape, 1)
    return (*things[:at], new, *things[at + 1 :]), f"picture {before} with the {shape} in {new[0]}"
