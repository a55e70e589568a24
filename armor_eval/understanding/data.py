"""Where a benchmark's TSV lies: generated for the shapes profile, a local copy of the published one else."""

from __future__ import annotations

import os
from pathlib import Path

from armor_eval.errors import UserError
from armor_eval.runs.schema import Profile
from armor_eval.understanding.declare import Benchmark
from armor_eval.understanding.table import missing_file


def cache_dir() -> Path:
    """`$ARMOR_EVAL_CACHE`, else `armor-eval` under the user's cache folder: derived files only, safe to delete."""
    named = os.environ.get("ARMOR_EVAL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armor-eval"
    return base.expanduser()


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
    if profile == "official":
        return _existing(benchmark, lmu_data() / benchmark.official.file)
    from armor_eval.shapes.understanding import tsv_path

    return tsv_path(benchmark.dataset, cache_dir() / "shapes")


def shapes_content(benchmark: Benchmark) -> str:
    """The declared hash of the generated file's content, which `locate` has checked."""
    from armor_eval.shapes.understanding import declared

    return declared()[benchmark.dataset]["sha256"]


def _existing(benchmark: Benchmark, path: Path) -> Path:
    if not path.is_file():
        raise missing_file(benchmark, path)
    return path
