"""`armor-train tokenize`: conversations to token ids and image codes once, in checksummed parquet shards (trainer.data.
shards) to train on.

armor-train tokenize data.jsonl --model armor-8b --out shards --workers 8
torchrun --nproc-per-node 8 -m trainer tokenize data.jsonl --model armor-8b --out shards --workers 4

Every shard is a unit of its own, so processes and machines share them out without a word; each shard's entry is written
behind it, and who finds that none is missing writes the manifest. A killed run goes on behind what is finished.
"""

from __future__ import annotations

import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from armor_model.base.errors import ArmorError, UserError
from armor_model.base.files import hold_folder, whole_file, write_file, writing
from armor_model.base.hashing import sha256_file
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of
from armor_model.losses import IGNORE
from trainer.data.images import append, describe, read_bytes
from trainer.data.records import Rejected, Tally, checked, encode, losses, raw_records, sides, to_messages
from trainer.data.shards import ENTRY, MANIFEST, VERSION, is_whole, read_manifest, reading, schema, write_manifest
from trainer.data.workers import in_order

if TYPE_CHECKING:
    from torch import Tensor

    from armor_model.processing import ArmorProcessor


class Job(NamedTuple):
    """What a worker needs to make any shard of a file."""

    out: Path
    root: Path
    """Folder that the records' images are relative to."""
    max_length: int
    batch_size: int


def tokenize(
    conversations: Path,
    out: Path,
    processor: ArmorProcessor,
    model_name: str,
    shard_size: int = 2048,
    max_length: int = 4096,
    batch_size: int = 32,
    *,
    image_root: Path | None = None,
    workers: int = 1,
    load: Callable[[], ArmorProcessor] | None = None,
    part: tuple[int, int] = (0, 1),
) -> JsonObject | None:
    """Write shards for a conversations file; returns the manifest, None where another part has still to finish.

    Called again, it goes on where it was killed, and replaces shards that are missing or damaged. Raises UserError.

    Args:
        batch_size: images that the image tokenizer encodes at a time.
        image_root: folder that the records' images are relative to; by default the file's.
        workers: processes, each with a processor of its own from `load`; 1 works here, with `processor`.
        part: (I, N): only every N-th shard, from I on.
    """
    root = (image_root or conversations.parent).resolve()
    settings = {
        "version": VERSION,
        **reading(processor),
        "conversations_sha256": sha256_file(conversations),
        "model": model_name,
        "shard_size": shard_size,
        "max_length": max_length,
    }
    out.mkdir(parents=True, exist_ok=True)
    with hold_folder(out, "armor-train tokenize", part):
        manifest = _start(out, settings, root)
        job = Job(out, root, max_length, batch_size)
        known = {entry["name"]: entry for entry in manifest["shards"]}
        entries: dict[str, JsonObject | None] = {}

        def missing() -> Iterator[tuple[Job, str, list[tuple[str, object]]]]:
            raw = raw_records(conversations)
            for number in itertools.count():
                # Records of the file, good or bad: an image that is gone since must not shift the others.
                chunk = list(itertools.islice(raw, shard_size))
                if not chunk:
                    return
                name = f"shard-{number:06d}.parquet"
                entries[name] = known.get(name) or _finished(out, name)
                if number % part[1] == part[0] and entries[name] is None:
                    yield job, name, chunk

        for entry in in_order(make_shard, missing(), processor, workers, load):
            entries[entry["name"]] = entry
        for name in entries:  # of other parts, finished meanwhile
            entries[name] = entries[name] or _finished(out, name)
        whole = [entry for entry in entries.values() if entry is not None]
        return _finish(conversations, out, manifest, whole) if len(whole) == len(entries) else None


def load(folder: Path, device: str | None = None) -> ArmorProcessor:
    """A checkpoint's processor, its image tokenizer on a device; by default this process's GPU."""
    from armor_model import load_processor
    from armor_model.base.devices import choose_device

    processor = load_processor(folder)
    if processor.vq is not None:
        processor.vq.to(choose_device(device))
    return processor


def _start(out: Path, settings: JsonObject, root: Path) -> JsonObject:
    """The manifest to go on with, on disk: those of its shards that are whole, as the rest is made again."""
    manifest: JsonObject = {"settings": settings, "shards": [], "complete": False}
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        if manifest["settings"]["version"] < VERSION:
            raise UserError(f"{out} was tokenised by an earlier version; tokenize into another directory")
        different = [k for k in settings if manifest["settings"].get(k) != settings[k]]
        if different:
            raise UserError(
                f"{out} holds shards of other settings ({', '.join(different)} differ); choose another directory"
            )
    whole = [entry for entry in manifest["shards"] if is_whole(out, entry)]
    complete = manifest["complete"] and whole == manifest["shards"]
    settings = {**settings, "image_root": os.path.relpath(root, out.resolve())}
    now = {**manifest, "settings": settings, "shards": whole, "complete": complete}
    if now != manifest or not (out / MANIFEST).exists():
        write_manifest(out, now)
    return now


def _entry_file(out: Path, name: str) -> Path:
    return (out / name).with_suffix(".json")


