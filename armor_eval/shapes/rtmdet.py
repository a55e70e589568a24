"""RTMDet-Ins for a whole batch at once: mmdet's network, its post-processing without a Python loop an image.

Shape legend: B images of one size, P priors of all levels, C classes, n detections of the whole batch, K dynamic
convolution parameters, h x w mask prototypes, H x W image pixels.

mmdet builds a dozen record objects an image, which costs as much as the network does at this size. A test holds the
results equal to mmdet's own `test_step`, which also does the work wherever a level has more candidates than `nms_pre`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.tasks.geneval.detections import Instances

if TYPE_CHECKING:
    from mmdet.models import BaseDetector, RTMDetInsSepBNHead
    from mmengine.config import ConfigDict
    from torch import Tensor


def detect_batch(model: BaseDetector, images: Sequence[np.ndarray]) -> list[Instances]:
    """RGB uint8 [H, W, 3] images of one size, in order."""
    import mmcv
    import torch

    scale = next(step["scale"] for step in model.cfg.test_pipeline if step["type"].endswith("Resize"))
    resized = [mmcv.imrescale(np.ascontiguousarray(p[..., ::-1]), scale, interpolation="bilinear") for p in images]
    size, inner = images[0].shape[:2], resized[0].shape[:2]
    processor = model.data_preprocessor
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack(resized)).to(processor.mean.device).permute(0, 3, 1, 2).float()
        pixels = (pixels - processor.mean) / processor.std
        divisor = processor.pad_size_divisor
        pixels = torch.nn.functional.pad(pixels, (0, -inner[1] % divisor, 0, -inner[0] % divisor))
        outputs = model.bbox_head(model.extract_feat(pixels))
        found = _detections(model.bbox_head, outputs, inner, size)
    return run_batch(model, images) if found is None else found


def _detections(
    head: RTMDetInsSepBNHead,
    outputs: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor], Tensor],
    inner: tuple[int, int],
    size: tuple[int, int],
) -> list[Instances] | None:
    """None where an image has more candidates in a level than mmdet would look at."""
    import torch

    scores, distances, kernels, prototypes = outputs
    settings = head.test_cfg
    sizes = [level.shape[-2:] for level in scores]
    priors_P4 = torch.cat(head.prior_generator.grid_priors(sizes, device=prototypes.device, with_stride=True))
    scores_BPC = _flat(scores).sigmoid()
    b, p, c = (scores_BPC > settings.score_thr).nonzero(as_tuple=True)
    level_of_P = torch.cat([torch.full((h * w,), i, device=p.device) for i, (h, w) in enumerate(sizes)])
    if len(b) and int(torch.bincount(b * len(sizes) + level_of_P[p]).max()) > settings.nms_pre:
        return None
    boxes = _boxes(priors_P4[p], _flat(distances)[b, p], inner, size)
    chosen = scores_BPC[b, p, c]
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    big = (width > settings.min_bbox_size) & (height > settings.min_bbox_size)
    kept = _suppress(b, boxes, chosen, big, settings, len(scores_BPC))
    b, p, c, boxes, chosen = b[kept], p[kept], c[kept], boxes[kept], chosen[kept]
    masks = _masks(head, prototypes[b], _flat(kernels)[b, p], priors_P4[p], inner, size)
    b, arrays = b.cpu().numpy(), [a.cpu().numpy() for a in (c, chosen, boxes, masks)]
    return [Instances(*(a[b == i] for a in arrays)) for i in range(len(scores_BPC))]


def _flat(levels: Sequence[Tensor]) -> Tensor:
    """[B, X, h, w] a level -> [B, P, X]."""
    import torch

    return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)


def _boxes(priors_n4: Tensor, distances_n4: Tensor, inner: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """x1, y1, x2, y2 in image pixels: clipped to the network's input, then scaled back."""
    import torch

    low, high = priors_n4[:, :2] - distances_n4[:, :2], priors_n4[:, :2] + distances_n4[:, 2:]
    limit = torch.tensor([inner[1], inner[0]], device=low.device, dtype=low.dtype)
    boxes = torch.cat([low.clamp(min=0).minimum(limit), high.clamp(min=0).minimum(limit)], 1)
    back = [size[1] / inner[1], size[0] / inner[0]]
    return boxes * boxes.new_tensor(back * 2)


