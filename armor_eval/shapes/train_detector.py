"""Trains the embedded detector (RTMDet-Ins, 0.8 M parameters) on renders of the shapes world; about 15 CPU-minutes.

    armor-eval geneval train-detector --out DIR

Writes the weights as fp16 safetensors with a JSON card of recipe, cost and figures. The bundled pair was made so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.base.mmcv import prepare_mmcv, quiet_openmmlab
from armor_eval.shapes.detector_data import Example, augment, sample_example
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from trainer.shapes.world import SHAPES

if TYPE_CHECKING:
    from mmdet.models import BaseDetector
    from torch import Tensor

    from armor_eval.tasks.geneval.detections import Instances

logger = logging.getLogger(__name__)
INPUT = 128
"""Pixels a side that the network sees."""
WEIGHTS = "rtmdet_ins_shapes.safetensors"
CONFIG = "rtmdet_ins_shapes.py"
CARD = "rtmdet_ins_shapes.card.json"
PRETRAINED = Path(__file__).with_name("pretrained")


@dataclass(frozen=True)
class Recipe:
    steps: int = 2300
    batch: int = 16
    """Images a step."""
    lr: float = 4e-3
    """Peak of AdamW; 5 % linear warm-up, then cosine to 2 % of it."""
    weight_decay: float = 0.05
    ema: float = 0.998
    """Decay of the weights' running mean, which is what is kept."""
    seed: int = 0
    calibration: int = 600
    """Images, drawn from a stream of their own, that fix the score scale."""
    sharpness: float = 4.0
    """Factor on the class logits: right scores become .998, wrong ones near 0. At 12 float32 rounds the right ones to
    1, and the order of two things of a class, which picks the one that a prompt is judged on, would be a tie."""


def build_model() -> BaseDetector:
    """The untrained network of the bundled configuration."""
    prepare_mmcv()
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    with quiet_openmmlab():
        import mmdet.models  # noqa: F401  (fills the registry)
        from mmdet.registry import MODELS

        config = Config.fromfile(PRETRAINED / CONFIG)
        if DefaultScope.get_current_instance() is None:
            DefaultScope.get_instance("armor-eval", scope_name="mmdet")
        model = MODELS.build(config.model)
        model.cfg = config
    model.dataset_meta = {"classes": SHAPES}
    return model


def load_trained(model: BaseDetector, weights: Path, classes: Sequence[str]) -> BaseDetector:
    """Fill the network from a safetensors file; UserError if the file is another network's or names other classes."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "pt") as file:
            named = json.loads((file.metadata() or {}).get("classes", "[]"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{weights} is not the embedded detector: {error}") from None
    own = model.state_dict()
    if tuple(named) != tuple(classes) or {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in own.items()}:
        raise UserError(f"{weights} is not the embedded detector for {', '.join(classes)}")
    model.load_state_dict(state)
    return model.eval()


def collate(model: BaseDetector, examples: Sequence[Example]) -> dict:
    """A training batch in mmdet's form: BGR, enlarged the way the test pipeline enlarges."""
    import cv2
    import torch
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    inputs, samples = [], []
    for example in examples:
        scale = INPUT / example.image.shape[0]
        large = cv2.resize(example.image[..., ::-1], (INPUT, INPUT), interpolation=cv2.INTER_LINEAR)
        inputs.append(torch.from_numpy(np.ascontiguousarray(large.transpose(2, 0, 1))))
        masks = [cv2.resize(m.astype(np.float32), (INPUT, INPUT)) > 0.5 for m in example.masks]
        truth = InstanceData()
        truth.bboxes = HorizontalBoxes(torch.from_numpy(example.boxes * scale))
        truth.labels = torch.from_numpy(example.labels).long()
        truth.masks = BitmapMasks(np.array(masks, np.uint8).reshape(-1, INPUT, INPUT), INPUT, INPUT)
        sample = DetDataSample(gt_instances=truth)
        sample.set_metainfo({"img_shape": (INPUT, INPUT), "ori_shape": (INPUT, INPUT), "scale_factor": (1.0, 1.0)})
        samples.append(sample)
    return model.data_preprocessor({"inputs": inputs, "data_samples": samples}, training=True)


