"""The images of the shapes world v1: what a scene is, how it is drawn, and which combinations training never shows.

Shape legend: N scenes, 32x32 pixels, 3 RGB channels.  Cells are numbered row-major in a 2x2 grid: 0 1 / 2 3.

    python -m trainer.shapes.world scene.png "red circle@0; blue square@3"
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

WORLD_VERSION = 1
SIZE = 32
GRID = 2
CELLS = GRID * GRID

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (30, 160, 70),
    "blue": (40, 80, 220),
    "yellow": (240, 200, 30),
    "purple": (150, 50, 180),
}
"""Name -> RGB, 0..255; the two nearest, blue and purple, are 121 apart."""
COLOR_NAMES: tuple[str, ...] = tuple(COLORS)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
OPPOSITE: dict[str, str] = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CELL_NAMES: tuple[str, ...] = ("top left", "top right", "bottom left", "bottom right")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")

_SUPERSAMPLE = 8
_BACKGROUND = 255
T = TypeVar("T")


class Thing(NamedTuple):
    """One coloured shape in one cell."""

    color: str
    shape: str
    cell: int
    """0..3, row-major."""

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID


@dataclass(frozen=True, slots=True)
class Scene:
    """1 to 4 things in distinct cells; kept in cell order, so equal images are equal scenes."""

    things: tuple[Thing, ...]

    def __post_init__(self) -> None:
        cells = [thing.cell for thing in self.things]
        if not 1 <= len(cells) <= CELLS or len(set(cells)) != len(cells) or not set(cells) <= set(range(CELLS)):
            raise ValueError(f"a scene holds 1 to {CELLS} things in distinct cells 0..{CELLS - 1}, got cells {cells}")
        for thing in self.things:
            if thing.color not in COLORS or thing.shape not in SHAPES:
                raise ValueError(f"unknown thing {thing.color} {thing.shape}; colours {COLOR_NAMES}, shapes {SHAPES}")
        object.__setattr__(self, "things", tuple(sorted(self.things, key=lambda thing: thing.cell)))

    def __str__(self) -> str:
        return "; ".join(f"{thing.color} {thing.shape}@{thing.cell}" for thing in self.things)

    @classmethod
    def parse(cls, text: str) -> Scene:
        """Inverse of `str`: `red circle@0; blue square@3`."""
        things = []
        for part in text.split(";"):
            words, _, cell = part.strip().partition("@")
            color, _, shape = words.partition(" ")
            if not cell.strip().isdigit():
                raise ValueError(f"expected `COLOR SHAPE@CELL; ...`, got {text!r}")
            things.append(Thing(color, shape.strip(), int(cell)))
        return cls(tuple(things))

    def at(self, cell: int) -> Thing | None:
        """The thing in a cell, if any."""
        return next((thing for thing in self.things if thing.cell == cell), None)


def holds(a: Thing, relation: str, b: Thing) -> bool:
    """Whether `a RELATION b`; on a diagonal two relations hold, as in GenEval's rule (offset 16 px, sizes 12 px)."""
    match relation:
        case "left of":
            return a.column < b.column
        case "right of":
            return a.column > b.column
        case "above":
            return a.row < b.row
        case "below":
            return a.row > b.row
    raise ValueError(f"unknown relation {relation!r}; known: {', '.join(RELATIONS)}")


def relations(a: Thing, b: Thing) -> tuple[str, ...]:
    """Every relation that a has to b: one in a row or column, two on a diagonal."""
    return tuple(relation for relation in RELATIONS if holds(a, relation, b))


# --- drawing ---------------------------------------------------------------------------------------------------------


