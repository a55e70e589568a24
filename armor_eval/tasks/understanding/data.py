"""Where a benchmark's TSV lies: made by a guest profile, else a copy of the published one, or its download."""

from __future__ import annotations

import os
from pathlib import Path

from armor_eval.base.fetch import Progress, fetch
from armor_eval.profiles import profile_of
from armor_eval.runs.schema import Profile
from armor_eval.tasks.understanding.declare import Benchmark
from armor_eval.tasks.understanding.table import file_hashes, missing_file
from armor_model.base.cache import cache_dir
from armor_model.base.errors import UserError


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
