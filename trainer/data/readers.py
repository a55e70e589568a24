"""Readers of published image sets as streams of Pairs, through webdataset, split over machines and workers by shard;
and of dialogues: of files (InterSyn's, or any conversations), or those that a world makes.

* LAION-nolang-aesthetics-27M: img2dataset's tars (image, caption and a JSON of metadata), joined by url to the
  parquet index where the JSON lacks a score.
* text-to-image-2M: webdataset tars of `jpg` and `json` with a `prompt`.
Both are tars of samples that share a key, so one reader does; only the fields' names differ. Conversation JSON lines
are read by trainer.data.records: `datasets` needs one schema for all rows and stops at the first broken line, where a
bad record has to be left out and counted.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from armor_model.base.errors import UserError, reason_of
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of
from armor_model.images import image_size
from trainer.data.images import append, read_bytes
from trainer.data.records import Tally, is_unicode, read_conversations
from trainer.data.screens import Pair, Prompts

if TYPE_CHECKING:
    import pyarrow as pa


T = TypeVar("T")

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
SCHEMES = ("http", "https", "hf", "gs")
"""Urls that webdataset opens; it knows no s3."""


@dataclass(frozen=True)
class Source:
    """How a set names its fields."""

    name: str
    caption: tuple[str, ...]
    """Metadata fields that hold the caption, best first; a `txt` member comes after them."""


SOURCES: dict[str, Source] = {
    s.name: s
    for s in (
        Source("laion", ("caption", "text")),  # LAION-nolang-aesthetics-27M, by img2dataset
        Source("text-to-image-2m", ("prompt", "caption")),
        Source("webdataset", ("caption", "prompt", "text")),  # any tars of images with a txt or json beside each
    )
}


def tars(sources: list[str]) -> list[str]:
    """The shards that sources mean, in order: tar files, directories of them (sorted), or urls, `{000..099}` expanded.
    Raises UserError when there are none."""
    from webdataset.shardlists import expand_urls

    shards: list[str] = []
    for source in sources:
        if "://" in source:
            if source.split("://")[0] not in SCHEMES:
                raise UserError(f"cannot stream {source}: only {', '.join(SCHEMES)} urls can be")
            shards += expand_urls(source)
            continue
        path = Path(source)
        # In full: webdataset runs a name that begins with "pipe:" as a command.
        here = [str(p.resolve()) for p in (sorted(path.rglob("*.tar")) if path.is_dir() else [path])]
        if not here or not all(Path(p).is_file() for p in here):
            raise UserError(f"no tar file at {source}")
        shards += here
    if not shards:
        raise UserError("no tar files were named")
    return shards


def parse_part(part: str) -> tuple[int, int]:
    """`I/N` as (I, N), I from 0 to N - 1. Raises UserError."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", part)
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--part {part!r} is not I/N with I from 0 to N - 1, e.g. 0/8")
    return int(match[1]), int(match[2])


def share_of(items: list[T], part: tuple[int, int]) -> list[T]:
    """The shards of part (I, N): every shard belongs to exactly one part. Raises UserError for an empty share."""
    share = items[part[0] :: part[1]]
    if not share:
        raise UserError(f"--part {part[0]}/{part[1]}: there are only {len(items)} tars")
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


def _samples(shard: str, tally: Tally) -> Iterator[JsonObject]:
    """Samples of a tar, read as a stream by webdataset, so that a cut one gives what it held."""
    import webdataset as wds

    name = shard.rsplit("/", 1)[-1]

    def cut(error: Exception) -> bool:
        tally.drop("truncated_tar", f"{name}: {error}")
        return False

    def gone(error: Exception) -> bool:
        tally.drop("unreadable_tar", f"{name}: {error}")
        return False

    watched: list[_Watched] = []

    def watch(sources: Iterable[JsonObject]) -> Iterator[JsonObject]:
        for source in sources:
            watched.append(_Watched(source["stream"]))
            yield {**source, "stream": watched[-1]}

    streams = watch(wds.tariterators.url_opener([{"url": shard}], handler=gone))
    files = wds.tariterators.tar_file_expander(streams, handler=cut)
    before = tally.dropped["truncated_tar"]
    yield from group_members(files, tally, name)
    if tally.dropped["truncated_tar"] == before and any(stream.is_cut() for stream in watched):
        tally.drop("truncated_tar", f"{name}: it has no end mark")