def train(recipe: Recipe, log_every: int = 100) -> BaseDetector:
    """The trained network (running mean of its weights), not yet calibrated."""
    import torch

    torch.manual_seed(recipe.seed)
    model = build_model()
    with quiet_openmmlab():
        model.init_weights()
    model.train()
    rng = np.random.default_rng([recipe.seed, 1])
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    warm = max(1, recipe.steps // 20)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    mean = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.ema), use_buffers=True
    )
    losses: Counter[str] = Counter()
    for step in range(recipe.steps):
        batch = collate(model, [augment(rng, sample_example(rng)) for _ in range(recipe.batch)])
        terms = model(**batch, mode="loss")
        total: Tensor = sum(sum(term) if isinstance(term, list) else term for term in terms.values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        mean.update_parameters(model)
        losses.update({name: _scalar(t) for name, t in terms.items()})
        if (step + 1) % log_every == 0:
            shown = ", ".join(f"{name} {value / log_every:.3f}" for name, value in losses.items())
            logger.info("step %d: %s", step + 1, shown)
            losses.clear()
    return mean.module.eval()


def _scalar(term: Tensor | list[Tensor]) -> float:
    return float(sum(t.detach() for t in term) if isinstance(term, list) else term.detach())


def calibrate(model: BaseDetector, recipe: Recipe) -> float:
    """Rescale the class logits in place so that .3 and .9 mean the same; returns the raw score that becomes .5.

    Quality focal loss teaches a score to estimate the box's IoU: right detections score about .83, so that a threshold
    of .9 would lose most. With logit' = sharpness * (logit - logit(middle)), .3 and .9 lie .21 below and .55 above it.
    """
    import torch

    examples = _stream(recipe.seed, 2, recipe.calibration)
    found = _detect(model, examples)
    wanted = [_multiset(example) for example in examples]
    candidates = np.linspace(0.2, 0.8, 61)
    right = [sum(_counts(f, c) == w for f, w in zip(found, wanted, strict=True)) for c in candidates]
    best = max(right)
    plateau = [c for c, r in zip(candidates, right, strict=True) if r >= best - 1]
    middle = float(np.median(plateau))
    shift = math.log(middle / (1 - middle))
    with torch.no_grad():
        for layer in model.bbox_head.rtm_cls:
            layer.weight.mul_(recipe.sharpness)
            layer.bias.sub_(shift).mul_(recipe.sharpness)
    return middle


def _stream(seed: int, stream: int, n: int, kind: str | None = None) -> list[Example]:
    """Fresh images from a numbered stream, half of them augmented; held-out scenes included."""
    rng = np.random.default_rng([seed, stream])
    examples = [sample_example(rng, training=False, kind=kind) for _ in range(n)]
    return [augment(rng, e) if i % 2 else e for i, e in enumerate(examples)]


def _detect(model: BaseDetector, examples: Sequence[Example], batch: int = 32) -> list[Instances]:
    from armor_eval.shapes.rtmdet import run_batch

    found = []
    for i in range(0, len(examples), batch):
        found += run_batch(model, [example.image for example in examples[i : i + batch]])
    return found


def _multiset(example: Example) -> Counter[int]:
    return Counter(int(label) for label in example.labels)


def _counts(found: Instances, threshold: float) -> Counter[int]:
    return Counter(int(label) for label, score in zip(found.labels, found.scores, strict=True) if score > threshold)


def measure(model: BaseDetector, seed: int = 7, n: int = 400) -> dict[str, dict[str, float | None]]:
    """Fresh images of each kind: share with the exact (class, count) multiset at .3 and at .9, and mean mask IoU."""
    figures = {}
    for i, kind in enumerate(("render", "half-drawn", "cut", "blank", "noise")):
        for form in ("as rendered", "augmented"):
            rng = np.random.default_rng([seed, 10 + i])
            examples = [sample_example(rng, training=False, kind=kind) for _ in range(n)]
            if form == "augmented":
                examples = [augment(rng, example) for example in examples]
            found = _detect(model, examples)
            row: dict[str, float | None] = {"n": n}
            for threshold in (0.3, 0.9):
                hits = [_counts(f, threshold) == _multiset(e) for f, e in zip(found, examples, strict=True)]
                row[f"exact at {threshold}"] = float(np.mean(hits))
            ious = [iou for f, e in zip(found, examples, strict=True) for iou in _ious(f, e)]
            row["mask IoU"] = float(np.mean(ious)) if ious else None
            figures[f"{kind}, {form}"] = row
    return figures


def _ious(found: Instances, example: Example) -> list[float]:
    """For every true object the best IoU of a detection of its class above .3."""
    out = []
    for label, mask in zip(example.labels, example.masks, strict=True):
        picked = found.masks[(found.labels == label) & (found.scores > 0.3)]
        overlaps = [(m & mask).sum() / (m | mask).sum() for m in picked]
        out.append(float(max(overlaps, default=0.0)))
    return out


def save(model: BaseDetector, out: Path, card: JsonObject) -> None:
    """Weights as fp16 safetensors (running statistics in fp32) and the card beside them."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.half().contiguous() if value.is_floating_point() and "running_" not in name else value.contiguous()
        for name, value in model.state_dict().items()
    }
    state = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    save_file(state, out / WEIGHTS, metadata={"classes": json.dumps(SHAPES)})
    digest = hashlib.sha256((out / WEIGHTS).read_bytes()).hexdigest()
    (out / CARD).write_text(json.dumps({**card, "weights_sha256": digest}, indent=2) + "\n")


def train_and_save(out: Path, recipe: Recipe, measured: int = 400) -> None:
    """Train, calibrate, measure on fresh images (`measured` of each kind) and write; on one thread."""
    import torch

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger(__name__).setLevel(logging.INFO)
    torch.set_num_threads(1)
    started = time.process_time()
    model = train(recipe)
    middle = calibrate(model, recipe)
    seconds = time.process_time() - started
    model.half().float()  # judged as it is stored
    figures = measure(model, n=measured)
    for name, row in figures.items():
        logger.info("%s: %s", name, row)
    parameters = sum(p.numel() for p in model.parameters())
    card = {"recipe": asdict(recipe), "cpu_seconds": round(seconds), "parameters": parameters, "calibrated_at": middle}
    save(model, out, {**card, "figures": figures})
