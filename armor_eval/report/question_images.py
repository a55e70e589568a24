"""Question images of understanding runs, read from the very TSV that a run was measured on: equal sha256, or none."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.report.loading import RunView
from armor_eval.runs.schema import Run
from armor_eval.tasks.understanding.data import content_made, lmu_data, locate
from armor_eval.tasks.understanding.declare import Benchmark, benchmarks, of_run
from armor_eval.tasks.understanding.images import BadImageError
from armor_eval.tasks.understanding.table import Row, read_table
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file

if TYPE_CHECKING:
    from PIL import Image


log = logging.getLogger(__name__)


@dataclass
class QuestionImages:
    """The rows that items name as `FILE.tsv#ID`, by a key that equal images share."""

    rows: dict[str, Row] = field(default_factory=dict)
    """Key -> a row that shows its images."""
    keys: dict[tuple[int, str], str] = field(default_factory=dict)
    """(place of the run, reference) -> key."""
    missing: list[str] = field(default_factory=list)
    """Why a run's images could not be read, one line a run."""

    def open(self, key: str) -> list[Image.Image]:
        """The images of a row, RGB, as the model was shown them; none where they cannot be decoded."""
        try:
            return self.rows[key].images()
        except BadImageError:
            return []


def is_reference(name: str) -> bool:
    """Whether an item's image is a row of a TSV, not a file in the bundle."""
    return ".tsv#" in name


def find_question_images(
    views: Mapping[int, RunView], references: Mapping[int, Iterable[str]], data: Path | None
) -> QuestionImages:
    """The images that the runs' items refer to, by place of the run.

    `data`: a folder of TSVs, or one TSV, to look in first. Official files are looked for in `$LMUData`, embedded ones
    are made again. A benchmark's file is read once.
    """
    question_images = QuestionImages()
    tables: dict[tuple[str, Path], dict[str, Row]] = {}
    for place, names in references.items():
        names = list(names)
        view = views[place]
        try:
            benchmark = of_run(view.run) or benchmarks().get(view.run.benchmark)
            if benchmark is None:
                raise UserError(f"{view.run.benchmark} is not declared")
            at = benchmark.name, _measured_file(view.run, benchmark, names[0].partition("#")[0], data)
            if at not in tables:
                table = read_table(benchmark, at[1], need_published=False)
                tables[at] = {row.id: row for row in table.rows}
        except UserError as error:
            question_images.missing.append(f"{view.label}: the question images are not here, {error}")
            log.warning("%s", question_images.missing[-1])
            continue
        for name in names:
            row = tables[at].get(name.partition("#")[2])
            if row is not None and row.image_cell is not None:
                key = f"{row.image_cell.digest}{'s' if row.saved_as else ''}"
                question_images.rows.setdefault(key, row)
                question_images.keys[place, name] = key
    return question_images


def _measured_file(run: Run, benchmark: Benchmark, name: str, data: Path | None) -> Path:
    """The TSV of a run. UserError where no file of that name has the run's sha256."""
    if Path(name).name != name:
        raise UserError(f"{name!r} is no file's name")
    embedded = content_made(benchmark, run.profile) == run.data.sha256
    places = [] if data is None else [data if data.is_file() else data / name]
    places += [lmu_data() / name] if run.profile == "official" else []
    for path in places:
        if path.is_file() and sha256_file(path) == run.data.sha256:
            return path
    if embedded:
        return locate(benchmark, run.profile, None)
    there = next((path for path in places if path.is_file()), None)
    if there is not None:
        raise UserError(f"{there} is not the file that was measured (another sha256)")
    folders = " or ".join(str(path.parent) for path in places) or "the embedded data of this version"
    raise UserError(f"no {name} in {folders} (--data FOLDER)")


# --- images as a page holds them: reduced, as base64 -----------------------------------------------------------------


LOSSLESS_SIDE = 96
"""Images up to this size stay PNG: JPEG would change what few pixels there are."""


def thumbnail(path: Path, side: int) -> list | None:
    """[width, height, mime, base64]; small PNGs as they are, others reduced. The size is the original's."""
    from PIL import Image, UnidentifiedImageError

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if image.format == "PNG" and len(data) <= 2500:
                return [*size, "image/png", base64.b64encode(data).decode()]
            image.draft("RGB", (side, side))
            return encoded(image.convert("RGB"), size, side)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None


def encoded(image: Image.Image, size: tuple[int, int], side: int) -> list:
    """[width, height, mime, base64] of an RGB image, reduced to the side; `size` is the original's."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    lossless = max(image.size) <= LOSSLESS_SIDE
    image.save(buffer, **({"format": "PNG"} if lossless else {"format": "JPEG", "quality": 72}))
    return [*size, "image/png" if lossless else "image/jpeg", base64.b64encode(buffer.getvalue()).decode()]
