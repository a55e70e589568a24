"""Tokenised shards, which a stage reads: what `armor-train tokenize` wrote, checked, and mapped into memory.

A shard holds, for each conversation, its type, token ids (codes included), which head has to say each token (0 nobody,
1 text, 2 visual), where the request's words stand, and the images that the ViT will look at: path, size, sha256. So
stage 2 never runs the image tokenizer's encoder. `manifest.json` lists the shards with their sha256, and what made
them: a model that reads images or text in another way is refused.

Version 2 held the images' absolute paths alone, and is still read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from armor_model.base.errors import UserError
from armor_model.base.files import write_file, writing
from armor_model.base.hashing import sha256_file, sha256_text
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of
from armor_model.losses import IGNORE
from armor_model.processing import ProcessorSettings
from trainer.batches import DROPPED, Example, Sizes
from trainer.data.images import cut_tiles, exists

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from armor_model.processing import ArmorProcessor
    from armor_model.vq import ImageTokenizer

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
VERSION, OLDEST = 3, 2
"""Of the format: written, and still read."""
ENTRY = ("name", "sha256", "rows", "read", "dropped", "examples")
"""What the manifest says of a shard; the last three are the tally of its own records."""


# ---- manifests


def read_manifest(folder: Path) -> JsonObject:
    """A manifest of a version that is read, with all its parts. Raises UserError."""
    path = folder / MANIFEST
    try:
        manifest = json_of(path.read_text(encoding="utf-8"))
        if manifest["settings"]["version"] < OLDEST:
            raise UserError(f"{folder} was tokenised by an earlier version; tokenize again into another directory")
        _ = manifest["complete"], [[e[part] for part in ENTRY] for e in manifest["shards"]]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: delete it and run armor-train tokenize again") from error
    return manifest


def write_manifest(out: Path, manifest: JsonObject) -> None:
    with writing(out):
        write_file(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def is_whole(folder: Path, entry: JsonView) -> bool:
    """Whether the shard that a manifest's entry speaks of is there, unharmed."""
    path = folder / entry["name"]
    return path.is_file() and sha256_file(path) == entry["sha256"]


def reading(processor: ArmorProcessor) -> JsonObject:
    """What decides how a processor turns conversations into tokens, codes and tiles."""
    fresh = ProcessorSettings(0, 0, 0)
    settings = asdict(processor.settings)
    # fields that came later are left out where they say nothing new: earlier shards lack them
    for name in ("processor_class", *(n for n in ("base", "pixels") if settings[n] == getattr(fresh, n))):
        del settings[name]
    return {
        **settings,
        "tokenizer_sha256": _tokenizer_sha256(processor.tokenizer),
        "vq_sha256": None if processor.vq is None else _vq_sha256(processor.vq),
    }


