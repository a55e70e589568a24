"""Where a benchmark's TSV lies: made by a guest profile, else a copy of the published one, or its download."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from armor_eval import tasks
from armor_eval.base.data import Declared, Progress, fetch
from armor_eval.profiles import profile_of
from armor_eval.runs.schema import Profile, Subset
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.table import file_hashes, missing_file
from armor_eval.tasks.understanding.tsv import SETTLED_SECONDS, stand_of
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError
from armor_model.base.files import make_folder, write_file
from armor_model.base.hashing import sha256_json

if TYPE_CHECKING:
    from armor_eval.tasks.understanding.task import Options


def lmu_data() -> Path:
    """VLMEvalKit's folder of published files: `$LMUData`, else `~/LMUData`. Read only, by us."""
    named = os.environ.get("LMUData")  # noqa: SIM112 - VLMEvalKit's spelling
    return Path(named or Path.home() / "LMUData").expanduser()


def locate(benchmark: Benchmark, profile: Profile, data: Path | None) -> Path:
    """The TSV to read; `data` is a folder of TSVs or one file. UserError names what is missing and its source."""
    if data is not None:
        if data.is_file():
            return data
        if not data.is_dir():
            raise UserError(f"--data {data} is neither a folder nor a file")
        return _existing(benchmark, data / benchmark.official.file)
    spec = profile_of(profile)
    if spec.guest is None:
        return _existing(benchmark, lmu_data() / benchmark.official.file)
    return spec.part("understanding").tsv_path(benchmark.dataset, cache_dir() / spec.name)


def content_made(benchmark: Benchmark, profile: Profile) -> str | None:
    """The declared hash of a guest profile's content, which `locate` has checked; None for published data."""
    spec = profile_of(profile)
    return spec.part("understanding").declared()[benchmark.dataset]["sha256"] if spec.guest is not None else None


def download(benchmark: Benchmark, data: Path | None, progress: Progress | None = None) -> None:
    """Fetch the published file into `data`, or VLMEvalKit's folder, unless it is there. RunFailed in one line."""
    if data is not None and data.is_file():
        return
    target = (lmu_data() if data is None else data) / benchmark.official.file
    if target.is_file():
        return
    if benchmark.official.url is None:
        raise missing_file(benchmark, target)

    def fault(file: Path) -> str | None:
        _, md5 = file_hashes(file)
        if benchmark.official.edition(md5) is not None:
            return None
        return f"md5 {md5}, expected {' or '.join(benchmark.official.md5.values())}"

    fetch(benchmark.official.url, target, fault, progress)


def state_of(benchmark: Benchmark, folder: Path) -> tuple[str, str]:
    """(ok, missing or broken; what was found) of a benchmark's file in a folder, by its md5."""
    path = folder / benchmark.official.file
    if not path.is_file():
        part = path.with_name(f"{path.name}.part")
        begun = f"; {part.stat().st_size:,} bytes of it are fetched" if part.is_file() else ""
        return "missing", f"{path.name} is not in {folder}{begun}"
    _, md5 = file_hashes(path)
    edition = benchmark.official.edition(md5)
    if edition is None:
        return "broken", f"{path}: truncated or changed (md5 {md5}, {path.stat().st_size:,} bytes)"
    return "ok", f"{path}: whole, {edition}"


def _existing(benchmark: Benchmark, path: Path) -> Path:
    if not path.is_file():
        raise missing_file(benchmark, path)
    return path


# --- what a run record says of a file, kept: to show a finished run needs no reading of it ---------------------------


log = logging.getLogger(__name__)


class Told(Declared):
    """The part of the record that only reading the file tells."""

    sha256: str
    items: int
    published: bool
    notes: list[str]
    subset: Subset | None
    as_saved: bool
    """Images are shown as VLMEvalKit saves them, which loses pixels."""


def recall(benchmark: Benchmark, profile: str, options: Options, path: Path, tell: Callable[[], Told]) -> Told:
    """What was told before of this very file, by its number, size and times, under the same declaration and options by
    the same code; else what `tell` says now, which is then kept."""
    stand = stand_of(path)
    request = [benchmark.model_dump(mode="json"), profile, {k: str(v) for k, v in asdict(options).items()}]
    cache_file = cache_dir() / "told" / f"{sha256_json([str(path.resolve()), stand, request, _code()])[:32]}.json"
    try:
        return Told.model_validate_json(cache_file.read_bytes())
    except (OSError, ValidationError):
        description = tell()
    if time.time() - stand[4] / 1e9 > SETTLED_SECONDS and stand_of(path) == stand:
        try:
            make_folder(cache_file.parent)
            write_file(cache_file, description.model_dump_json(), sync=False)
        except OSError as error:  # a convenience: the next command reads the file
            log.debug("%s cannot be kept: %s", cache_file, error)
    return description


def _code() -> list[list[int]]:
    """Stands for the code that reads, chooses and checks rows: any change of it tells anew."""
    folder = Path(tasks.__file__).parent
    files = sorted(p for name in ("understanding", "families") for p in (folder / name).glob("*.py"))
    return [[stat.st_size, stat.st_mtime_ns] for stat in (p.stat() for p in files)]
