"""What a run record says of a benchmark's file, kept in the cache: to show a finished run needs no reading of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from armor_eval import tasks
from armor_eval.runs.schema import Subset
from armor_eval.tasks.understanding.tsv import SETTLED_SECONDS, stand_of
from armor_model.base.cache import cache_dir
from armor_model.base.files import make_folder, write_file
from armor_model.base.hashing import sha256_json

if TYPE_CHECKING:
    from armor_eval.tasks.understanding.declare import Benchmark
    from armor_eval.tasks.understanding.task import Options

log = logging.getLogger(__name__)


class Told(BaseModel):
    """The part of the record that only reading the file tells."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
    asked = [benchmark.model_dump(mode="json"), profile, {k: str(v) for k, v in asdict(options).items()}]
    kept = cache_dir() / "told" / f"{sha256_json([str(path.resolve()), stand, asked, _code()])[:32]}.json"
    try:
        return Told.model_validate_json(kept.read_bytes())
    except (OSError, ValidationError):
        told = tell()
    if time.time() - stand[4] / 1e9 > SETTLED_SECONDS and stand_of(path) == stand:
        try:
            make_folder(kept.parent)
            write_file(kept, told.model_dump_json(), sync=False)
        except OSError as error:  # a convenience: the next command reads the file
            log.debug("%s cannot be kept: %s", kept, error)
    return told


def _code() -> list[list[int]]:
    """Stands for the code that reads, chooses and checks rows: any change of it tells anew."""
    folder = Path(tasks.__file__).parent
    files = sorted(p for name in ("understanding", "families") for p in (folder / name).glob("*.py"))
    return [[stat.st_size, stat.st_mtime_ns] for stat in (p.stat() for p in files)]