def group_members(files: Iterable[JsonObject], tally: Tally, tar: str) -> Iterator[JsonObject]:
    """Members that follow each other under one key, as samples: extension -> bytes, and `__key__`.

    webdataset's own grouping cuts keys at their first dot (`a.b.jpg`), and gives up a whole tar at a name that comes
    twice; here the first of them is kept and the other counted. A further field (`7.mask.png` between `7.jpg` and
    `7.txt`) stays with its sample.
    """
    sample: JsonObject = {}
    for file in files:
        if "fname" not in file:
            continue
        key, dot, extension = file["fname"].rpartition(".")
        if not dot or "/" in extension:
            continue
        extension = extension.lower()
        whole = any(e in sample for e in EXTENSIONS) and ("json" in sample or "txt" in sample)
        if sample and not whole and key.startswith(f"{sample['__key__']}."):
            key, extension = sample["__key__"], f"{key[len(sample['__key__']) + 1 :]}.{extension}"
        if sample and (key != sample["__key__"] or (whole and extension in sample)):
            yield sample
            sample = {}
        if extension in sample:
            tally.drop("duplicate_member", f"{tar}: {file['fname']} comes twice")
            continue
        sample = {**sample, "__key__": key, extension: file["data"]}
    if sample:
        yield sample


class _Watched:
    """A stream that knows whether the tar in it was whole: tarfile takes one that is cut at or in a member's header for
    a finished one, without a word."""

    def __init__(self, stream: BinaryIO) -> None:
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


def _pair(sample: JsonObject, shard: str, source: Source, tally: Tally, index: Index | None) -> Pair | None:
    key = f"{Path(shard).stem}/{sample['__key__']}"
    tally.read += 1
    extension = next((e for e in EXTENSIONS if e in sample), None)
    if extension is None:
        tally.drop("missing_image", f"{key}: a caption without an image")
        return None
    meta: JsonObject = {}
    if "json" in sample:
        try:  # a field without a value must not hide the index's
            meta = {str(k).lower(): v for k, v in json_of(sample["json"]).items() if v is not None}
        except (ValueError, AttributeError):
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
    try:
        size = image_size(sample[extension])
    except UserError as error:
        tally.drop("bad_image", f"{key}: {error}")
        return None
    tally.kept += 1
    return Pair(key, caption.strip(), sample[extension], extension, *size, meta)


NUMBERS = ("aesthetic", "aesthetic_score", "punsafe")
FLAGS = ("", "UNLIKELY", "UNSURE", "NSFW")


class Index:
    """url -> the numbers and the flag that screens read."""

    def __init__(self, keys_N: np.ndarray, numbers_N3: np.ndarray, flags_N: np.ndarray) -> None:
        order = np.argsort(keys_N, kind="stable")
        self.keys_N, self.numbers_N3, self.flags_N = keys_N[order], numbers_N3[order], flags_N[order]

    def __len__(self) -> int:
        return len(self.keys_N)

    @property
    def sha256(self) -> str:
        """Of what it holds, without a copy of it: an index has as many rows as its data set."""
        digest = hashlib.sha256()
        for array in (self.keys_N, self.numbers_N3, self.flags_N):
            digest.update(array.data)
        return digest.hexdigest()

    def get(self, url: str) -> JsonObject:
        """The fields known of a url; empty for one that is not in the index."""
        key = _key(url)
        at = int(np.searchsorted(self.keys_N, key))
        if at == len(self) or self.keys_N[at] != key:
            return {}
        values: JsonObject = {
            name: float(x) for name, x in zip(NUMBERS, self.numbers_N3[at], strict=True) if not np.isnan(x)
        }
        if self.flags_N[at]:
            values["nsfw"] = FLAGS[self.flags_N[at]]
        return values


def _key(url: str) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(url.encode(), digest_size=8).digest(), dtype=np.uint64)[0]


