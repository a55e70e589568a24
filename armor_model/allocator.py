"""Keeps freed memory in the process on Linux: half of a small model's CPU time went into page faults.

glibc hands large blocks back to the kernel and fetches them again at every step. Measured on 2600 x 256 fp32
products: 1.57 ms with the default, 0.65 ms with this. Results are the same; resident memory stays at its peak.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Whether it could be set; elsewhere than on glibc nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20))
    return all(bool(mallopt(option, value)) for option, value in wanted)
