"""Readers of published image sets as streams of Pairs, split over processes and workers by shard.

* LAION-nolang-aesthetics-27M: the parquet index is joined to img2dataset's tars (picture, caption and a JSON of
metadata). * text-to-image-2M: webdataset tars of `jpg` and `json` with a `prompt`.
Both are tars of samples that share a key, so one reader does; only the fields' names differ.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.records import Tally
from trainer.data.screens import Pair
from trainer.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Source:
    """How a set names its fields."""

    name: str
    caption: tuple[str, ...]
    """Metadata fields that hold the caption, best first; a `txt` member comes after them."""
    about: str


SOURCES: dict[str, Source] = {
    s.name: s
    for s in (
        Source(
            "laion", ("caption", "text"), "LAION-nolang-aesthetics-27M, downloaded by img2dataset as webdataset tars"
        ),
        Source("text-to-image-2m", ("prompt", "caption"), "text-to-image-2M's webdataset tars"),
        Source("webdataset", ("caption", "prompt", "text"), "any tars of pictures with a txt or json beside each"),
    )
}


def tars(paths: list[Path]) -> list[Path]:
    """The tar files that paths (files or directories) mean, sorted. Raises DataError when there are none."""
    found = [p for path in paths for p in (sorted(path.rglob("*.tar")) if path.is_dir() else [path])]
    gone = next((p for p in found if not p.is_file()), None)
    if gone is not None or not found:
        raise DataError(f"no tar file at {gone or ', '.join(map(str, paths))}")
    return found


def share_of(items: list[Path], rank: int, world: int, worker: int = 0, workers: int = 1) -> list[Path]:
    """The shards of one worker of one process: every shard belongs to exactly one."""
    return items[rank * workers + worker :: world * workers]


def read_tars(
    shards: list[Path], source: Source, tally: Tally, index: dict[str, dict[str, Any]] | None = None
) -> Iterator[Pair]:
    """Pairs of tars in order. A truncated tar ends where it breaks, a broken member is left out; both are counted.

    index: metadata by url, from `read_index`, for fields that the tar's own JSON lacks.
    """
    for shard in shards:
        for sample in _samples(shard, tally):
            pair = _pair(sample, shard, source, tally, index)
            if pair is not None:
                yield pair


def _samples(shard: Path, tally: Tally) -> Iterator[dict[str, Any]]:
    """webdataset's own grouping by key, in this process. It reads tars as streams, so a cut one gives what it held."""
    import webdataset as wds

    def stop(error: Exception) -> bool:
        tally.drop("truncated_tar", f"{shard.name}: {error}")
        return False

    files = wds.tariterators.tar_file_expander(
        [{"url": str(shard), "stream": io.BufferedReader(shard.open("rb"))}], handler=stop
    )
    yield from wds.tariterators.group_by_keys(files, handler=stop)


def _pair(
    sample: dict[str, Any], shard: Path, source: Source, tally: Tally, index: dict[str, dict[str, Any]] | None
) -> Pair | None:
    key = f"{shard.stem}/{sample['__key__']}"
    extension = next((e for e in PICTURES if e in sample), None)
    if extension is None:
        tally.read += 1
        tally.drop("missing_image", f"{key}: a caption without a picture")
        return None
    meta: dict[str, Any] = {}
    if "json" in sample:
        try:
            meta = {str(k).lower(): v for k, v in json.loads(sample["json"]).items()}
        except (ValueError, AttributeError):
            tally.read += 1
            tally.drop("bad_metadata", f"{key}: its json is no object")
            return None
    if index is not None and isinstance(meta.get("url"), str):
        meta = {**index.get(meta["url"], {}), **meta}
    caption = next((meta[f] for f in source.caption if isinstance(meta.get(f), str)), None)
    if caption is None and "txt" in sample:
        caption = sample["txt"].decode("utf-8", errors="replace")
    if caption is None:
        tally.read += 1
        tally.drop("no_caption", f"{key}: neither {', '.join(source.caption)} nor a txt")
        return None
    size = picture_size(sample[extension])
    if size is None:
        tally.read += 1
        tally.drop("bad_image", f"{key}: not a picture")
        return None
    return Pair(key, caption.strip(), sample[extension], extension, *size, meta)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height, or None for bytes that are no picture. The pixels are decoded: a cut JPEG has a fine header."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def read_index(path: Path) -> dict[str, dict[str, Any]]:
    """A LAION parquet index (file or directory): url -> its other fields in lower case."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except Exception as error:
        raise DataError(f"{path} is not readable parquet: {error}") from error
    names = {name.lower(): name for name in table.column_names}
    if "url" not in names:
        raise DataError(f"{path} has no URL column; its columns are {', '.join(table.column_names)}")
    rows = table.rename_columns([n.lower() for n in table.column_names]).to_pylist()
    return {row.pop("url"): row for row in rows}