def _finished(out: Path, name: str) -> JsonObject | None:
    """The entry of a shard that is whole; None where it has to be made."""
    try:
        entry = json_of(_entry_file(out, name).read_text(encoding="utf-8"))
        return entry if entry["name"] == name and is_whole(out, entry) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finish(conversations: Path, out: Path, manifest: JsonObject, entries: list[JsonObject]) -> JsonObject:
    total = Tally()
    for entry in entries:
        total.add(Tally.of({**entry, "kept": entry["rows"]}))
    manifest = {**manifest, "shards": entries, "complete": True, "read": total.to_json()}
    write_manifest(out, manifest)
    for entry in entries:
        _entry_file(out, entry["name"]).unlink(missing_ok=True)
    if not total.kept:
        raise UserError(
            f"nothing of {conversations} was kept: of {total.read:,} records, dropped {losses(total.dropped)}"
        )
    return manifest


# ---- making a shard


def make_shard(processor: ArmorProcessor, job: Job, name: str, chunk: list[tuple[str, object]]) -> JsonObject:
    """Write one shard, then its entry; returns the entry."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tally = Tally()
    records = [r for where, one in chunk if (r := checked(one, where, job.root, tally)) is not None]
    with _tar_beside(job, name) as store:
        rows = list(_rows(records, processor, job, tally, store))
    with writing(job.out):
        with whole_file(job.out / name) as draft:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema()), draft, compression="zstd")
        parts = (name, sha256_file(job.out / name), len(rows), tally.read, dict(tally.dropped), tally.examples)
        entry = {**dict(zip(ENTRY, parts, strict=True)), "noted": dict(tally.noted)}
        write_file(_entry_file(job.out, name), json.dumps(entry))
    return entry


@contextmanager
def _tar_beside(job: Job, name: str) -> Iterator[Callable[[bytes, str], str]]:
    """What stores an image to look at that came inside of a row, in a tar beside the shard, and tells its path."""
    path = (job.out / name).with_suffix(".tar").resolve()
    tar: tarfile.TarFile | None = None
    with ExitStack() as stack:

        def store(data: bytes, sha256: str) -> str:
            nonlocal tar
            if tar is None:
                tar = stack.enter_context(tarfile.open(stack.enter_context(whole_file(path)), "w"))
            return f"{os.path.relpath(path, job.root)}:{append(tar, sha256, data)}"

        yield store


def _rows(
    records: list[JsonObject], processor: ArmorProcessor, job: Job, tally: Tally, store: Callable[[bytes, str], str]
) -> Iterator[JsonObject]:
    drawn = list(dict.fromkeys(path for record in records for path in sides(record)[1]))
    codes: dict[Path | bytes, Tensor | None] = {}
    for start in range(0, len(drawn), job.batch_size):
        codes.update(_codes(processor, drawn[start : start + job.batch_size]))
    for record in records:
        seen, to_draw = sides(record)
        try:
            broken = next((p for p in to_draw if codes[p] is None), None)
            if broken is not None:
                raise Rejected("bad_image", f"{record['id']}: {broken!s:.100}")
            rule = "bad_image"
            images = [describe(read_bytes(image)) for image in seen]
            for image, known in zip(seen, images, strict=True):
                own = isinstance(image, bytes)
                known["path"] = store(image, known["sha256"]) if own else _relative(image, job.root)
            rule = "bad_text"
            # Images are cut when the model reads them; here their shape is enough.
            shapes = [processor.base.shape(i["width"], i["height"], processor.settings) for i in images]
            tiles = [torch.empty(shape, device="meta") for shape in shapes]
            example = encode(processor, record["type"], to_messages(record, tiles, [codes[p] for p in to_draw]))
            if len(example) > job.max_length:
                raise Rejected("too_long", f"{record['id']}: {len(example)} positions")
        except Rejected as rejected:
            tally.drop(rejected.rule, str(rejected))
            continue
        except ArmorError as error:
            tally.drop(rule, f"{record['id']}: {error}")
            continue
        tally.kept += 1
        heads = np.zeros(len(example), dtype=np.int8)
        heads[1:][example.text_labels[:-1].numpy() != IGNORE] = 1
        heads[1:][example.image_labels[:-1].numpy() != IGNORE] = 2
        yield {
            "id": record["id"],
            "kind": record["type"],
            "input_ids": example.input_ids.numpy(),
            "heads": heads,
            "span": list(example.prompt_span or ()),
            "images": images,
        }


def _relative(path: Path, root: Path) -> str:
    """To the images' folder, so that it can move; an image outside of it keeps its whole path."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _codes(processor: ArmorProcessor, paths: list[Path | bytes]) -> dict[Path | bytes, Tensor | None]:
    """Codes of images, None for one that cannot be read: a batch with a broken one is done one by one."""
    try:
        return dict(zip(paths, processor.image_codes([read_bytes(path) for path in paths]), strict=True))
    except ArmorError:
        if processor.vq is None:
            raise
        if len(paths) == 1:
            return {paths[0]: None}
        return {k: v for path in paths for k, v in _codes(processor, [path]).items()}
