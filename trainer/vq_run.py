"""`armor-train vqgan`: a folder of pictures to a checkpoint whose image tokenizer was trained on them.

Shapes: N pictures, S pixels a side.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError, TrainingError
from trainer.folders import check_free

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


@dataclass(frozen=True)
class VQRequest:
    """What was asked; the fields are the command's options."""

    images: list[Path]
    out: Path
    model: str = "armor-nano"
    steps: int = 400
    batch_size: int = 64
    lr: float = 3e-3
    foreground: float = 0.0
    limit: int = 20_000
    seed: int = 0


def picture_files(sources: list[Path]) -> list[Path]:
    """Pictures that files and directories mean, sorted. Raises DataError where there are none."""
    for source in sources:
        if not source.exists():
            raise DataError(f"no picture or directory at {source}")
    found = [
        path
        for source in sources
        for path in (sorted(source.rglob("*")) if source.is_dir() else [source])
        if path.is_file() and (path == source or path.suffix.lower() in SUFFIXES)
    ]
    if not found:
        raise DataError(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, sources))}")
    return found


def run_vqgan(asked: VQRequest) -> dict[str, Any]:
    """Train and write the checkpoint, with `vqgan.json` beside it; returns that report. Raises DataError and
    TrainingError."""
    files = picture_files(asked.images)
    check_free(asked.out)
    if not 0 < asked.lr < math.inf:
        raise DataError(f"--lr is above 0, not {asked.lr:g}")

    import numpy as np
    import torch

    from armor_model import bundled, load
    from armor_model.base.errors import ArmorError
    from armor_model.images import open_image, to_pixels
    from armor_model.loading import quiet_transformers
    from armor_model.vq import PatchVQ, build_vq
    from trainer.folders import save_model
    from trainer.vq import VQOptimization, train_patch_vq

    quiet_transformers()
    model, processor = load(bundled("armor-nano") if asked.model == "armor-nano" else asked.model)
    torch.manual_seed(asked.seed)
    vq = build_vq(model.config)
    if not isinstance(vq, PatchVQ):
        raise DataError(f"{asked.model} draws with a {vq.type} tokenizer; only the patch kind is trained here")
    pictures, dropped = [], 0
    order = np.random.default_rng([asked.seed, 20]).permutation(len(files))
    for number in order[: asked.limit]:
        try:
            pixels = to_pixels(open_image(files[number]), vq.image_size)
        except ArmorError:
            dropped += 1
            continue
        pictures.append(((pixels + 1) * 127.5).round().to(torch.uint8))
    if not pictures:
        raise DataError(f"none of {dropped} files is a readable picture, first {files[0]}")
    pixels_N3SS = torch.stack(pictures)

    def batch(step: int) -> torch.Tensor:
        rng = np.random.default_rng([asked.seed, 21, step])
        picked = torch.from_numpy(rng.integers(len(pixels_N3SS), size=asked.batch_size))
        return pixels_N3SS[picked].float() / 127.5 - 1

    curve: list[tuple[int, float]] = []

    def heard(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of step {step} is {loss}; try a smaller --lr")
        if step % max(1, asked.steps // 20) == 0 or step == asked.steps - 1:
            curve.append((step, loss))

    how = VQOptimization(asked.steps, asked.lr, foreground=asked.foreground)
    outcome = train_patch_vq(vq, batch, how, asked.seed, heard)
    processor.vq = vq
    save_model(model, processor, asked.out)
    report = {
        **asdict(outcome),
        "codebook_size": vq.codebook_size,
        "pictures": len(pictures),
        "dropped": dropped,
        "losses": curve,
        "optimization": asdict(how),
        "batch_size": asked.batch_size,
        "seed": asked.seed,
    }
    (asked.out / "vqgan.json").write_text(json.dumps(report, indent=1) + "\n")
    return report
