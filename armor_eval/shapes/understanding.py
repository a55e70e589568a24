"""The shapes world as VLMEvalKit's TSV files: made from a seed on first use, checked against a declared hash.

    python -m armor_eval.shapes.understanding FOLDER [--declare]    writes every file, or the declaration itself

The bytes of a PNG depend on the zlib at hand, so the hash that is declared (`benchmarks/shapes/data_v1.json`) and that
names the folder is over the content: every column as text, images as decoded pixels.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from armor_eval.base.data import benchmarks_dir
from armor_eval.shapes import choice, open_answers, yesno
from armor_model.base.errors import UserError, unknown_name
from armor_model.base.jsons import JsonObject
from trainer.shapes.world import Scene, render_batch

Row = choice.Row

BUILDERS: dict[str, Callable[[], list[Row]]] = {
    "MMBench_DEV_EN": lambda: choice.mmbench(20_101, "dev"),
    "MMBench_TEST_EN": lambda: choice.mmbench(20_102, "test", answers=False),
    "MMBench_DEV_EN_V11": lambda: choice.mmbench(20_103, "dev"),
    "MMBench_TEST_EN_V11": lambda: choice.mmbench(20_104, "test", answers=False),
    "SEEDBench_IMG": lambda: choice.seedbench(20_201),
    "MMMU_DEV_VAL": lambda: choice.mmmu(20_301),
    "MME": lambda: yesno.mme(20_401),
    "HallusionBench": lambda: yesno.hallusionbench(20_501),
    "POPE": lambda: yesno.pope(20_601),
    "MMVet": lambda: open_answers.mmvet(20_701),
    "LLaVABench": lambda: open_answers.llavabench(20_801),
}
"""VLMEvalKit's dataset name -> rows. Seeds are part of the frozen data."""

DECLARATION = "data_v1.json"


def rows_for(dataset: str) -> list[Row]:
    """The rows of a dataset; images as Scenes."""
    if dataset not in BUILDERS:
        raise unknown_name("shapes dataset", dataset, list(BUILDERS))
    return BUILDERS[dataset]()


def content_sha256(columns: Iterable[str], rows: Iterable[Iterable[str | np.ndarray]]) -> str:
    """Hash over column names and cells in file order; an image counts by its size and RGB pixels."""
    digest = hashlib.sha256()
    digest.update(json.dumps(list(columns)).encode())
    for row in rows:
        cells = [
            cell if isinstance(cell, str) else f"{cell.shape}:{hashlib.sha256(cell.tobytes()).hexdigest()}"
            for cell in row
        ]
        digest.update(json.dumps(cells).encode())
    return digest.hexdigest()


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def rows_sha256(rows: list[Row]) -> str:
    """`content_sha256` of rows that are not written yet."""
    pixels = _pixels(rows)
    filled = (
        [pixels[n] if k == "image" and n in pixels else _cell(v) for k, v in row.items()] for n, row in enumerate(rows)
    )
    return content_sha256(rows[0], filled)


def _pixels(rows: list[Row]) -> dict[int, np.ndarray]:
    """Row number -> uint8 [32, 32, 3], for the rows that hold an image."""
    numbers = [n for n, row in enumerate(rows) if isinstance(row["image"], Scene)]
    return dict(zip(numbers, render_batch([rows[n]["image"] for n in numbers]), strict=True))


def png_base64(pixels: np.ndarray) -> str:
    """An image as VLMEvalKit's TSVs carry it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=9)
    return base64.b64encode(buffer.getvalue()).decode()


def write_tsv(rows: list[Row], path: Path) -> None:
    """Write rows as a tab-separated file, atomically."""
    import csv

    pixels = _pixels(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(rows[0])
            for number, row in enumerate(rows):
                cells = dict(row)
                if number in pixels:
                    cells["image"] = png_base64(pixels[number])
                writer.writerow([_cell(cell) for cell in cells.values()])
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def declared() -> dict[str, JsonObject]:
    """What `benchmarks/shapes/data_v1.json` says about each dataset."""
    return json.loads((benchmarks_dir() / "shapes" / DECLARATION).read_text(encoding="utf-8"))["datasets"]


def tsv_path(dataset: str, root: Path) -> Path:
    """The dataset's TSV under `root`, written if it is missing; the folder is named by the content's hash.

    Raises UserError if this installation makes other content than the declared one, or if the folder cannot be written.
    """
    if dataset not in BUILDERS:
        raise unknown_name("shapes dataset", dataset, list(BUILDERS))
    expected = declared()[dataset]["sha256"]
    path = Path(root) / expected[:16] / f"{dataset}.tsv"
    stamp = path.with_suffix(".bytes.sha256")
    try:
        if path.is_file() and stamp.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == stamp.read_text():
            return path
        rows = rows_for(dataset)
        found = rows_sha256(rows)
        if found != expected:
            raise UserError(
                f"the shapes {dataset} made here has content {found[:16]}..., expected {expected[:16]}...",
                "this numpy draws other random numbers: install the versions of constraints.txt",
            )
        write_tsv(rows, path)
        stamp.write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError as error:
        raise UserError(f"cannot write the shapes data to {path.parent}: {error.strerror or error}") from error
    return path


def _clusters(rows: list[Row]) -> set[str | int]:
    """What is resampled together: HallusionBench's sets, MMBench's groups, else images as they are asked about."""
    if isinstance(rows[0]["index"], str):
        return {row["index"].split("_")[3] for row in rows}
    return {row.get("image_path") or row["index"] % choice.ROTATION for row in rows}


def declaration() -> JsonObject:
    """The declaration, computed afresh: content hash and size of every dataset."""
    datasets = {}
    for name in BUILDERS:
        rows = rows_for(name)
        datasets[name] = {"sha256": rows_sha256(rows), "rows": len(rows), "clusters": len(_clusters(rows))}
    return {
        "world": 1,
        "about": "Hash of each generated file's content: columns and decoded pixels (armor_eval.shapes).",
        "datasets": datasets,
    }


if __name__ == "__main__":
    if "--declare" in sys.argv:
        target = benchmarks_dir() / "shapes" / DECLARATION
        target.write_text(json.dumps(declaration(), indent=2) + "\n", encoding="utf-8")
    else:
        for known in BUILDERS:
            tsv_path(known, Path(sys.argv[1]))