def _suppress(b: Tensor, boxes: Tensor, scores: Tensor, big: Tensor, settings: ConfigDict, images: int) -> Tensor:
    """Indices that survive class-agnostic suppression, image by image, by falling score."""
    import torch

    image, boxes, scores, big = (t.cpu().numpy() for t in (b, boxes, scores, big))
    kept: list[int] = []
    for i in range(images):
        mine = np.flatnonzero((image == i) & big)
        mine = mine[np.argsort(-scores[mine], kind="stable")]
        alive = np.ones(len(mine), bool)
        iou = _iou(boxes[mine])
        survivors = []
        for k in range(len(mine)):
            if alive[k]:
                survivors.append(int(mine[k]))
                alive[k + 1 :] &= ~(iou[k, k + 1 :] > settings.nms.iou_threshold)
        kept += survivors[: settings.max_per_img]
    return torch.tensor(kept, dtype=torch.long, device=b.device)


def _iou(boxes_n4: np.ndarray) -> np.ndarray:
    low = np.maximum(boxes_n4[:, None, :2], boxes_n4[None, :, :2])
    high = np.minimum(boxes_n4[:, None, 2:], boxes_n4[None, :, 2:])
    overlap = (high - low).clip(min=0).prod(-1)
    area = (boxes_n4[:, 2:] - boxes_n4[:, :2]).prod(-1)
    return overlap / (area[:, None] + area[None] - overlap)


def _masks(
    head: RTMDetInsSepBNHead,
    prototypes_nMhw: Tensor,
    kernels_nK: Tensor,
    priors_n4: Tensor,
    inner: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Every detection's own little network over the prototypes and the place relative to its prior; bool [n, H, W]."""
    import torch
    import torch.nn.functional as F

    n, _, h, w = prototypes_nMhw.shape
    if n == 0:
        return torch.zeros((0, *size), dtype=torch.bool)
    grid = head.prior_generator.single_level_grid_priors((h, w), level_idx=0, device=priors_n4.device)
    place = (priors_n4[:, None, :2] - grid[None]) / (priors_n4[:, None, 2:3] * 8)
    x = torch.cat([place.transpose(1, 2), prototypes_nMhw.flatten(2)], 1)
    layers = len(head.weight_nums)
    parts = kernels_nK.split(head.weight_nums + head.bias_nums, 1)
    for i in range(layers):
        weight, bias = parts[i].unflatten(1, (-1, x.shape[1])), parts[layers + i]
        x = torch.baddbmm(bias[:, :, None], weight, x)
        x = x.relu() if i < layers - 1 else x
    logits = x.view(1, n, h, w)
    logits = F.interpolate(logits, scale_factor=head.prior_generator.strides[0][0], mode="bilinear")
    whole = [math.ceil(logits.shape[-2] * size[0] / inner[0]), math.ceil(logits.shape[-1] * size[1] / inner[1])]
    logits = F.interpolate(logits, size=whole, mode="bilinear", align_corners=False)[0, :, : size[0], : size[1]]
    return logits.sigmoid() > head.test_cfg.mask_thr_binary


def run_batch(model: BaseDetector, images: Sequence[np.ndarray]) -> list[Instances]:
    """mmdet's own test pipeline and `test_step` on many RGB uint8 [H, W, 3] images in one forward pass.

    `inference_detector(list)` would loop one at a time.
    """
    import torch
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate

    pipeline = Compose(model.cfg.test_pipeline)
    # mmdet reads BGR
    data = [pipeline({"img": np.ascontiguousarray(p[..., ::-1]), "img_id": i}) for i, p in enumerate(images)]
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(data))
    found = []
    for sample in samples:
        seen = sample.pred_instances.cpu().numpy()
        order = np.argsort(-seen.scores, kind="stable")
        found.append(Instances(seen.labels[order], seen.scores[order], seen.bboxes[order], seen.masks[order]))
    return found
