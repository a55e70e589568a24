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

from armor_model.compat import greedy_nms, prepare_torchvision


@functools.cache
def prepare_mmcv() -> bool:
    """Put the stand-in for `mmcv._ext` in place before mmdet is imported. Returns False where a compiled one is there."""
    prepare_torchvision()
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext") is not None:
        return False
    module = _Extension("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
    module.nms = _nms
    module.roi_align_forward = _roi_align_forward
    module.ms_deform_attn_forward = _ms_deform_attn_forward
    sys.modules["mmcv._ext"] = module
    return True


class _Extension(types.ModuleType):
    """Answers every operator name, so that `mmcv.ops` imports; one that is not backed raises by name when called."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(
                f"mmcv.ops needs its compiled operator `{name}`; install a full build of mmcv 2.1"
            )

        return missing


def _nms(boxes, scores, iou_threshold: float, offset: int = 0):
    return greedy_nms(boxes, scores, iou_threshold, offset)


def _roi_align_forward(
    features_BCHW, rois_N5, output, argmax_y, argmax_x, aligned_height: int, aligned_width: int, spatial_scale: float,
    sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """mmcv's signature: fills `output` in place. Only average pooling (pool_mode 1), which is what detectors use."""
    if pool_mode != 1:
        raise NotImplementedError("roi_align with max pooling needs a compiled mmcv")
    from torchvision.ops import roi_align

    size = (aligned_height, aligned_width)
    output.copy_(roi_align(features_BCHW, rois_N5, size, spatial_scale, sampling_ratio, aligned))


def _ms_deform_attn_forward(
    value, spatial_shapes, level_start_index, sampling_locations, attention_weights, im2col_step: int
):
    """On CUDA mmcv calls this operator where its CPU path is plain PyTorch already: send it there too."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)


@contextlib.contextmanager
def quiet_openmmlab() -> Iterator[None]:
    """Keep mmengine's and mmcv's import-time and build-time notices out of a command's output; errors still pass."""
    import logging

    loggers = [logging.getLogger(name) for name in ("mmengine", "mmdet", "mmcv")]
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


def allow_mmengine_checkpoints() -> None:
    """Allow-list the one mmengine class that its training checkpoints pickle, so that `weights_only` can stay on."""
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    # What a pickled array names: numpy 1 files say `numpy.core.multiarray`, numpy 2 ones `numpy._core.multiarray`.
    rebuild = np.zeros(0).__reduce__()[0]
    names = [(rebuild, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, np.ndarray, np.dtype, np.dtypes.Float64DType, np.dtypes.Int64DType, *names]
    )
