"""`armor-train tokenize`: conversations to token ids and image codes once, in checksummed parquet shards to train on.

A shard holds, for each conversation, its type, token ids (codes included), which head has to say each token (0 nobody,
1 text, 2 visual), where the request's words stand, and the paths of the images that the ViT will look at. So stage 2
never runs the image tokenizer's encoder. `manifest.json` lists finished shards with their sha256, and what made them: a
killed run goes on behind them, and a model that reads images or text in another way is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from armor_model.base.errors import UserError
from armor_model.base.files import whole_file, write_file
from armor_model.base.hashing import sha256_file, sha256_text
from armor_model.losses import IGNORE
from armor_model.processing import ProcessorSettings
from trainer.batches import Example
from trainer.data.records import Rejected, Tally, checked, encode, losses, raw_records, sides, to_messages

MANIFEST = "manifest.json"
VERSION = 2
ENTRY = ("name", "sha256", "rows", "read", "dropped", "examples")
"""What the manifest says of a shard; the last three are the tally of its own records."""


def tokenize(
    conversations: Path,
    out: Path,
    processor: Any,
    model_name: str,
    shard_size: int = 2048,
    max_length: int = 4096,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Write shards for a conversations file; returns the manifest.

    Called again, it goes on where it was killed, and replaces shards that are missing or damaged. Raises UserError.
    """
    settings = {
        **_reading(processor),
        "conversations_sha256": sha256_file(conversations),
        "model": model_name,
        "shard_size": shard_size,
        "max_length": max_length,
    }
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        return _tokenize(conversations, out, processor, settings, batch_size)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder; the operating system lets go of it however the process ends. Raises UserError."""
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                f"another armor-train tokenize is writing {out}", "wait for it, or choose another"
            ) from error
        yield


def _tokenize(
    conversations: Path, out: Path, processor: Any, settings: dict[str, Any], batch_size: int
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest, shard_size, max_length = _start(out, settings), settings["shard_size"], settings["max_length"]
    raw = raw_records(conversations)
    for number in itertools.count():
        # Records of the file, good or bad: an image that is gone since the last call must not shift the others.
        chunk = list(itertools.islice(raw, shard_size))
        if not chunk:
            break
        if number < len(manifest["shards"]):
            continue
        tally = Tally()
        records = [r for where, one in chunk if (r := checked(one, where, conversations.parent, tally)) is not None]
        rows = list(_rows(records, processor, max_length, batch_size, tally))
        name = f"shard-{number:06d}.parquet"
        with whole_file(out / name) as draft:
            pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), draft, compression="zstd")
        digest = sha256_file(out / name)
        parts = (name, digest, len(rows), tally.read, dict(tally.dropped), tally.examples)
        manifest["shards"].append(dict(zip(ENTRY, parts, strict=True)))
        _write_manifest(out, manifest)
    total = _total(manifest["shards"])
    manifest["complete"], manifest["read"] = True, total.to_json()
    _write_manifest(out, manifest)
    if not total.kept:
        raise UserError(
            f"nothing of {conversations} was kept: of {total.read:,} records, dropped {losses(total.dropped)}"
        )
    return manifest


def _total(shards: list[dict[str, Any]]) -> Tally:
    """The tally of the whole file, also where earlier calls made some of its shards."""
    total = Tally()
    for entry in shards:
        total.read += entry["read"]
        total.kept += entry["rows"]
        total.dropped.update(entry["dropped"])
        total.examples = {**entry["examples"], **total.examples}
    return total


def _reading(processor: Any) -> dict[str, Any]:
    """What decides how a processor turns conversations into tokens, codes and tiles."""
    fresh = ProcessorSettings(0, 0, 0)
    settings = asdict(processor.settings)
    # fields that came later are left out where they say nothing new: earlier shards lack them
    for name in ("processor_class", *(n for n in ("base", "pixels") if settings[n] == getattr(fresh, n))):
        del settings[name]
    return {
        "version": VERSION,
        **settings,
        "tokenizer_sha256": _tokenizer_sha256(processor.tokenizer),
        "vq_sha256": None if processor.vq is None else _vq_sha256(processor.vq),
    }


def _tokenizer_sha256(tokenizer: Any) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        known = tokenizer.get_vocab()
    else:  # padding and truncation are the last call's, not the tokenizer's
        known = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _vq_sha256(vq: Any) -> str:
    """In float32, as `ImageTokenizer.load` reads any file: the same for every load of a folder, on any device."""
    digest = hashlib.sha256(json.dumps([vq.type, vq.settings], sort_keys=True).encode())
    for name, value in sorted(vq.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _start(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The manifest to go on with: its leading shards that are whole, as the rest is made again."""
    if not (out / MANIFEST).exists():
        return {"settings": settings, "shards": [], "complete": False}
    manifest = _read_manifest(out)
    different = [k for k in settings if manifest["settings"].get(k) != settings[k]]
    if different:
        raise UserError(
            f"{out} holds shards of other settings ({', '.join(different)} differ); choose another directory"
        )
    whole = list(itertools.takewhile(lambda entry: _is_whole(out, entry), manifest["shards"]))
    return {**manifest, "shards": whole, "complete": manifest["complete"] and whole == manifest["shards"]}


