"""Choice of device and number type. torch is imported when a function is called."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError, did_you_mean, reason_of

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Number types that weights may be asked for in."""


def local_rank() -> int:
    """This process's number on its machine, as torchrun and accelerate set it; 0 for a process alone."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def choose_device(name: str | None = None) -> str:
    """The device named, checked; by default this process's own GPU, or the CPU where there is none."""
    import torch

    if name is not None:
        return check_device(name)
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{local_rank() % torch.cuda.device_count()}" if "LOCAL_RANK" in os.environ else "cuda"


def check_device(name: str) -> str:
    """The name of a device that torch can compute on here. Raises UserError."""
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # not known; not built in; `meta` has no data
        raise UserError(f"cannot use device {name!r}: {reason_of(error)}") from error
    return name


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take on a device; of a CPU those of the machine, or of its control group."""
    import torch

    if device.type == "cuda":
        own = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + own)
    found = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError):  # no Linux
        line = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemAvailable"))
        found = [1024 * int(line.split()[1])]
    with suppress(OSError, ValueError):  # no control group, or one without a limit (`max`)
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(limit - used)
    return max(0, min(found))


def check_dtype(name: str | None) -> str | None:
    """The name of a number type that weights can have; None for None. Raises UserError. Imports nothing."""
    if name is not None and name not in DTYPES:
        raise UserError(f"unknown type {name!r}{did_you_mean(name, DTYPES)}", f"one of {', '.join(DTYPES)}")
    return name


def torch_dtype(name: str | None) -> torch.dtype | None:
    """torch's type of that name, None for None. Raises UserError."""
    import torch

    return None if check_dtype(name) is None else getattr(torch, str(name))


def peak_resident_bytes() -> int:
    """Highest resident memory of this process so far. On Linux not `ru_maxrss`, which a child inherits from the process
    that started it: a run from a notebook would be charged with the notebook."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
