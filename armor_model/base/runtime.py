"""Third-party libraries made to behave: torchvision beside a CPU-only torch, transformers' notices, glibc's memory."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import logging
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@functools.cache
def prepare_torchvision() -> bool:
    """Make `import torchvision` work beside a CPU-only torch: declare its missing operators if, and only if, its own
    extension cannot. Returns True if it had to. Call it before the first import that meets torchvision.

    The package registries carry torchvision as a CUDA build only. Beside a CPU torch its C extension cannot be loaded,
    so the operators that its Python part registers fake kernels for are unknown and the import dies (`operator
    torchvision::nms does not exist`), and with it transformers' model classes, open_clip and vlmeval.

    Declaring an operator that the extension declares later kills the process, so the extension gets the first word:
    only after it failed to load (by the call torchvision makes itself) are the two schemas declared, with a CPU `nms`.
    `torchvision.ops.nms` still refuses (it asks whether the extension loaded); transforms, models and roi_align work.
    """
    import torch

    if torch.version.cuda is not None or torch.version.hip is not None or "torchvision" in sys.modules:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    package = Path(spec.submodule_search_locations[0])
    for extension in sorted(package.glob("_C*.so")) + sorted(package.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(extension))
            return False
        except OSError:  # links CUDA libraries that a CPU torch lacks
            continue
    _declare(torch)
    return True


def _declare(torch: ModuleType) -> None:
    library = _library()
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", greedy_nms, "CPU")


@functools.cache
def _library() -> torch.library.Library:
    """Kept for the life of the process: dropping the object removes its operators."""
    import torch

    return torch.library.Library("torchvision", "FRAGMENT")


def greedy_nms(boxes_N4: torch.Tensor, scores_N: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    """Indices of the boxes (x1, y1, x2, y2) that survive greedy suppression, by falling score; ties keep their order.

    `offset` 1 counts pixels inclusively (the old mmcv convention). Same rule as torchvision's operator: a box goes if
    its IoU with an earlier survivor is strictly above the threshold.
    """
    import torch

    order = scores_N.argsort(descending=True, stable=True)
    boxes = boxes_N4[order].float()
    x1, y1, x2, y2 = boxes.unbind(1)
    area_N = (x2 - x1 + offset) * (y2 - y1 + offset)
    alive_N = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    keep: list[int] = []
    for i in range(len(boxes)):
        if not alive_N[i]:
            continue
        keep.append(i)
        rest = slice(i + 1, None)
        width = (torch.minimum(x2[i], x2[rest]) - torch.maximum(x1[i], x1[rest]) + offset).clamp(min=0)
        height = (torch.minimum(y2[i], y2[rest]) - torch.maximum(y1[i], y1[rest]) + offset).clamp(min=0)
        overlap = width * height
        iou = overlap / (area_N[i] + area_N[rest] - overlap)
        alive_N[rest] &= ~(iou > iou_threshold)
    return order[torch.tensor(keep, dtype=torch.long, device=order.device)]


def quiet_transformers() -> None:
    """Without the progress bars and notices that transformers prints while loading: a command line prints its own."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


def die_with_parent() -> None:
    """Have this process killed when the one that started it ends, however that ends. Elsewhere than on Linux nothing
    happens."""
    death_signal = 1  # PR_SET_PDEATHSIG
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(death_signal, signal.SIGKILL)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Keep freed memory in the process; whether it could be set. Elsewhere than on glibc nothing happens.

    glibc hands large blocks back to the kernel and fetches them again at every step: half of a small model's CPU time
    went into page faults. Measured on 2600 x 256 fp32 products: 1.57 ms with the default, 0.65 ms with this. Results
    are the same; resident memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20))
    return all(bool(mallopt(option, value)) for option, value in wanted)
