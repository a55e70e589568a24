"""Lets mmdet run without a compiled mmcv, and lets its checkpoints load safely.

`mmcv-lite` has no `mmcv._ext`; importing `mmcv.ops` (which `mmdet.apis` does) asks for it by name. `prepare_mmcv()`
puts a small module in its place, backed by PyTorch for what our detectors use; a real compiled mmcv is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from armor_model.base.jsons import JsonObject
from armor_model.base.runtime import greedy_nms, prepare_torchvision

if TYPE_CHECKING:
    from torch import Tensor


@functools.cache
def prepare_mmcv() -> bool:
    """Put the stand-in for `mmcv._ext` in place before mmdet is imported; False where a compiled one is there."""
    prepare_torchvision()
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return False
    # two notices of every forward pass, about calls inside mmdet that still work
    for notice in (r".*torch\.cuda\.amp\.autocast", r".*torch\.meshgrid"):
        warnings.filterwarnings("ignore", message=notice)
    module = _Extension("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
    operators = {
        "nms": _nms,
        "roi_align_forward": _roi_align_forward,
        "ms_deform_attn_forward": _ms_deform_attn_forward,
    }
    for name, operator in operators.items():
        setattr(module, name, operator)
    sys.modules["mmcv._ext"] = module
    return True


class _Extension(types.ModuleType):
    """Answers every operator name, so that `mmcv.ops` imports; one that is not backed raises by name when called."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> NoReturn:
            raise NotImplementedError(
                f"mmcv.ops needs its compiled operator `{name}`; install a full build of mmcv 2.1"
            )

        return missing


def _nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    return greedy_nms(boxes, scores, iou_threshold, offset)


def _roi_align_forward(
    features_BCHW: Tensor,
    rois_N5: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """mmcv's signature: fills `output` in place. Only average pooling (pool_mode 1), which is what detectors use."""
    if pool_mode != 1:
        raise NotImplementedError("roi_align with max pooling needs a compiled mmcv")
    from torchvision.ops import roi_align

    size = (aligned_height, aligned_width)
    output.copy_(roi_align(features_BCHW, rois_N5, size, spatial_scale, sampling_ratio, aligned))


def _ms_deform_attn_forward(
    value: Tensor, shapes: Tensor, level_start_index: Tensor, locations: Tensor, weights: Tensor, im2col_step: int
) -> Tensor:
    """On CUDA mmcv calls this operator where its CPU path is plain PyTorch already: send it there too."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


@contextlib.contextmanager
def quiet_openmmlab() -> Iterator[None]:
    """Keep mmengine's and mmcv's import-time and build-time notices out of a command's output; errors still pass."""
    import logging

    from mmengine.logging import MMLogger

    MMLogger.get_current_instance()  # made on first use, with a handler of its own
    loggers = [logging.getLogger(name) for name in ("mmengine", "mmdet", "mmcv")] + list(
        MMLogger._instance_dict.values()
    )
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def load_checkpoint(path: Path) -> JsonObject:
    """Read an mmengine/mmdet checkpoint with `weights_only` on: tensors, plain Python, and mmengine's log history.

    A checkpoint written in training pickles `HistoryBuffer`, which names its own methods through `getattr`: that one
    lookup is allowed, on that one class.
    """
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    def history_method(owner: type, name: str) -> object:
        if owner is not HistoryBuffer or name.startswith("_"):
            raise ValueError(f"{path} asks for {owner}.{name} while loading: refused")
        return getattr(owner, name)

    rebuild = np.zeros(0).__reduce__()[0]
    # numpy 1 wrote `numpy.core`, numpy 2 writes `numpy._core`
    arrays: list[object] = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    arrays += [np.ndarray, np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType]
    with torch.serialization.safe_globals([HistoryBuffer, (history_method, "builtins.getattr"), *arrays]):
        checkpoint: JsonObject = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint
