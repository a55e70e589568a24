"""Readers of published image sets as streams of Pairs, through webdataset, split over machines and workers by shard.

* LAION-nolang-aesthetics-27M: img2dataset's tars (picture, caption and a JSON of metadata), joined by url to the
  parquet index where the JSON lacks a score.
* text-to-image-2M: webdataset tars of `jpg` and `json` with a `prompt`.
Both are tars of samples that share a key, so one reader does; only the fields' names differ. Conversation JSON lines
are read by trainer.data.records: `datasets` needs one schema for all rows and stops at the first broken line, where a
bad record has to be left out and counted.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.index import Index
from trainer.data.records import Tally, is_unicode
from trainer.data.screens import Pair
from trainer.errors import DataError

PICTURES = ("jpg", "jpeg", "png", "webp")
SCHEMES = ("http", "https", "hf", "gs")
"""Urls that webdataset opens; it knows no s3."""


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


def tars(sources: list[str]) -> list[str]:
    """The shards that sources mean, in order: tar files, directories of them (sorted), or urls, `{000..099}` expanded.
    Raises DataError when there are none."""
    from webdataset.shardlists import expand_urls

    found: list[str] = []
    for source in sources:
        if "://" in source:
            if source.split("://")[0] not in SCHEMES:
                raise DataError(f"cannot stream {source}: only {', '.join(SCHEMES)} urls can be")
            found += expand_urls(source)
            continue
        path = Path(source)
        # In full: webdataset runs a name that begins with "pipe:" as a command.
        here = [str(p.resolve()) for p in (sorted(path.rglob("*.tar")) if path.is_dir() else [path])]
        if not here or not all(Path(p).is_file() for p in here):
            raise DataError(f"no tar file at {source}")
        found += here
    if not found:
        raise DataError("no tar files were named")
    return found


def parse_part(part: str) -> tuple[int, int]:
    """`I/N` as (I, N), I from 0 to N - 1. Raises DataError."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not found or int(found[1]) >= int(found[2]):
        raise DataError(f"--part {part!r} is not I/N with I from 0 to N - 1, e.g. 0/8")
    return int(found[1]), int(found[2])


def share_of(items: list[Any], part: tuple[int, int]) -> list[Any]:
    """The shards of part (I, N): every shard belongs to exactly one part. Raises DataError for an empty share."""
    share = items[part[0] :: part[1]]
    if not share:
        raise DataError(f"--part {part[0]}/{part[1]}: there are only {len(items)} tars")
    return share


def read_tars(shards: list[str], source: Source, tally: Tally, index: Index | None = None) -> Iterator[Pair]:
    """Pairs of tars in order. A truncated tar ends where it breaks, one that cannot be opened is left out, as is a
    broken member; all are counted.

    index: scores by url, from `read_index`, for fields that the tar's own JSON lacks.
    """
    for shard in shards:
        for sample in _samples(shard, tally):
            pair = _pair(sample, shard, source, tally, index)
            if pair is not None:
                yield pair


def _samples(shard: str, tally: Tally) -> Iterator[dict[str, Any]]:
    """webdataset's own streaming and grouping by key. It reads tars as streams, so a cut one gives what it held."""
    import webdataset as wds

    name = shard.rsplit("/", 1)[-1]

    def cut(error: Exception) -> bool:
        tally.drop("truncated_tar", f"{name}: {error}")
        return False

    def gone(error: Exception) -> bool:
        tally.drop("unreadable_tar", f"{name}: {error}")
        return False

    watched: list[_Watched] = []

    def watch(sources: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for source in sources:
            watched.append(_Watched(source["stream"]))
            yield {**source, "stream": watched[-1]}

    streams = watch(wds.tariterators.url_opener([{"url": shard}], handler=gone))
    files = wds.tariterators.tar_file_expander(streams, handler=cut)
    before = tally.dropped["truncated_tar"]
    yield from wds.tariterators.group_by_keys(files, handler=cut)
    if tally.dropped["truncated_tar"] == before and any(stream.is_cut() for stream in watched):
        tally.drop("truncated_tar", f"{name}: it has no end mark")


class _Watched:
    """A stream that knows whether the tar in it was whole: tarfile takes one that is cut at or in a member's header for
    a finished one, without a word."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.head, self.tail = stream, b"", b""

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        if len(self.head) < 512:
            self.head += data[: 512 - len(self.head)]
        self.tail = (self.tail + data)[-1024:]
        return data

    def close(self) -> None:
        self.stream.close()

    def is_cut(self) -> bool:
        """Whether an uncompressed tar lacks the two empty blocks at its end. Reads what is left, which is padding."""
        while self.read(1 << 16):
            pass
        return self.head[257:262] == b"ustar" and self.tail != bytes(1024)


def _pair(sample: dict[str, Any], shard: str, source: Source, tally: Tally, index: Index | None) -> Pair | None:
    key = f"{Path(shard).stem}/{sample['__key__']}"
    tally.read += 1
    extension = next((e for e in PICTURES if e in sample), None)
    if extension is None:
        tally.drop("missing_image", f"{key}: a caption without a picture")
        return None
    meta: dict[str, Any] = {}
    if "json" in sample:
        try:  # a field without a value must not hide the index's
            meta = {str(k).lower(): v for k, v in json.loads(sample["json"]).items() if v is not None}
        except (ValueError, AttributeError, RecursionError):
            tally.drop("bad_metadata", f"{key}: its json is no object")
            return None
    url = meta.get("url")
    if index is not None and isinstance(url, str) and is_unicode(url):
        meta = {**index.get(url), **meta}
    caption = next((meta[f] for f in source.caption if isinstance(meta.get(f), str)), None)
    if caption is None and "txt" in sample:
        caption = sample["txt"].decode("utf-8", errors="replace")
    if caption is None:
        tally.drop("no_caption", f"{key}: neither {', '.join(source.caption)} nor a txt")
        return None
    if not is_unicode(key + caption):
        tally.drop("bad_text", f"{key}: its name or its caption is no valid Unicode")
        return None
    size = picture_size(sample[extension])
    if size is None:
        tally.drop("bad_image", f"{key}: not a picture")
        return None
    tally.kept += 1
    return Pair(key, caption.strip(), sample[extension], extension, *size, meta)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height, or None for bytes that are no picture. The pixels are decoded: a cut JPEG has a fine header."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            return picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