def _is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    path = folder / entry["name"]
    return path.is_file() and sha256_file(path) == entry["sha256"]


def _read_manifest(folder: Path) -> dict[str, Any]:
    """A manifest of this version, with all its parts. Raises UserError."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["settings"]["version"] < VERSION:
            raise UserError(f"{folder} was tokenised by an earlier version; tokenize again into another directory")
        _ = manifest["complete"], [[e[part] for part in ENTRY] for e in manifest["shards"]]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: delete it and run armor-train tokenize again") from error
    return manifest


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    write_file(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("kind", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("heads", pa.list_(pa.int8())),
            ("span", pa.list_(pa.int32())),
            ("images", pa.list_(pa.string())),
        ]
    )


def _rows(
    chunk: list[dict[str, Any]], processor: Any, max_length: int, batch_size: int, tally: Tally
) -> Iterator[dict[str, Any]]:
    from armor_model.base.errors import ArmorError
    from armor_model.images import open_image

    drawn = [path for record in chunk for path in sides(record)[1]]
    codes: dict[Path, Any] = {}
    for start in range(0, len(drawn), batch_size):
        codes.update(_codes(processor, [p for p in drawn[start : start + batch_size] if p not in codes]))
    for record in chunk:
        seen, to_draw = sides(record)
        try:
            broken = next((p for p in to_draw if codes[p] is None), None)
            if broken is not None:
                raise Rejected("bad_image", f"{record['id']}: {broken}")
            rule = "bad_image"
            images = [open_image(p) for p in seen]
            rule = "bad_text"
            example = encode(processor, record["type"], to_messages(record, images, [codes[p] for p in to_draw]))
            if len(example) > max_length:
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
            "input_ids": example.input_ids.tolist(),
            "heads": heads.tolist(),
            "span": list(example.prompt_span or ()),
            "images": [str(p) for p in seen],
        }


def _codes(processor: Any, paths: list[Path]) -> dict[Path, Any]:
    """Codes of images, None for one that cannot be read: a batch with a broken one is done one by one."""
    from armor_model.base.errors import ArmorError

    if not paths:
        return {}
    try:
        return dict(zip(paths, processor.image_codes(paths), strict=True))
    except ArmorError:
        if processor.vq is None:
            raise
        if len(paths) == 1:
            return {paths[0]: None}
        return {k: v for path in paths for k, v in _codes(processor, [path]).items()}


class Shards:
    """Tokenised conversations of one or more directories; `pools()` gives what a Mixture reads."""

    def __init__(self, folders: list[Path], processor: Any) -> None:
        """Maps every shard into memory: `datasets` unpacks them once into its cache (five bytes a position on disk,
        shared by all processes of a machine). Raises UserError for shards that this processor would read otherwise."""
        import datasets

        files, sums, ours = [], [], _reading(processor)
        for folder in folders:
            for entry in self._manifest(folder, ours)["shards"]:
                path = folder / entry["name"]
                if not _is_whole(folder, entry):
                    raise UserError(
                        f"{path} is missing, or its sha256 differs from the manifest's; "
                        "run the same armor-train tokenize again: it makes it anew"
                    )
                if entry["rows"]:  # a stretch of bad records leaves an empty shard
                    files.append(str(path))
                    sums.append(entry["sha256"])
        if not files:
            raise UserError(f"no conversations in {', '.join(map(str, folders))}")
        self.sha256 = sha256_text("".join(sums))
        """Of all their contents."""
        # By content: datasets compares times only.
        cache = Path(datasets.config.HF_DATASETS_CACHE) / f"armor-shards-{self.sha256[:16]}"
        self.table = datasets.Dataset.from_parquet(files, cache_dir=str(cache)).data.table
        self.processor = processor
        self._check_ids()
        self._check_pictures()

    def __len__(self) -> int:
        """Conversations."""
        return len(self.table)

    def _manifest(self, folder: Path, ours: dict[str, Any]) -> dict[str, Any]:
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder} has no {MANIFEST}: make it with armor-train tokenize")
        manifest = _read_manifest(folder)
        if not manifest["complete"]:
            raise UserError(f"{folder} is not complete: run armor-train tokenize again, it goes on")
        theirs = manifest["settings"]
        different = [name for name in ours if theirs.get(name) != ours[name]]
        if None in (theirs.get("vq_sha256"), ours["vq_sha256"]) and "vq_sha256" in different:
            different.remove("vq_sha256")  # one of them cannot draw: _check_ids refuses codes then
        if different:
            differences = "; ".join(f"{n} {theirs.get(n)!s:.16}, this one has {ours[n]!s:.16}" for n in different)
            raise UserError(f"{folder} was tokenised for a model with {differences}")
        return manifest

    def _check_ids(self) -> None:
        """Every id is one that its head can say, so that no label lies outside of the logits."""
        p = self.processor
        last = p.first_code_id + p.settings.codebook_size - 1
        for batch in self.table.select(["input_ids", "heads"]).to_batches():
            ids, heads = (batch.column(i).flatten().to_numpy() for i in (0, 1))
            fits = {
                0: ("the vocabulary and the codebook", (ids >= 0) & (ids <= last)),
                1: ("the text head's tokens", (ids >= 0) & (ids <= p.imgbos_id)),
                2: ("the visual head's tokens", (ids == p.imgend_id) | (ids >= p.first_code_id) & (ids <= last)),
            }
            if p.vq is None and (heads == 2).any():
                raise UserError("the shards hold drawn pictures, and this model has no image tokenizer")
            for head, (where, fit) in fits.items():
                wrong = np.flatnonzero((heads == head) & ~fit)
                if len(wrong):
                    raise UserError(f"token {ids[wrong[0]]} is outside of {where}")
            if not np.isin(heads, list(fits)).all():
                raise UserError("the shards give a token to a head that does not exist")

    def _check_pictures(self) -> None:
        """The images to look at are read during training, maybe days later; that they exist is seen now."""
        import pyarrow.compute as pc

        paths = pc.unique(pc.list_flatten(self.table["images"])).to_pylist()
        gone = [path for path in paths if not os.path.isfile(path)]  # noqa: PTH113 - Path.is_file takes twice as long
        if gone:
            raise UserError(f"{len(gone):,} of {len(paths):,} pictures to look at are missing, the first is {gone[0]}")

    def pools(self) -> dict[str, ShardPool]:
        """Type -> examples."""
        kinds = self.table["kind"].combine_chunks().dictionary_encode()
        numbers = kinds.indices.to_numpy()
        return {
            kind: ShardPool(self, np.flatnonzero(numbers == number))
            for number, kind in sorted(enumerate(kinds.dictionary.to_pylist()), key=lambda it: it[1])
        }

    def example(self, row: int) -> Example:
        record = {name: self.table[name][row].as_py() for name in ("kind", "input_ids", "heads", "span", "images")}
        ids, heads = torch.tensor(record["input_ids"]), torch.tensor(record["heads"])

        def labels(head: int) -> torch.Tensor:
            own = torch.where(heads == head, ids, torch.full_like(ids, IGNORE))
            return torch.cat([own[1:], own.new_full((1,), IGNORE)])

        pixels = partial(_cut, record["images"], self.processor) if record["images"] else None
        return Example(record["kind"], ids, labels(1), labels(2), pixels, tuple(record["span"]) or None)


class ShardPool:
    """The conversations of one type."""

    def __init__(self, shards: Shards, rows: np.ndarray) -> None:
        self.shards, self.rows = shards, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.shards.example(int(self.rows[index]))


def _cut(paths: list[str], processor: Any) -> list[torch.Tensor]:
    return [processor.cut(path) for path in paths]
