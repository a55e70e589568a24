"""The images of `geneval selftest`, drawn from integers alone: the same pixels on every machine, library and year.

Shape legend: H x W pixels. Polygons and discs are tested at two by two points a pixel in integers, then averaged: no
float, no font and no image library, whose next release could draw an edge otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

SIDE = 256
"""Pixels of a drawing; coordinates below are in pixels."""
FINE = 2
"""Points a pixel and axis."""
Color = tuple[int, int, int]
Point = tuple[int, int]

WHITE, SKY, GRASS, GREY, BLACK = (250, 250, 250), (170, 205, 235), (96, 150, 70), (125, 128, 132), (24, 24, 26)
RED, GREEN, BLUE = (196, 30, 36), (36, 150, 60), (34, 78, 168)
YELLOW, ORANGE, BROWN = (242, 200, 40), (236, 132, 30), (116, 74, 42)


class Canvas:
    """A drawing of SIDE x SIDE pixels at FINE x FINE points each."""

    def __init__(self, ground: Color) -> None:
        points = np.arange(SIDE * FINE, dtype=np.int32) * 2 + 1  # centres, in units of 1 / (2 FINE) pixel
        self.x, self.y = points[None, :], points[:, None]
        self.fine = np.empty((SIDE * FINE, SIDE * FINE, 3), np.uint8)
        self.fine[:] = ground

    def disc(self, center: Point, radius: int, color: Color) -> Canvas:
        unit = 2 * FINE
        inside = (self.x - center[0] * unit) ** 2 + (self.y - center[1] * unit) ** 2 <= (radius * unit) ** 2
        return self._fill(inside, color)

    def polygon(self, corners: Sequence[Point], color: Color) -> Canvas:
        """Even-odd rule."""
        unit = 2 * FINE
        inside = np.zeros(self.fine.shape[:2], bool)
        for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if y1 == y2:
                continue
            (x1, y1), (x2, y2) = ((x1, y1), (x2, y2)) if y1 < y2 else ((x2, y2), (x1, y1))
            rows = (self.y >= y1 * unit) & (self.y < y2 * unit)
            left = (self.x - x1 * unit) * (y2 - y1) < (self.y - y1 * unit) * (x2 - x1)
            inside ^= rows & left
        return self._fill(inside, color)

    def box(self, x1: int, y1: int, x2: int, y2: int, color: Color) -> Canvas:
        return self.polygon([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], color)

    def _fill(self, inside: np.ndarray, color: Color) -> Canvas:
        self.fine[inside] = color
        return self

    def image(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        sums = self.fine.reshape(SIDE, FINE, SIDE, FINE, 3).astype(np.int64).sum(axis=(1, 3))
        return ((2 * sums + FINE * FINE) // (2 * FINE * FINE)).astype(np.uint8)


def stop_sign() -> np.ndarray:
    def octagon(a: int, b: int) -> list[Point]:
        return [(-b, -a), (b, -a), (a, -b), (a, b), (b, a), (-b, a), (-a, b), (-a, -b)]

    drawn = Canvas(SKY).box(0, 200, 256, 256, GRASS).box(123, 120, 133, 240, GREY)
    for color, a, b in ((WHITE, 78, 32), (RED, 72, 30)):
        drawn.polygon([(128 + x, 96 + y) for x, y in octagon(a, b)], color)
    for x in (76, 104, 132, 160):  # four white letters, as bars
        drawn.box(x, 84, x + 20, 90, WHITE).box(x + 7, 84, x + 13, 112, WHITE)
    return drawn.image()


def traffic_light() -> np.ndarray:
    drawn = Canvas(SKY).box(122, 190, 134, 256, GREY).box(88, 20, 168, 200, BLACK)
    for y, color in ((52, RED), (110, (70, 62, 30)), (168, (26, 60, 34))):
        drawn.disc((128, y), 24, color)
    return drawn.image()


def clock() -> np.ndarray:
    drawn = Canvas((214, 190, 160)).disc((128, 128), 96, BLACK).disc((128, 128), 88, WHITE)
    for x, y in (
        (128, 50),
        (206, 128),
        (128, 206),
        (50, 128),
        (167, 60),
        (196, 89),
        (196, 167),
        (167, 196),
        (89, 196),
        (60, 167),
        (60, 89),
        (89, 60),
    ):
        drawn.disc((x, y), 5, BLACK)
    drawn.polygon([(124, 132), (132, 132), (131, 66), (125, 66)], BLACK)
    return drawn.polygon([(124, 124), (124, 132), (180, 150), (182, 144)], BLACK).disc((128, 128), 7, RED).image()


def bus() -> np.ndarray:
    drawn = Canvas(SKY).box(0, 186, 256, 256, GREY).box(18, 76, 238, 196, YELLOW).box(18, 150, 238, 160, BLACK)
    for x in (30, 72, 114, 156):
        drawn.box(x, 92, x + 34, 134, (60, 84, 110))
    drawn.box(198, 92, 232, 190, (60, 84, 110))
    for x in (70, 186):
        drawn.disc((x, 196), 24, BLACK).disc((x, 196), 11, GREY)
    return drawn.image()


def person() -> np.ndarray:
    skin = (222, 176, 140)
    drawn = Canvas((226, 226, 220)).box(0, 220, 256, 256, GRASS)
    drawn.box(104, 150, 124, 236, BLUE).box(132, 150, 152, 236, BLUE)
    drawn.polygon([(100, 84), (156, 84), (160, 158), (96, 158)], RED)
    drawn.polygon([(100, 86), (84, 96), (74, 150), (86, 154), (100, 116)], skin)
    drawn.polygon([(156, 86), (172, 96), (182, 150), (170, 154), (156, 116)], skin)
    return drawn.disc((128, 56), 27, BROWN).disc((128, 60), 24, skin).image()


def fruit() -> np.ndarray:
    """Two apples, an orange and a banana on a plate."""
    drawn = Canvas(BROWN).disc((128, 134), 112, WHITE)
    drawn.disc((88, 112), 34, RED).box(86, 68, 91, 84, BROWN).disc((166, 100), 34, RED).box(164, 56, 169, 72, BROWN)
    drawn.disc((190, 168), 30, ORANGE)
    return drawn.polygon(
        [(44, 152), (62, 186), (98, 206), (140, 206), (148, 196), (110, 184), (80, 160), (58, 144)], YELLOW
    ).image()


def umbrella() -> np.ndarray:
    drawn = Canvas(SKY).disc((128, 128), 96, GREEN).box(0, 128, 256, 256, SKY)
    for x in (64, 128, 192):
        drawn.disc((x, 130), 32, SKY)
    return drawn.box(125, 98, 131, 220, BLACK).disc((116, 220), 15, BLACK).disc((116, 218), 9, SKY).image()


def noise() -> np.ndarray:
    """A linear congruential generator's bytes, in blocks of four pixels."""
    state, values = 2024, []
    for _ in range(64 * 64 * 3):
        state = (1103515245 * state + 12345) % 2**31
        values.append(state >> 23)
    return np.kron(np.array(values, np.uint8).reshape(64, 64, 3), np.ones((4, 4, 1), np.uint8))


def blank() -> np.ndarray:
    return Canvas(WHITE).image()


DRAWINGS: dict[str, Callable[[], np.ndarray]] = {
    "stop sign": stop_sign,
    "traffic light": traffic_light,
    "clock": clock,
    "bus": bus,
    "person": person,
    "fruit": fruit,
    "umbrella": umbrella,
    "noise": noise,
    "blank": blank,
}
"""Things of COCO's list, for GenEval's published detector."""


def images() -> dict[str, np.ndarray]:
    """Name -> RGB uint8 [H, W, 3]."""
    return {name: draw() for name, draw in DRAWINGS.items()}
