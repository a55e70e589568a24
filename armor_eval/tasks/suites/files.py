"""Published files of suites: found among what the user gives, in the cache, or downloaded; known by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from armor_eval.base.data import Progress, benchmarks_dir, fetch
from armor_eval.profiles import OFFICIAL, profile_of
from armor_eval.tasks.suites.declare import Suite, SuiteFile
from armor_eval.tasks.suites.items import SuiteData
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json


def git_blob_id(path: Path) -> str:
    """The id that git gives a file's content: sha1 over `blob LENGTH`, a zero byte and the bytes."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def fault_of(path: Path, file: SuiteFile) -> str | None:
    """What says that this is not the published file; None where it is, or where nothing is declared of it."""
    for kind, wanted, digest in (("sha256", file.sha256, sha256_file), ("git blob", file.git_blob, git_blob_id)):
        if wanted is not None and not (found := digest(path)).startswith(wanted):
            return f"{kind} {found[:16]}, expected {wanted[:16]}"
    return None


def read_data(suite: Suite, given: Sequence[Path], download: bool, progress: Progress | None = None) -> SuiteData:
    """The suite's items from its published files. UserError where one is missing or another one.

    `given`: files, or folders that hold files of the declared names; with several declared files, or suites, each is
    found by its content or name. Nothing need be given of a guest profile's, which makes its own.
    """
    for path in given:
        if not path.exists():
            raise UserError(f"--data {path} does not exist")
    profile = profile_of(suite.profile)
    if profile.guest is not None and not given:
        given = profile.part("suites").made(suite.name, cache_dir() / "suites" / suite.name)
    files = [find_file(suite, file, given, download, progress) for file in suite.files]
    try:
        hashes = [sha256_file(path) for path in files]
        return suite.read(files, hashes[0] if len(hashes) == 1 else sha256_json(hashes))
    except UnicodeDecodeError as error:
        raise UserError(f"{suite.name}: a file is not UTF-8 text: {error}") from None


def find_file(
    suite: Suite, file: SuiteFile, given: Sequence[Path] = (), download: bool = False, progress: Progress | None = None
) -> Path:
    """A published file: among what is given, beside the suite, in the cache, or fetched. UserError where it is not."""
    beside = Path(suite.folder) / file.name if suite.outside else None
    candidates = [path / file.name if path.is_dir() else path for path in given]
    if beside is not None:
        candidates.append(beside)
    if suite.profile != OFFICIAL and not suite.outside and not given:  # a guest's data come with the program
        candidates.append(benchmarks_dir() / suite.profile / file.name)
    there = [path for path in candidates if path.is_file()]
    named = [path for path in there if path.name == file.name] or (there if len(suite.files) == 1 == len(given) else [])
    known = file.sha256 is not None or file.git_blob is not None
    fitting = [path for path in there if fault_of(path, file) is None] if known else named
    if fitting:
        return fitting[0]
    if named:
        raise UserError(
            f"{named[0]} is not the published {file.name} of {suite.name}: {fault_of(named[0], file)}",
            file.where or None,
        )
    cached = cache_dir() / "suites" / suite.name / file.name
    if cached.is_file() and fault_of(cached, file) is None:
        return cached
    if download and file.url is not None:
        fetch(file.url, cached, lambda path: fault_of(path, file), progress)
        return cached
    how = "give it with --data FILE" + (", or fetch it with --download" if file.url else "")
    raise UserError(f"{suite.name} needs {file.name}", f"{how}: {file.where}")
