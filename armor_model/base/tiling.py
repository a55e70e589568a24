"""InternVL's dynamic tiling: the grid of tiles that an image is cut into. No torch, so that who only plans can ask."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=65_536)
def tile_grid(width: int, height: int, max_tiles: int, tile: int, min_tiles: int = 1) -> tuple[int, int]:
    """Columns and rows of tiles for an image: the grid whose aspect ratio is nearest; among equals, a larger grid is
    taken only while the image has more than half the grid's pixels."""
    aspect = width / height
    grids = [
        (c, r) for c in range(1, max_tiles + 1) for r in range(1, max_tiles + 1) if min_tiles <= c * r <= max_tiles
    ]
    best, best_distance = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(aspect - columns / rows)
        if distance < best_distance or (
            distance == best_distance and width * height > 0.5 * tile * tile * columns * rows
        ):
            best, best_distance = (columns, rows), distance
    return best


def tile_count(width: int, height: int, max_tiles: int, tile: int, thumbnail: bool = True) -> int:
    """How many tiles an image of this size is cut into, the thumbnail included."""
    columns, rows = tile_grid(width, height, max_tiles, tile)
    return columns * rows + (thumbnail and columns * rows > 1)
