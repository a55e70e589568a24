"""Images of a suite: what each file is called, and those that another program drew (one a file, or in grids)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.base.images import read_image
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import SuiteItem
from armor_model.base.errors import UserError
from armor_model.base.images import BadImageError

if TYPE_CHECKING:
    from PIL import Image


SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""PNG first: where two files have one name it is read."""
LONGEST_NAME = 200
"""Characters of a file's name without its ending, which file systems limit to 255 bytes."""


def file_name(rule: str, item: SuiteItem, index: int, sample: int) -> str:
    """The name without its ending. UserError where it could be no file's."""
    values = {"id": item.id, "prompt": item.prompt, "index": index, "sample": sample, "sample1": sample + 1}
    try:
        name = rule.format(**{**values, "id": int(item.id) if "{id:" in rule else item.id})
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"item {item.id} has no file name by the rule {rule!r}: {error}") from None
    name = name.replace("/", "_").replace("\\", "_").replace("\0", "_").strip() or "_"
    return name[:LONGEST_NAME].lstrip(".") or "_"


def file_names(suite: Suite, items: Sequence[SuiteItem], samples: int) -> dict[tuple[int, int], str]:
    """(index, sample) -> name without its ending, each once. UserError where two images would have one name."""
    rule = suite.images if samples == 1 or "{sample" in suite.images else f"{suite.images}_{{sample1}}"
    names = {(i, k): file_name(rule, item, i, k) for i, item in enumerate(items) for k in range(samples)}
    if len(set(names.values())) < len(names):
        raise UserError(f"{suite.name}: two images would be called alike by the rule {rule!r}")
    return names


@dataclass(frozen=True)
class DrawnImages:
    """A folder of images that exist, matched with a suite's items by their names."""

    root: Path
    files: Mapping[tuple[int, int], Path]
    """(index, sample) -> file; of a grid the same for all its samples. A pair without one is missing."""
    grid: tuple[int, int] | None
    """(columns, rows) where the files are grids."""
    side: int | None
    """Side of one sample in a grid, in pixels."""
    black_is_missing: bool = False
    notes: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # samples of one grid are read one after the other: it is decoded once
        object.__setattr__(self, "_decoded", lru_cache(maxsize=4)(lambda path: read_image(path, self.root)))

    def read(self, index: int, sample: int) -> tuple[Image.Image, str | None]:
        """RGB, and what had to be done to read it. BadImageError where it is missing, no image, or a grid of another
        size than was said: cut wrongly it would be scored as rubbish."""
        path = self.files.get((index, sample))
        if path is None:
            raise BadImageError("the image is missing")
        image, note = self._decoded(path)  # type: ignore[attr-defined]
        if self.grid is None:
            return image, note
        (columns, rows), side = self.grid, self.side
        if side is None or image.size != (columns * side, rows * side):
            wanted = f"{columns * (side or 0)}x{rows * (side or 0)}"
            raise BadImageError(
                f"the grid is {image.width}x{image.height}, expected {wanted} ({columns}x{rows} of {side})"
            )
        left, top = sample % columns * side, sample // columns * side
        cell = image.crop((left, top, left + side, top + side))
        if self.black_is_missing and not any(high for _, high in cell.getextrema()):
            raise BadImageError("its cell of the grid is black: no image was drawn")
        return cell, note


def scan_images(
    root: Path, suite: Suite, items: Sequence[SuiteItem], chosen: Sequence[int], samples: int, side: int | None
) -> DrawnImages:
    """Match a folder's files with the chosen items. UserError where there is no folder, or nothing of the suite in it.

    `side`: of one sample in a grid (`--resolution`); needed where the files are grids.
    """
    if not root.is_dir():
        raise UserError(f"--images {root} is not a folder")
    there: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() == suffix:  # of a file in a folder as of one that is called FOLDER_FILE
                there.setdefault("_".join(path.relative_to(root).with_suffix("").parts), path)
    singles = file_names(suite, items, samples)
    wanted = {(i, k): singles[i, k] for i in chosen for k in range(samples)}
    files = {pair: there[name] for pair, name in wanted.items() if name in there}
    grid = None
    if not files and suite.grid is not None and suite.grid_file is not None:
        grids = {i: file_name(suite.grid_file, items[i], i, 0) for i in chosen}
        wanted = {(i, k): grids[i] for i in chosen for k in range(samples)}
        files = {pair: there[name] for pair, name in wanted.items() if name in there}
        if files and samples != suite.grid.columns * suite.grid.rows:
            raise UserError(
                f"a grid of {suite.name} holds {suite.grid.columns * suite.grid.rows} images, not {samples}"
            )
        if files and side is None:
            raise UserError(
                f"{root} holds grids of {suite.grid.columns}x{suite.grid.rows} images",
                "say the side of one image in pixels: --resolution N",
            )
        grid = (suite.grid.columns, suite.grid.rows) if files else None
    if not files:
        example = next(iter(singles.values()))
        raise UserError(f"{root} holds no image of {suite.name}", f"expected names like {example!r} with .png or .jpg")
    unknown = sorted(set(there) - set(wanted.values()))
    notes = [f"{len(unknown)} files of {root.name} belong to no prompt that was asked for"] if unknown else []
    black = grid is not None and suite.grid is not None and suite.grid.black_is_missing
    return DrawnImages(root, files, grid, side, black, notes)