def _inside(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether points of the unit cell lie in a shape; 1/16 is one pixel of a 16-px cell, y grows downwards.

    Every shape spans 12 of 16 px; the square fills its corners, the cross is a plus with 4-px bars.
    """
    u, v = x - 0.5, y - 0.5
    half = 6 / 16
    match shape:
        case "circle":
            return u * u + v * v <= half * half
        case "square":
            return (np.abs(u) <= half) & (np.abs(v) <= half)
        case "triangle":
            return (np.abs(v) <= half) & (2 * np.abs(u) <= v + half)
        case "cross":
            bar = 2 / 16
            return ((np.abs(u) <= bar) & (np.abs(v) <= half)) | ((np.abs(v) <= bar) & (np.abs(u) <= half))
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


@lru_cache(maxsize=64)
def shape_coverage(shape: str, cell_size: int = SIZE // GRID) -> np.ndarray:
    """How much of each pixel a shape covers, float64 in 0..1, [cell_size, cell_size], by 8x8 supersampling."""
    points = (np.arange(cell_size * _SUPERSAMPLE) + 0.5) / (cell_size * _SUPERSAMPLE)
    inside = _inside(shape, points[None, :], points[:, None])
    blocks = inside.reshape(cell_size, _SUPERSAMPLE, cell_size, _SUPERSAMPLE)
    coverage = blocks.mean(axis=(1, 3))
    coverage.setflags(write=False)
    return coverage


@lru_cache(maxsize=8)
def cell_tiles(cell_size: int = SIZE // GRID) -> np.ndarray:
    """The 5x4 coloured shapes and, last, the empty cell: uint8 [21, cell_size, cell_size, 3]."""
    tiles = np.full((len(COLORS) * len(SHAPES) + 1, cell_size, cell_size, 3), _BACKGROUND, dtype=np.uint8)
    for c, rgb in enumerate(COLORS.values()):
        for s, shape in enumerate(SHAPES):
            cover = shape_coverage(shape, cell_size)[..., None]
            blend = _BACKGROUND + cover * (np.array(rgb, dtype=np.float64) - _BACKGROUND)
            tiles[c * len(SHAPES) + s] = np.floor(blend + 0.5).astype(np.uint8)
    tiles.setflags(write=False)
    return tiles


EMPTY_TILE = len(COLORS) * len(SHAPES)
"""Index of the empty cell in `cell_tiles` and in `tile_indices`."""
_TILE_INDEX = {(c, s): i * len(SHAPES) + j for i, c in enumerate(COLOR_NAMES) for j, s in enumerate(SHAPES)}


def tile_indices(scenes: Sequence[Scene]) -> np.ndarray:
    """Which tile stands in each cell: int64 [N, 4], colour index * 4 + shape index, 20 = empty."""
    indices = np.full((len(scenes), CELLS), EMPTY_TILE, dtype=np.int64)
    for n, scene in enumerate(scenes):
        for color, shape, cell in scene.things:
            indices[n, cell] = _TILE_INDEX[color, shape]
    return indices


def render_batch(scenes: Sequence[Scene], size: int = SIZE) -> np.ndarray:
    """Images of many scenes, uint8 [N, size, size, 3]; `size` is even."""
    if size < GRID or size % GRID:
        raise ValueError(f"size must be a positive multiple of {GRID}, got {size}")
    cell = size // GRID
    tiles = cell_tiles(cell)[tile_indices(scenes)].reshape(len(scenes), GRID, GRID, cell, cell, 3)
    return np.ascontiguousarray(tiles.transpose(0, 1, 3, 2, 4, 5)).reshape(len(scenes), size, size, 3)


def render(scene: Scene, size: int = SIZE) -> Image.Image:
    """One scene as an RGB image: white background, anti-aliased, the same bytes every time."""
    return Image.fromarray(render_batch([scene], size)[0])


def thing_mask(thing: Thing, size: int = SIZE) -> np.ndarray:
    """Pixels of which a thing covers more than half: bool [size, size] (the detector's ground truth)."""
    cell = size // GRID
    mask = np.zeros((size, size), dtype=bool)
    mask[thing.row * cell : (thing.row + 1) * cell, thing.column * cell : (thing.column + 1) * cell] = (
        shape_coverage(thing.shape, cell) > 0.5
    )
    return mask


# --- held-out combinations -------------------------------------------------------------------------------------------


def color_key(color: str, shape: str) -> str:
    return f"color: {color} {shape}"


def single_key(shape: str) -> str:
    return f"single: {shape}"


def pair_key(a: str, b: str) -> str:
    first, second = sorted((a, b), key=SHAPES.index)
    return f"pair: {first}+{second}"


def count_key(count: int, shape: str) -> str:
    return f"count: {count} {shape}"


def position_key(a: str, relation: str, b: str) -> str:
    """Canonical: `square right of circle` is `circle left of square`, `a below b` is `b above a`."""
    if relation in ("right of", "below"):
        a, relation, b = b, OPPOSITE[relation], a
    return f"position: {a} {relation} {b}"


def attr_key(a: tuple[str, str], b: tuple[str, str]) -> str:
    """Two (colour, shape) things, in the order of SHAPES."""
    first, second = sorted((a, b), key=lambda thing: (SHAPES.index(thing[1]), COLOR_NAMES.index(thing[0])))
    return f"attr: {first[0]} {first[1]}+{second[0]} {second[1]}"


def scene_keys(scene: Scene) -> set[str]:
    """The combinations that are an image's whole content.

    One thing: its colour and shape. All of one shape: how many. Two things of two shapes: colours with shapes, and each
    relation. `single:` and `pair:` name requests without colours; the same images are shown under coloured requests.
    """
    things = scene.things
    if len(things) == 1:
        return {color_key(things[0].color, things[0].shape)}
    keys = set()
    if len({thing.shape for thing in things}) == 1:
        keys.add(count_key(len(things), things[0].shape))
    elif len(things) == 2:
        a, b = things
        keys.add(attr_key((a.color, a.shape), (b.color, b.shape)))
        keys.update(position_key(a.shape, relation, b.shape) for relation in relations(a, b))
    return keys


def _read_held_out() -> dict[str, list[str]]:
    record = json.loads((Path(__file__).with_name("heldout_v1.json")).read_text(encoding="utf-8"))
    return record["families"]


HELD_OUT_FAMILIES: dict[str, list[str]] = _read_held_out()
HELD_OUT: frozenset[str] = frozenset(key for keys in HELD_OUT_FAMILIES.values() for key in keys)


def held_out_sha256() -> str:
    """Over the sorted keys, one a line: what a checkpoint and its judge must agree on."""
    return hashlib.sha256("\n".join(sorted(HELD_OUT)).encode()).hexdigest()


def is_held_out(scene: Scene) -> bool:
    """Whether training must never show this image."""
    return not HELD_OUT.isdisjoint(scene_keys(scene))


def all_keys() -> dict[str, list[str]]:
    """Every combination by family: 20 colours, 4 singles, 6 pairs, 12 counts, 24 positions, 120 colour attributions."""
    pairs = [(a, b) for i, a in enumerate(SHAPES) for b in SHAPES[i + 1 :]]
    colors = [(c, d) for c in COLOR_NAMES for d in COLOR_NAMES if c != d]
    return {
        "color": [color_key(c, s) for c in COLOR_NAMES for s in SHAPES],
        "single": [single_key(s) for s in SHAPES],
        "pair": [pair_key(a, b) for a, b in pairs],
        "count": [count_key(n, s) for n in (2, 3, 4) for s in SHAPES],
        "position": [position_key(a, r, b) for a in SHAPES for b in SHAPES if a != b for r in ("left of", "above")],
        "attr": [attr_key((c, a), (d, b)) for a, b in pairs for c, d in colors],
    }


# --- sampling --------------------------------------------------------------------------------------------------------


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of the options, uniformly; `Generator.choice` is ten times slower and turns strings into numpy's."""
    return options[int(rng.integers(len(options)))]


def arrange(rng: np.random.Generator, contents: Iterable[tuple[str, str]]) -> Scene:
    """Put (colour, shape) contents into random distinct cells."""
    contents = list(contents)
    cells = rng.permutation(CELLS)
    return Scene(tuple(Thing(c, s, int(cell)) for (c, s), cell in zip(contents, cells, strict=False)))


def sample_scene(rng: np.random.Generator, count: int | None = None, training: bool = True) -> Scene:
    """A random scene of `count` things (default 1..4, evenly); with `training`, never a held-out one.

    One scene in four is of one shape, and one in eight of one colour: counting needs more of them than chance gives.
    """
    while True:
        n = int(rng.integers(1, CELLS + 1)) if count is None else count
        colors = [pick(rng, COLOR_NAMES) for _ in range(n)]
        shapes = [pick(rng, SHAPES) for _ in range(n)]
        style = rng.random()
        if style < 0.25:
            shapes = shapes[:1] * n
        elif style < 0.375:
            colors = colors[:1] * n
        scene = arrange(rng, zip(colors, shapes, strict=True))
        if not (training and is_held_out(scene)):
            return scene


if __name__ == "__main__":
    render(Scene.parse(sys.argv[2]), 256).save(sys.argv[1])
