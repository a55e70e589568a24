"""Where a number comes from: packages, device, commit, a server's ways, and what it cost."""

from __future__ import annotations

import functools
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from armor_eval.runs.schema import DeviceInfo, Item, Reservation, Run
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
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        resident += torch.cuda.max_memory_allocated()
    return resident


# --- What a run says of how its answers were had from a server -------------------------------------------------------


NOT_GREEDY = "the server refuses the temperature: its answers are drawn at its own default, not greedily"


def with_requests(run: Run, model: object) -> Run:
    """The record with what the model's server wanted said otherwise; what an earlier command learned stays."""
    served = getattr(model, "served", None)
    if not served:
        return run
    known = run.extras.get("served", {})
    served = {name: {**known.get(name, {}), **value} for name, value in {**known, **served}.items()}
    reservations = [one for one in run.reservations if one.kind != "decoding"]
    if "temperature" in served.get("adapted", {}):
        reservations.append(Reservation(kind="decoding", text=NOT_GREEDY))
    return run.model_copy(update={"extras": {**run.extras, "served": served}, "reservations": reservations})


def answer_kinds(items: Iterable[Item]) -> dict[str, int]:
    """How many answers were cut by length, are refusals in the reply's own field, or failed, by kind of failure."""
    counts: Counter[str] = Counter()
    for item in items:
        if item.status == "error":
            counts[f"failed: {failure_kind(item)}"] += 1
        counts["cut by length"] += "length" in (item.extras.get("finish_reason"), item.extras.get("finish"))
        counts["refusal"] += bool(item.extras.get("refusal"))
    return {kind: n for kind, n in sorted(counts.items()) if n}


def failure_kind(item: Item) -> str:
    """What an item without an answer failed with: a server's kind of failure, else what its reason begins with (`data`,
    `image`, an exception's name)."""
    return item.extras.get("failure") or re.split(r": | \(", item.reason or "unknown", maxsplit=1)[0]


def server_remarks(run: Run) -> list[str]:
    """Lines under the table of scores."""
    lines = []
    if kinds := run.extras.get("answers"):
        lines.append("answers: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    if adapted := run.extras.get("served", {}).get("adapted"):
        lines.append("server: " + "; ".join(f"{field}: {how}" for field, how in adapted.items()))
    return lines
