"""Safetensors, read and written one tensor at a time: memory stays at a tensor, however large the checkpoint is.

Plain file reads on purpose: memory-mapped pages count as the process's own, a whole shard of them.
File format: 8 bytes with the header's length, a JSON header (name -> dtype, shape, byte range), the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.base.files import refuse_pointer
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    size: int
    """Bytes."""


class Source:
    """The tensors of a folder of safetensors shards, or of one file. Every header is checked before data is read."""

    def __init__(self, path: Path):
        files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
        if not files:
            pickles = [*path.glob("*.bin"), *path.glob("*.pt"), *path.glob("*.pth")]
            if pickles:
                raise UserError(f"{path} holds pickled weights ({pickles[0].name}); only safetensors are read")
            raise UserError(f"{path} has no *.safetensors")
        self.tensors: dict[str, Stored] = {}
        for file in files:
            refuse_pointer(file)
            for name, stored in read_header(file).items():
                if name in self.tensors:
                    raise UserError(f"{name} is in two files: {self.tensors[name].file.name} and {file.name}")
                self.tensors[name] = stored
        index = path / "model.safetensors.index.json"
        if path.is_dir() and index.is_file():
            self._check_index(index)

    def _check_index(self, index: Path) -> None:
        try:
            weight_map = dict(json_of(index.read_text())["weight_map"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{index} cannot be read: {error}") from error
        for name, file in weight_map.items():
            if name not in self.tensors:
                raise UserError(f"{name} should be in {file}, but is not: a shard is missing or damaged")

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        stored = self.tensors[name]
        buffer = bytearray(stored.size)
        with stored.file.open("rb") as handle:
            handle.seek(stored.offset)
            if handle.readinto(buffer) != stored.size:
                raise UserError(f"{stored.file} is truncated: {name} is not complete")
        if not stored.size:
            return torch.empty(stored.shape, dtype=stored.dtype)
        return torch.frombuffer(buffer, dtype=stored.dtype).view(stored.shape)


def read_header(file: Path) -> dict[str, Stored]:
    """Names, types, shapes and places of a file's tensors. Raises UserError for a corrupt or truncated file."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise UserError(f"{file} is not a safetensors file, or is truncated")
        try:
            header = json_of(handle.read(length))
            header.pop("__metadata__", None)
            found = {}
            for name, entry in header.items():
                first, stop = entry["data_offsets"]
                shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
                found[name] = Stored(file, dtype, shape, 8 + length + first, stop - first)
                if not all(isinstance(n, int) and n >= 0 for n in (first, stop, *shape)):
                    raise ValueError(f"{name} has a shape or a place that is no count")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file} has a damaged header: {error}") from error
    for name, stored in found.items():
        if stored.size != math.prod(stored.shape) * stored.dtype.itemsize or stored.offset < 8 + length:
            raise UserError(f"{file} has a damaged header: {name} has {stored.size} bytes for shape {stored.shape}")
        if stored.offset + stored.size > size:
            raise UserError(f"{file} is truncated: {name} ends at byte {stored.offset + stored.size} of {size}")
    return found


@dataclass(frozen=True)
class Item:
    """A tensor to be written: what it will be, and how to make it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write(items: Iterable[Item], folder: Path, max_shard: int = 4_000_000_000) -> list[Path]:
    """Write tensors as `model*.safetensors` (and an index, if there are several), making one at a time.

    Files appear under their final names only when they are complete; the index comes last. Raises UserError where the
    folder holds weights already: of a model.safetensors and shards, a loader takes the former, whichever is newer.
    """
    if any(folder.glob("*.safetensors*")):
        raise UserError(f"{folder} holds weights already; nothing is written over")
    shards: list[list[Item]] = [[]]
    for item in items:
        if shards[-1] and sum(i.size for i in shards[-1]) + item.size > max_shard:
            shards.append([])
        shards[-1].append(item)
    folder.mkdir(parents=True, exist_ok=True)
    count, weight_map, files = len(shards), {}, []
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
        _write_file(shard, folder / name)
        files.append(folder / name)
        weight_map.update({item.name: name for item in shard})
    if count > 1:
        total = sum(item.size for shard in shards for item in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return files


def _write_file(items: list[Item], file: Path) -> None:
    header: dict[str, JsonObject] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for item in items:
        where = [offset, offset + item.size]
        header[item.name] = {"dtype": NAMES[item.dtype], "shape": list(item.shape), "data_offsets": where}
        offset += item.size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as handle:
            handle.write(struct.pack("<Q", len(encoded)) + encoded)
            for item in items:
                tensor = item.make().to(item.dtype).contiguous()
                if tuple(tensor.shape) != item.shape:
                    raise AssertionError(f"{item.name} was planned as {item.shape}, made as {tuple(tensor.shape)}")
                handle.write(tensor.flatten().view(torch.uint8).numpy().data)
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {file}: {error.strerror}") from error