def read_index(path: Path) -> Index:
    """Stream a parquet file, or a directory of them, through `datasets`. Raises UserError."""
    import datasets

    files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
    if not files or not Path(files[0]).is_file():
        raise UserError(f"no parquet file at {path}")
    keys, numbers, flags = [], [], []
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what is wrong with a file is said once, below
    try:
        stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        for batch in stream.with_format("arrow").iter(batch_size=65_536):
            columns = {name.lower(): name for name in batch.column_names}
            if "url" not in columns:
                raise UserError(f"{path} has no URL column; its columns are {', '.join(batch.column_names)}")

            def column(name: str, batch: pa.RecordBatch = batch, columns: dict[str, str] = columns) -> list[Any] | None:
                return batch[columns[name]].to_pylist() if name in columns else None

            keys.append(np.array([_key(u or "") for u in column("url") or []], dtype=np.uint64))
            empty = [None] * len(keys[-1])
            rows = [column(name) or empty for name in NUMBERS]
            numbers.append(np.array([[np.nan if x is None else x for x in r] for r in rows], dtype=np.float32).T)
            words = (str(x or "").strip().upper() for x in column("nsfw") or empty)
            # A word that LAION does not use counts as unsafe: a flag that cannot be read must not wave it through.
            flags.append(np.array([FLAGS.index(x) if x in FLAGS else 3 for x in words], dtype=np.int8))
    except UserError:
        raise
    except Exception as error:  # pyarrow, datasets and fsspec each raise their own; the advice is the same
        raise UserError(f"{path} is not readable parquet: {reason_of(error)}") from error
    if not keys:
        raise UserError(f"{path} holds no rows")
    return Index(np.concatenate(keys), np.concatenate(numbers), np.concatenate(flags))


# ---- dialogues

WORLD, WORLD_MODULE = "shapes-v1", "trainer.shapes.dialogues"
"""The synthetic world that writes dialogues, by `stream(seed)` and `rendered(record)`."""


def read_dialogues(sources: Iterable[str], seed: int, tally: Tally) -> Iterator[JsonObject]:
    """Normalised records of files, and of `shapes-v1=N`; images as paths or encoded bytes. Raises UserError."""
    for source in sources:
        count = world_count(source)
        if count is None:
            yield from read_conversations(Path(source), tally)
            continue
        world = importlib.import_module(WORLD_MODULE)
        for record in islice(world.stream(seed), count):
            tally.read += 1
            tally.kept += 1
            yield world.rendered(record)


def world_count(source: str) -> int | None:
    """N of `shapes-v1=N`; None for a file. Raises UserError for a world's name that is not known, or no number."""
    name, equals, number = source.partition("=")
    if Path(source).exists() or not equals:
        return None
    if name != WORLD or not re.fullmatch(r"[0-9]{1,8}", number) or not int(number):
        raise UserError(f"--dialogues {source} is neither a file nor {WORLD}=N", f"e.g. {WORLD}=20000")
    return int(number)


def pack_images(
    records: Iterable[JsonObject],
    images: tarfile.TarFile,
    place: str,
    tally: Tally,
    prompts: Prompts | None,
    drop: bool,
) -> Iterator[JsonObject]:
    """Records whose images are copied into a tar that is called `place` from where the records will lie. One whose
    image cannot be read is left out and counted; so is, with `drop`, one that asks what a prompt asks."""

    def leave_out(rule: str, why: str) -> None:
        tally.kept -= 1
        tally.drop(rule, why)

    for record in records:
        asked = [turn["value"] for turn in record["conversations"] if turn["from"] == "human"]
        found = [match for text in asked if prompts is not None and (match := prompts.find(text))]
        degree = f"contaminated_{min(found)[0]}" if found else ""  # `exact` stands before `near`
        if degree and drop:
            leave_out(degree, f"{record['id']}: {found[0][1]}")
            continue
        try:
            encoded = [read_bytes(image) for image in record["images"]]
            for data in encoded:
                image_size(data)
        except UserError as error:
            leave_out("bad_image", f"{record['id']}: {error}")
            continue
        if degree:
            tally.noted[degree] += 1
        stretches = [append(images, hashlib.sha256(data).hexdigest()[:24], data) for data in encoded]
        yield {**record, "images": [f"{place}:{stretch}" for stretch in stretches]}
