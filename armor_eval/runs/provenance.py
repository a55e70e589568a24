"""Where a number comes from: packages, device, commit, fingerprints, and what it cost."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from armor_eval.runs.schema import DeviceInfo
from armor_model.base.devices import peak_resident_bytes
from armor_model.base.hashing import sha256_text

RECORDED_PACKAGES = (
    "armor-eval",
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "diffusers",
    "ms-vlmeval",
    "mmdet",
    "mmengine",
    "mmcv-lite",
    "mmcv",
    "open-clip-torch",
    "numpy",
    "pandas",
    "scipy",
    "pillow",
    "pydantic",
)


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def packages() -> dict[str, str]:
    """Versions of what a score could depend on, read without importing any of it."""
    found = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def device(processes: int = 1) -> DeviceInfo:
    """The machine, without its name. Asks torch only where the command has imported it already."""
    host = sha256_text(platform.node())
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return DeviceInfo(
            kind=torch.cuda.get_device_name(0),
            count=torch.cuda.device_count(),
            processes=processes,
            hostname_sha256=host,
        )
    threads = torch.get_num_threads() if torch is not None else os.cpu_count()
    return DeviceInfo(kind="cpu", count=1, processes=processes, threads=threads, hostname_sha256=host)


@functools.cache
def git_commit() -> str | None:
    """Commit of the checkout this code runs from, `+dirty` where tracked files differ; None when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{head}+dirty" if dirty else head


def _git(root: Path, *words: str) -> str:
    # `status` refreshes the index under a lock: a kill in that moment can leave an index.lock, which stops all of git.
    words = ("git", "--no-optional-locks", "-C", str(root), *words)
    done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


class Clock:
    """Wall and CPU seconds (of this process and its ended children) since it was made."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._cpu = self._cpu_now()

    @staticmethod
    def _cpu_now() -> float:
        times = os.times()
        return time.process_time() + times.children_user + times.children_system

    def wall(self) -> float:
        return time.monotonic() - self._wall

    def cpu(self) -> float:
        return self._cpu_now() - self._cpu


def peak_memory_bytes() -> int:
    """Highest resident size of this process so far, plus the accelerator's peak where torch is loaded."""
    resident = peak_resident_bytes()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        resident += torch.cuda.max_memory_allocated()
    return resident
