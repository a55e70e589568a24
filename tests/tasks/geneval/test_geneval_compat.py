"""The import shims: torchvision beside a CPU torch, mmcv without its compiled part, checkpoints read safely."""

import pickle

import numpy as np
import pytest

from armor_eval.base import mmcv
from armor_model.base.runtime import greedy_nms, prepare_torchvision


def test_torchvision_imports_and_transforms_work():
    prepare_torchvision()
    import torch
    from torchvision.ops import box_iou, roi_align
    from torchvision.transforms import v2

    assert v2.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)
    assert float(box_iou(torch.tensor([[0, 0, 2, 2.0]]), torch.tensor([[0, 0, 2, 1.0]]))) == 0.5
    assert roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0, 0, 2, 2.0]])], 2).shape == (1, 1, 2, 2)


def test_the_shim_keeps_out_of_the_way_of_an_accelerator(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert prepare_torchvision.__wrapped__() is False


def test_greedy_suppression_against_brute_force():
    import torch

    rng = np.random.default_rng(0)
    for _ in range(50):
        n = int(rng.integers(0, 30))
        low = rng.integers(0, 12, (n, 2)) * 1.0
        boxes = np.hstack([low, low + rng.integers(1, 10, (n, 2))])
        scores = rng.choice([0.3, 0.5, 0.9, 0.95], n)
        kept = []
        for i in sorted(range(n), key=lambda i: -scores[i]):
            if all(_iou(boxes[i], boxes[j]) <= 0.5 for j in kept):
                kept.append(i)
        found = greedy_nms(torch.tensor(boxes).reshape(-1, 4).float(), torch.tensor(scores), 0.5)
        assert found.tolist() == kept


def _iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return np.float32(width * height) / np.float32(area - width * height)


def test_an_operator_that_is_not_backed_says_its_name():
    mmcv.prepare_mmcv()
    import torch
    from mmcv.ops import nms, roi_pool

    boxes, _ = nms(torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8.0]]), torch.tensor([0.5, 0.9]), 0.5)
    assert boxes.tolist() == [[0, 0, 9, 8, pytest.approx(0.9)]]
    with pytest.raises(NotImplementedError, match="roi_pool_forward"):
        roi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)


def test_deformable_attention_goes_to_pytorch():
    """The compiled operator's entry, which mmcv calls on CUDA, gives what mmcv's own PyTorch path gives."""
    mmcv.prepare_mmcv()
    import torch
    from mmcv.ops.multi_scale_deform_attn import ext_module, multi_scale_deformable_attn_pytorch

    torch.manual_seed(0)
    shapes = torch.tensor([[4, 4], [2, 2]])
    value, where = torch.randn(2, 20, 2, 4), torch.rand(2, 3, 2, 2, 3, 2)
    weights = torch.rand(2, 3, 2, 2, 3)
    start = torch.tensor([0, 16])
    ours = ext_module.ms_deform_attn_forward(value, shapes, start, where, weights, im2col_step=64)
    assert torch.equal(ours, multi_scale_deformable_attn_pytorch(value, shapes, where, weights))


def test_a_training_checkpoint_loads_with_weights_only(tmp_path):
    mmcv.prepare_mmcv()
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    content = {"state_dict": {"w": torch.ones(2)}, "message_hub": {"loss": HistoryBuffer([1.0, 3.0], [1, 1])}}
    torch.save(content, tmp_path / "c.pth")
    loaded = mmcv.load_checkpoint(tmp_path / "c.pth")
    assert loaded["message_hub"]["loss"].mean() == 2


class _Evil:
    def __reduce__(self):
        return (getattr, (np.ndarray, "tofile"))


def test_a_checkpoint_that_reaches_further_is_refused(tmp_path):
    mmcv.prepare_mmcv()
    import torch

    torch.save({"state_dict": {}, "x": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        mmcv.load_checkpoint(tmp_path / "evil.pth")
