"""sha256 of texts, JSON values, files and folders, as hexadecimal digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

MODEL_FILES = frozenset({".safetensors", ".json", ".bin", ".txt", ".model"})
"""Suffixes of what makes a checkpoint: weights, settings, vocabularies; not its card or images."""


def sha256_text(text: str) -> str:
    """Of the text's UTF-8 bytes; lone surrogates, as models utter them, included."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_json(value: object) -> str:
    """Of a value that JSON can hold, independent of key order; anything else in it counts by its `str`."""
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))


def sha256_file(path: Path) -> str:
    """Of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path, suffixes: Collection[str] = MODEL_FILES) -> str:
    """Of the relative names and contents of a folder's files with these suffixes: two equal checkpoints have equal
    ones."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in suffixes and path.is_file():
            digest.update(str(path.relative_to(folder)).encode())
            digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()
