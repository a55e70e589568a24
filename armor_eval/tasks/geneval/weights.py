"""Published files that a judge needs: what they are called, where they come from, and fetching them on request only."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from armor_eval.base.data import benchmarks_dir, fetch
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedFile:
    """One entry of benchmarks/geneval/weights.json."""

    file: str
    url: str
    size: str
    sha256_starts: tuple[str, ...]
    """The published file's sha256 begins with one of these (OpenMMLab puts eight digits into the name)."""
    also: str
    option: str


@dataclass(frozen=True)
class LocalFile:
    path: Path
    sha256: str
    published: bool
    """Its hash is a published one; any other is named in the scorer's settings."""


def declared(name: str) -> PublishedFile:
    entry = json.loads((benchmarks_dir() / "geneval" / "weights.json").read_text())[name]
    return PublishedFile(**{**entry, "sha256_starts": tuple(entry["sha256_starts"])})


def locate(name: str, path: Path | None, download: bool) -> LocalFile:
    """The local file; UserError with name, size, hash, address and option where there is none and no --download."""
    entry = declared(name)
    if path is not None:
        if not path.is_file():
            raise UserError(f"{entry.option} {path}: no such file", hint=_needed(entry))
        digest = sha256_file(path)
        return LocalFile(path, digest, digest.startswith(entry.sha256_starts))
    cached = cache_dir() / entry.file
    if cached.is_file():
        return LocalFile(cached, (digest := sha256_file(cached)), digest.startswith(entry.sha256_starts))
    if not download:
        raise UserError(
            f"the judge needs {_needed(entry)}",
            hint=f"get it from {entry.url}, then say {entry.option} FILE; or add --download",
        )
    return _fetch(entry, cached)


def _needed(entry: PublishedFile) -> str:
    hashes = " or ".join(entry.sha256_starts)
    return f"{entry.file} ({entry.size}, sha256 beginning {hashes}; or {entry.also})"


def _fetch(entry: PublishedFile, target: Path) -> LocalFile:
    """Download and check: a broken transfer leaves nothing to be mistaken for the file."""

    def fault(file: Path) -> str | None:
        digest = sha256_file(file)
        return None if digest.startswith(entry.sha256_starts) else f"sha256 {digest[:16]}..., expected {_needed(entry)}"

    fetch(entry.url, target, fault)
    logger.info("downloaded %s", target)
    return LocalFile(target, sha256_file(target), True)