def _tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        known = tokenizer.get_vocab()
    else:  # padding and truncation are the last call's, not the tokenizer's
        known = {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _vq_sha256(vq: ImageTokenizer) -> str:
    """In float32, as `ImageTokenizer.load` reads any file: the same for every load of a folder, on any device."""
    digest = hashlib.sha256(json.dumps([vq.type, vq.settings], sort_keys=True).encode())
    for name, value in sorted(vq.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def schema() -> pa.Schema:
    """Columns of a shard."""
    import pyarrow as pa

    image = pa.struct([("path", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("sha256", pa.string())])
    return pa.schema(
        [
            ("id", pa.string()),
            ("kind", pa.string()),
            ("input_ids", pa.list_(pa.int32())),
            ("heads", pa.list_(pa.int8())),
            ("span", pa.list_(pa.int32())),
            ("images", pa.list_(image)),
        ]
    )


# ---- reading


class _Chunk(NamedTuple):
    """A stretch of rows as flat arrays, which are views of the mapped files; row i's are `x[at[i]:at[i + 1]]`."""

    ids: np.ndarray
    at: np.ndarray
    heads: np.ndarray
    heads_at: np.ndarray
    images: pa.ListArray
    root: Path


class Shards:
    """Tokenised conversations of one or more directories; `pools()` gives what a Mixture reads."""

    def __init__(
        self, folders: list[Path], processor: ArmorProcessor, image_root: Path | None = None, bad_images: float = 0.0
    ) -> None:
        """Maps every shard into memory: `datasets` unpacks them once into its cache (five bytes a position on disk,
        shared by all processes of a machine). Raises UserError for shards that this processor would read otherwise.

        image_root: where the images to look at lie now, if not where they lay beside the shards. bad_images: share of
        them that may be gone, as in training, where the next records take their places.
        """
        self.processor = processor
        ours, sums = reading(processor), []
        self._chunks: list[_Chunk] = []
        starts, kinds, lengths, spans = [0], [], [], []
        names: dict[str, int] = {}
        for folder in folders:
            manifest = _manifest_for(folder, ours)
            root = (image_root or folder / manifest["settings"].get("image_root", "")).resolve()
            table, own_sums = _map(folder, manifest)
            sums += own_sums
            for batch in table.to_batches() if table is not None else ():
                columns = {name: batch.column(name) for name in batch.schema.names}
                flat = [(columns[c].values.to_numpy(), columns[c].offsets.to_numpy()) for c in ("input_ids", "heads")]
                self._chunks.append(_Chunk(*flat[0], *flat[1], columns["images"], root))
                starts.append(starts[-1] + len(batch))
                encoded = columns["kind"].dictionary_encode()
                numbers = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
                kinds.append(np.array(numbers)[encoded.indices.to_numpy()])
                lengths.append(np.diff(flat[0][1]))
                spans.append(_spans(columns["span"]))
        if not self._chunks:
            raise UserError(f"no conversations in {', '.join(map(str, folders))}")
        self.sha256 = sha256_text("".join(sums))
        """Of all their contents."""
        self._starts = np.array(starts)
        self._names, self._kinds_N = list(names), np.concatenate(kinds)
        self.lengths_N, self._spans_N2 = np.concatenate(lengths), np.concatenate(spans)
        self._check_ids()
        self._check_images(bad_images)

    def __len__(self) -> int:
        """Conversations."""
        return len(self.lengths_N)

    def _check_ids(self) -> None:
        """Every id is one that its head can say, so that no label lies outside of the logits."""
        p = self.processor
        last = p.first_code_id + p.settings.codebook_size - 1
        for chunk in self._chunks:
            ids, heads = chunk.ids, chunk.heads
            fits = {
                0: ("the vocabulary and the codebook", (ids >= 0) & (ids <= last)),
                1: ("the text head's tokens", (ids >= 0) & (ids <= p.imgbos_id)),
                2: ("the visual head's tokens", (ids == p.imgend_id) | (ids >= p.first_code_id) & (ids <= last)),
            }
            if p.vq is None and (heads == 2).any():
                raise UserError("the shards hold drawn images, and this model has no image tokenizer")
            for head, (where, fit) in fits.items():
                wrong = np.flatnonzero((heads == head) & ~fit)
                if len(wrong):
                    raise UserError(f"token {ids[wrong[0]]} is outside of {where}")
            if not np.isin(heads, list(fits)).all():
                raise UserError("the shards give a token to a head that does not exist")

    def _check_images(self, share: float) -> None:
        """The images to look at are read during training, maybe days later; that they exist is seen now."""
        found: dict[str, bool] = {}
        for chunk in self._chunks:
            flat = chunk.images.flatten()
            for path in (flat if flat.type == "string" else flat.field("path")).unique().to_pylist():
                reference = os.path.join(chunk.root, path)  # noqa: PTH118 - thrice as fast as Path's, for millions
                found[reference] = found[reference] if reference in found else exists(Path(reference))
        gone = [reference for reference, there in found.items() if not there]
        if gone:
            message = f"{len(gone):,} of {len(found):,} images to look at are missing, the first is {gone[0]}"
            if len(gone) > share * len(found):
                raise UserError(message, "--image-root says where they lie now")
            log.warning("%s; the next records take their places", message)

    def pools(self) -> dict[str, ShardPool]:
        """Type -> examples."""
        rows = {name: np.flatnonzero(self._kinds_N == i) for i, name in enumerate(self._names)}
        return {name: ShardPool(self, rows[name]) for name in sorted(rows)}

    def sizes(self, rows_N: np.ndarray) -> Sizes:
        """Of conversations, without reading them."""
        start_N, end_N = self._spans_N2[rows_N].T
        droppable = np.array([name in DROPPED for name in self._names])
        return Sizes(self.lengths_N[rows_N], end_N - start_N, droppable[self._kinds_N[rows_N]])

    def example(self, row: int) -> Example:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        chunk, i = self._chunks[number], row - int(self._starts[number])
        ids = chunk.ids[chunk.at[i] : chunk.at[i + 1]].astype(np.int64)
        heads = chunk.heads[chunk.heads_at[i] : chunk.heads_at[i + 1]]
        images = chunk.images[i].as_py()
        pixels = None
        if images:
            named = [(x, None) if isinstance(x, str) else (x["path"], x["sha256"]) for x in images]
            known = [(chunk.root / path, sha256) for path, sha256 in named]
            count = int((ids == self.processor.settings.image_token_id).sum())
            pixels = partial(cut_tiles, known, count, self.processor)
        start, end = map(int, self._spans_N2[row])
        texts, codes = (torch.from_numpy(_labels(ids, heads, head)) for head in (1, 2))
        kind = self._names[self._kinds_N[row]]
        return Example(kind, torch.from_numpy(ids), texts, codes, pixels, (start, end) if end > start else None)


def _spans(column: pa.ListArray) -> np.ndarray:
    """(rows, 2): start and end of each request's words, 0 and 0 where there is no span."""
    offsets_N, values = column.offsets.to_numpy(), column.values.to_numpy()
    spans_N2 = np.zeros((len(column), 2), dtype=np.int32)
    spans_N2[np.diff(offsets_N) == 2] = values[offsets_N[0] : offsets_N[-1]].reshape(-1, 2)
    return spans_N2


def _labels(ids_T: np.ndarray, heads_T: np.ndarray, head: int) -> np.ndarray:
    """Next-token labels of one head."""
    labels_T = np.full_like(ids_T, IGNORE)
    np.copyto(labels_T[:-1], ids_T[1:], where=heads_T[1:] == head)
    return labels_T


def _map(folder: Path, manifest: JsonObject) -> tuple[pa.Table | None, list[str]]:
    """A folder's shards as one mapped table (None where all are empty), and their sha256. Raises UserError."""
    import datasets

    files, sums = [], []
    for entry in manifest["shards"]:
        if not is_whole(folder, entry):
            raise UserError(
                f"{folder / entry['name']} is missing, or its sha256 differs from the manifest's; "
                "run the same armor-train tokenize again: it makes it anew"
            )
        if entry["rows"]:  # a stretch of bad records leaves an empty shard
            files.append(str(folder / entry["name"]))
            sums.append(entry["sha256"])
    if not files:
        return None, sums
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    # By content: datasets compares times only.
    cache = Path(datasets.config.HF_DATASETS_CACHE) / f"armor-shards-{sha256_text(''.join(sums))[:16]}"
    return datasets.Dataset.from_parquet(files, cache_dir=str(cache)).data.table, sums


def _manifest_for(folder: Path, ours: JsonObject) -> JsonObject:
    """The manifest of a complete folder that this processor would have written too. Raises UserError."""
    if not (folder / MANIFEST).is_file():
        raise UserError(f"{folder} has no {MANIFEST}: make it with armor-train tokenize")
    manifest = read_manifest(folder)
    if not manifest["complete"]:
        raise UserError(f"{folder} is not complete: run armor-train tokenize again, it goes on")
    theirs = manifest["settings"]
    if theirs["version"] > VERSION:
        raise UserError(f"{folder} was tokenised by a later version of armor-train")
    different = [name for name in ours if theirs.get(name) != ours[name]]
    if None in (theirs.get("vq_sha256"), ours["vq_sha256"]) and "vq_sha256" in different:
        different.remove("vq_sha256")  # one of them cannot draw: _check_ids refuses codes then
    if different:
        differences = "; ".join(f"{n} {theirs.get(n)!s:.16}, this one has {ours[n]!s:.16}" for n in different)
        raise UserError(f"{folder} was tokenised for a model with {differences}")
    return manifest


class ShardPool:
    """The conversations of one type."""

    def __init__(self, shards: Shards, rows: np.ndarray) -> None:
        self.shards, self.rows = shards, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.shards.example(int(self.rows[index]))

    def first(self, count: int) -> ShardPool:
        """Those that come first, to hold the others back."""
        return ShardPool(self.shards, self.rows[:count])

    def sizes(self, indices_N: np.ndarray) -> Sizes:
        """Of conversations, without reading them."""
        return self.shards.sizes(self.rows[indices_N])
