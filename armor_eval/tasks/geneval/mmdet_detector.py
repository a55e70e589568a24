"""Runs mmdet detectors: batched, RGB in, boxes and masks in picture pixels out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from armor_eval.tasks.geneval.found import Found


def run_batch(model, pictures: Sequence[np.ndarray]) -> list[Found]:
    """mmdet's own test pipeline and `test_step` on many RGB uint8 [H, W, 3] pictures in one forward pass.

    `inference_detector(list)` would loop one at a time.
    """
    import torch
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate

    pipeline = Compose(model.cfg.test_pipeline)
    # mmdet reads BGR
    data = [pipeline({"img": np.ascontiguousarray(p[..., ::-1]), "img_id": i}) for i, p in enumerate(pictures)]
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(data))
    found = []
    for sample in samples:
        seen = sample.pred_instances.cpu().numpy()
        order = np.argsort(-seen.scores, kind="stable")
        found.append(Found(seen.labels[order], seen.scores[order], seen.bboxes[order], seen.masks[order]))
    return found
