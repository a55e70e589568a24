"""`armor-train tokenize`: conversations to token ids and image codes once, in checksummed parquet shards that
training reads.

A shard holds, for each conversation, its type, token ids (codes included), which head has to say each token (0
nobody, 1 text,
2 visual), where the request's words stand, and the paths of the pictures that the ViT will look at. So stage 2 never
runs the image tokenizer's encoder. `manifest.json` lists finished shards with their sha256; a killed run goes on
behind them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.batches import Example
from trainer.data.records import Rejected, Tally, read_conversations, sides
from trainer.encode import encode, to_messages
from trainer.errors import DataError
from trainer.losses import IGNORE

MANIFEST = "manifest.json"
VERSION = 1


def tokenize(
    conversations: Path,
    out: Path,
    processor: Any,
    model_name: str,
    shard_size: int = 2048,
    max_length: int = 4096,
    batch_size: int = 32,
    check_files: bool = True,
) -> dict[str, Any]:
    """Write shards for a conversations file; returns the manifest. Called again after a kill, it goes on where it
    was."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    settings = {
        "version": VERSION,
        "conversations_sha256": file_sha256(conversations),
        "model": model_name,
        "vocab_size": processor.settings.vocab_size,
        "codebook_size": processor.settings.codebook_size,
        "codes_per_image": processor.codes_per_image,
        "image_seq_length": processor.settings.image_seq_length,
        "shard_size": shard_size,
        "max_length": max_length,
    }
    out.mkdir(parents=True, exist_ok=True)
    manifest = _start(out, settings)
    tally = Tally()
    records = read_conversations(conversations, tally, check_files)
    for number in itertools.count():
        chunk = list(itertools.islice(records, shard_size))
        if not chunk:
            break
        if number < len(manifest["shards"]):
            continue
        here = Tally()
        rows = list(_rows(chunk, processor, max_length, batch_size, here))
        name = f"shard-{number:06d}.parquet"
        draft = out / f".{name}.draft"
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), draft, compression="zstd")
        digest = file_sha256(draft)
        draft.replace(out / name)
        entry = {"name": name, "sha256": digest, "rows": len(rows), "dropped": dict(here.dropped)}
        manifest["shards"].append(entry)
        _write_manifest(out, manifest)
    manifest["complete"], manifest["read"] = True, tally.to_json()
    _write_manifest(out, manifest)
    return manifest


def _start(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    path = out / MANIFEST
    if not path.exists():
        return {"settings": settings, "shards": [], "complete": False}
    manifest = json.loads(path.read_text())
    different = [k for k in settings if manifest["settings"].get(k) != settings[k]]
    if different:
        raise DataError(
            f"{out} holds shards of other settings ({', '.join(different)} differ); choose another directory"
        )
    return manifest


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    draft = out / ".manifest.draft"
    draft.write_text(json.dumps(manifest, indent=1) + "\n")
    draft.replace(out / MANIFEST)


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
    from armor_model.errors import ArmorError

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
            example = encode(processor, record["type"], to_messages(record, seen, [codes[p] for p in to_draw]))
            if len(example) > max_length:
                raise Rejected("too_long", f"{record['id']}: {len(example)} positions")
        except Rejected as rejected:
            tally.drop(rejected.rule, str(rejected))
            continue
        except ArmorError as error:
            tally.drop("bad_image", f"{record['id']}: {error}")
            continue
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
    """Codes of pictures, None for one that cannot be read: a batch with a broken one is done one by one."""
    from armor_model.errors import ArmorError

    if not paths:
        return {}
    try:
        return dict(zip(paths, processor.image_codes(paths), strict=True))
    except ArmorError:
        if len(paths) == 1:
            return {paths[0]: None}
        return {k: v for path in paths for k, v in _codes(processor, [path]).items()}


def file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


class Shards:
    """Tokenised conversations of one or more directories; `pools()` gives what a Mixture reads."""

    def __init__(self, folders: list[Path], processor: Any, verify: bool = True) -> None:
        """Maps every shard into memory: `datasets` unpacks them once into its cache (five bytes a position on disk,
        shared by all processes of a machine). With `verify`, every checksum is compared first."""
        import datasets

        files, sums = [], []
        for folder in folders:
            manifest = self._manifest(folder, processor)
            for entry in manifest["shards"]:
                path = folder / entry["name"]
                if verify and file_sha256(path) != entry["sha256"]:
                    raise DataError(
                        f"{path} is not what was written: its sha256 differs from the manifest's; tokenize again"
                    )
                files.append(str(path))
                sums.append(entry["sha256"])
        if not files:
            raise DataError(f"no shards in {', '.join(map(str, folders))}")
        contents = hashlib.sha256("".join(sums).encode()).hexdigest()[:16]  # by content: datasets compares times only
        cache = Path(datasets.config.HF_DATASETS_CACHE) / f"armor-shards-{contents}"
        self.table = datasets.Dataset.from_parquet(files, cache_dir=str(cache)).data.table
        self.processor = processor
        self._check_ids(processor)

    def _manifest(self, folder: Path, processor: Any) -> dict[str, Any]:
        path = folder / MANIFEST
        if not path.is_file():
            raise DataError(f"{folder} has no {MANIFEST}: make it with armor-train tokenize")
        manifest = json.loads(path.read_text())
        if not manifest["complete"]:
            raise DataError(f"{folder} is not complete: run armor-train tokenize again, it goes on")
        for name in ("vocab_size", "codebook_size", "image_seq_length"):
            theirs, ours = manifest["settings"][name], getattr(processor.settings, name)
            if theirs != ours:
                raise DataError(f"{folder} was tokenised for a model with {name} {theirs}, this one has {ours}")
        return manifest

    def _check_ids(self, processor: Any) -> None:
        last = processor.first_code_id + processor.settings.codebook_size - 1
        for chunk in self.table["input_ids"].chunks:
            ids = chunk.flatten().to_numpy()
            if len(ids) and (ids.max() > last or ids.min() < 0):
                bad = int(ids.max() if ids.max() > last else ids.min())
                raise DataError(f"token {bad} is outside of the vocabulary and the codebook (0 to {last})")

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
            said = torch.where(heads == head, ids, torch.full_like(ids, IGNORE))
            return torch.cat([said[1:], said.new_full((1,), IGNORE)])

        pixels = torch.cat([_tiles(p, self.processor) for p in record["images"]]) if record["images"] else None
        return Example(record["kind"], ids, labels(1), labels(2), pixels, tuple(record["span"]) or None)


class ShardPool:
    """The conversations of one type."""

    def __init__(self, shards: Shards, rows: np.ndarray) -> None:
        self.shards, self.rows = shards, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.shards.example(int(self.rows[index]))


@lru_cache(maxsize=256)
def _tiles(path: str, processor: Any) -> torch.Tensor:
    from armor_model.images import open_image, tiles

    s = processor.settings
    return tiles(open_image(path), s.image_size, s.max_tiles, s.use_thumbnail)
