"""Training images for the embedded detector: real renders of the shapes world, and the ways a drawing goes wrong.

Shape legend: H=W 32 pixels, 16x16 cells of four 8x8 quadrants (armor-nano's image codes), N objects.

Only renders are used, never a model's own drawings: the judge must not learn its student's habits. A thing of which a
quarter or more is missing, and one put together from two shapes, is no object; a thing that lost less is not shown,
since nobody could say what it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.shapes.world import (
    CELLS,
    COLOR_NAMES,
    SHAPES,
    SIZE,
    cell_tiles,
    sample_scene,
    shape_coverage,
    tile_indices,
)

CELL = SIZE // 2
QUADRANT = CELL // 2
LOST = 0.24
"""Share of a thing's pixels that must be gone for it to be no object; a circle's quadrant is .25."""
INTACT = 0.03


@dataclass(frozen=True)
class Example:
    """One image and the objects a detector should report."""

    image: np.ndarray
    """uint8 RGB [H, W, 3]."""
    labels: np.ndarray
    """Indices into SHAPES, int [N]."""
    masks: np.ndarray
    """bool [N, H, W], where a thing covers more than half of the pixel."""
    kind: str
    """`render`, `half-drawn`, `cut`, `blank` or `noise`."""

    @property
    def boxes(self) -> np.ndarray:
        """x1, y1, x2, y2 in pixels, from the masks."""
        boxes = np.zeros((len(self.masks), 4), np.float32)
        for i, mask in enumerate(self.masks):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes[i] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes


def sample_example(rng: np.random.Generator, training: bool = True, kind: str | None = None) -> Example:
    """One example; `kind` None draws it as training does (60 % renders, 30 % spoilt, 10 % empty). Never augmented."""
    kind = kind or str(rng.choice(["render", "half-drawn", "cut", "blank", "noise"], p=[0.6, 0.2, 0.1, 0.05, 0.05]))
    if kind == "blank":
        tone = np.full(3, 255) if rng.random() < 0.5 else rng.integers(0, 256, 3)
        return _empty(np.broadcast_to(tone, (SIZE, SIZE, 3)), kind)
    if kind == "noise":
        side = int(rng.choice([4, 8, 16, SIZE]))
        coarse = rng.integers(0, 256, (side, side, 3))
        return _empty(np.kron(coarse, np.ones((SIZE // side, SIZE // side, 1), int)), kind)
    if kind == "cut":
        while (example := _cut(rng, training)) is None:
            pass
        return example
    return _from_cells(rng, training, spoil=kind == "half-drawn")


def _empty(image: np.ndarray, kind: str) -> Example:
    return Example(image.astype(np.uint8), np.zeros(0, int), np.zeros((0, SIZE, SIZE), bool), kind)


def _from_cells(rng: np.random.Generator, training: bool, spoil: bool) -> Example:
    """A scene; with `spoil`, at least one of its things drawn in part, or from two shapes."""
    indices = tile_indices([sample_scene(rng, training=training)])[0]
    tiles = cell_tiles()[indices].copy()
    filled = np.flatnonzero(indices < len(COLOR_NAMES) * len(SHAPES))
    spoilt = set()
    if spoil:
        spoilt = {int(cell) for cell in filled if rng.random() < 0.5} or {int(rng.choice(filled))}
    for cell in spoilt:
        tiles[cell] = _spoil(rng, int(indices[cell]))
    masks, labels = [], []
    for cell in map(int, filled):
        if cell in spoilt:
            continue
        mask = np.zeros((SIZE, SIZE), bool)
        mask[_place(int(cell))] = shape_coverage(SHAPES[indices[cell] % len(SHAPES)]) > 0.5
        masks.append(mask)
        labels.append(indices[cell] % len(SHAPES))
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    for cell in range(CELLS):
        image[_place(cell)] = tiles[cell]
    return Example(
        image, np.array(labels, int), np.array(masks).reshape(-1, SIZE, SIZE), "half-drawn" if spoil else "render"
    )


def _place(cell: int) -> tuple[slice, slice]:
    row, column = divmod(cell, 2)
    return slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)


def _quadrant(i: int) -> tuple[slice, slice]:
    row, column = divmod(i, 2)
    return slice(row * QUADRANT, (row + 1) * QUADRANT), slice(column * QUADRANT, (column + 1) * QUADRANT)


def _spoil(rng: np.random.Generator, index: int) -> np.ndarray:
    """A cell's tile with one to three quadrants missing, or two from another shape of its colour."""
    tile = cell_tiles()[index].copy()
    color, shape = divmod(index, len(SHAPES))
    if rng.random() < 0.3:
        # half a circle and half a square are a few pixels from either: not shown
        near = {SHAPES.index("circle"), SHAPES.index("square")}
        others = [s for s in range(len(SHAPES)) if s != shape and {s, shape} != near]
        other = cell_tiles()[color * len(SHAPES) + int(rng.choice(others))]
        for quadrant in ((0, 1), (2, 3), (0, 2), (1, 3))[rng.integers(4)]:
            tile[_quadrant(quadrant)] = other[_quadrant(quadrant)]
        return tile
    cover = shape_coverage(SHAPES[shape]) > 0.5
    while True:
        gone = rng.permutation(4)[: rng.integers(1, 4)]
        lost = sum(cover[_quadrant(int(q))].sum() for q in gone) / cover.sum()
        if lost >= LOST:
            break
    for quadrant in gone:
        tile[_quadrant(int(quadrant))] = 255
    return tile


def _cut(rng: np.random.Generator, training: bool) -> Example | None:
    """A scene that ends at a line, as if drawing had stopped: behind it white, a tone or noise. None if unclear."""
    whole = _from_cells(rng, training, spoil=False)
    at = int(rng.integers(2, SIZE - 2))
    hidden = np.zeros((SIZE, SIZE), bool)
    hidden[at:] = True
    hidden = hidden.T if rng.random() < 0.3 else hidden
    hidden = hidden[::-1, ::-1] if rng.random() < 0.3 else hidden
    lost = np.array([(mask & hidden).sum() / mask.sum() for mask in whole.masks])
    if ((lost > INTACT) & (lost < LOST)).any():
        return None
    kept = lost <= INTACT
    behind = (np.full(3, 255), rng.integers(0, 256, 3), rng.integers(0, 256, (SIZE, SIZE, 3)))
    fill = behind[rng.choice(3, p=[0.7, 0.2, 0.1])]
    image = np.where(hidden[..., None], fill, whole.image).astype(np.uint8)
    return Example(image, whole.labels[kept], whole.masks[kept], "cut")


def augment(rng: np.random.Generator, example: Example) -> Example:
    """Mild blur, noise, colour shift, coarse levels, a shift of up to 2 px: what a small decoder does to a render."""
    import cv2

    image: np.ndarray = example.image.astype(np.float32)
    masks = example.masks
    if rng.random() < 0.3:
        shift = tuple(int(step) for step in rng.integers(-2, 3, 2))  # things end 2 px from the edge: none is cut
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
        image = padded[2 - shift[0] : 2 - shift[0] + SIZE, 2 - shift[1] : 2 - shift[1] + SIZE]
        masks = np.roll(masks, shift, axis=(1, 2))
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.25, 0.9)))
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(1, 10), image.shape)
    if rng.random() < 0.5:
        image = image * rng.uniform(0.92, 1.05, 3) + rng.uniform(-10, 10, 3)
    if rng.random() < 0.2:
        step = float(rng.integers(4, 24))
        image = np.round(image / step) * step
    image = np.clip(image, 0, 255).astype(np.uint8)
    return Example(image, example.labels, masks, example.kind)
