"""Trains a small image tokenizer (PatchVQ): warm-up as a plain autoencoder, then a k-means++ codebook, then both.

Shapes: B N images, H W S pixels a side, h w patches a side, Z latent width, K codes, N patches.
A codebook trained from random values collapses; one that starts on the latents' own clusters does not. The ARMOR of
the paper uses Chameleon's published VQGAN instead, which is never trained here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from armor_model.base.errors import ArmorError, RunFailed, UserError
from armor_model.base.files import check_free, write_file
from armor_model.base.jsons import JsonObject
from armor_model.base.optional import not_none
from armor_model.vq import PatchVQ
from trainer.config import VQConfig
from trainer.configure import document

PixelSource = Callable[[int], Tensor]
"""Step -> pixels (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class VQOptimization:
    """How the image tokenizer is trained."""

    steps: int = 400
    """Optimizer steps."""
    lr: float = 3e-3
    """Peak learning rate of AdamW, falling by half a cosine."""
    warmup_share: float = 0.3
    """Share of the steps without quantisation."""
    foreground: float = 5.0
    """Extra weight of pixels that are no background: drawings cover a third of an image, and colour is only there."""
    commitment: float = 0.25
    """Weight that keeps latents near their code, as in VQ-VAE."""


@dataclass(frozen=True)
class VQOutcome:
    """What a trained image tokenizer is worth."""

    psnr: float
    """Decibels over the last batch, through the codes."""
    codes_used: int
    """Codes that the last batch needed."""


def foreground_weight(pixels_BCHW: Tensor, extra: float) -> Tensor:
    """(B, 1, H, W): 1 on white, 1 + extra elsewhere and one pixel around it.

    Without the margin, a ring's hole costs as little as background, and rings decode as circles.
    """
    dark_BHW = (pixels_BCHW < 0.9).any(dim=1, keepdim=True).float()
    return 1 + extra * F.max_pool2d(dark_BHW, 3, stride=1, padding=1)


def reconstruction_loss(out_BCHW: Tensor, pixels_BCHW: Tensor, extra: float) -> Tensor:
    weight = foreground_weight(pixels_BCHW, extra)
    difference = out_BCHW - pixels_BCHW
    return (weight * (difference.abs() + difference.square())).sum() / (3 * weight.sum())


def kmeans_plus_plus(points_NZ: Tensor, count: int, rounds: int, generator: torch.Generator) -> Tensor:
    """`count` centres (K, Z): each next one drawn in proportion to its squared distance from the nearest so far, then
    Lloyd.

    With fewer distinct points than centres the rest are jittered copies: no two codes are equal, so nearest is unique.
    """
    centres = [points_NZ[torch.randint(points_NZ.shape[0], (1,), generator=generator)][0]]
    nearest = torch.full((points_NZ.shape[0],), torch.inf, dtype=points_NZ.dtype)
    scale = points_NZ.std()
    while len(centres) < count:
        nearest = torch.minimum(nearest, (points_NZ - centres[-1]).square().sum(dim=1))
        if float(nearest.max()) < 1e-6 * float(scale**2):
            pick = points_NZ[torch.randint(points_NZ.shape[0], (1,), generator=generator)][0]
            centres.append(pick + scale * 3 * torch.randn(pick.shape, generator=generator))
            continue
        centres.append(points_NZ[torch.multinomial(nearest, 1, generator=generator)][0])
    centres_KZ = torch.stack(centres)
    for _ in range(rounds):
        owner = torch.cdist(points_NZ, centres_KZ).argmin(dim=1)
        sums = torch.zeros_like(centres_KZ).index_add_(0, owner, points_NZ)
        counts = torch.bincount(owner, minlength=count).unsqueeze(1)
        centres_KZ = torch.where(counts > 0, sums / counts.clamp(min=1), centres_KZ)
    return centres_KZ


def train_patch_vq(
    vq: PatchVQ,
    pixels: PixelSource,
    how: VQOptimization,
    seed: int,
    on_step: Callable[[int, float], None] | None = None,
) -> VQOutcome:
    """Train in place. `pixels(step)` must be a function of the step alone; `on_step` hears step and loss."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(vq.parameters(), lr=how.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps, eta_min=how.lr * 0.02)
    warmup = round(how.steps * how.warmup_share)
    vq.train()
    for step in range(how.steps):
        batch_BCHW = pixels(step)
        latents_BZhw = vq.encode_latents(batch_BCHW)
        if step == warmup:
            with torch.no_grad():
                points = torch.cat([vq.encode_latents(pixels(how.steps + i)) for i in range(4)])
                points_NZ = points.permute(0, 2, 3, 1).flatten(0, 2)
                vq.codebook.weight.copy_(kmeans_plus_plus(points_NZ, vq.codebook_size, 5, generator))
        if step < warmup:
            loss = reconstruction_loss(vq.decode_latents(latents_BZhw), batch_BCHW, how.foreground)
        else:
            codes_BZhw, _ = vq.quantize(latents_BZhw)
            through = latents_BZhw + (codes_BZhw - latents_BZhw).detach()
            loss = reconstruction_loss(vq.decode_latents(through), batch_BCHW, how.foreground)
            loss = loss + F.mse_loss(codes_BZhw, latents_BZhw.detach())
            loss = loss + how.commitment * F.mse_loss(latents_BZhw, codes_BZhw.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, float(loss.detach()))
    vq.eval()
    return measure(vq, pixels(how.steps + 99))


@torch.no_grad()
def measure(vq: PatchVQ, pixels_BCHW: Tensor) -> VQOutcome:
    """Reconstruction through the codes: pixels in [-1, 1] have a peak-to-peak of 2, hence 4 over the mean square."""
    codes_BHW = vq.encode(pixels_BCHW)
    error = (vq.decode(codes_BHW) - pixels_BCHW).square().mean()
    return VQOutcome(float(10 * torch.log10(4 / error)), int(codes_BHW.unique().numel()))


SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def image_files(sources: Sequence[Path]) -> list[Path]:
    """Images that files and directories mean, sorted. Raises UserError where there are none."""
    for source in sources:
        if not source.exists():
            raise UserError(f"no image or directory at {source}")
    files = [
        path
        for source in sources
        for path in (sorted(source.rglob("*")) if source.is_dir() else [source])
        if path.is_file() and (path == source or path.suffix.lower() in SUFFIXES)
    ]
    if not files:
        raise UserError(f"no images ({', '.join(sorted(SUFFIXES))}) in {', '.join(map(str, sources))}")
    return files


def run_vqgan(config: VQConfig) -> JsonObject:
    """`armor-train vqgan`: train on a folder of images and write the checkpoint, with `vqgan.json` beside it; returns
    that report. Raises UserError and RunFailed."""
    for name in ("images", "out"):
        if not getattr(config, name):
            raise UserError(f"missing option --{name}", f"or {name} = ... in the file of --config")
    files, out = image_files(config.images), not_none(config.out)
    check_free(out)

    from armor_model import load
    from armor_model.base.runtime import quiet_transformers
    from armor_model.images import open_image, to_pixels
    from armor_model.loading import find_model
    from armor_model.vq import build_vq
    from trainer.checkpoints import save_model

    quiet_transformers()
    model, processor = load(find_model(config.model))
    torch.manual_seed(config.seed)
    vq = build_vq(model.config)
    if not isinstance(vq, PatchVQ):
        raise UserError(f"{config.model} draws with a {vq.type} tokenizer; only the patch kind is trained here")
    images, dropped = [], 0
    order = np.random.default_rng([config.seed, 20]).permutation(len(files))
    for number in order[: config.limit]:
        try:
            pixels = to_pixels(open_image(files[number], drawn=True), vq.image_size)
        except ArmorError:
            dropped += 1
            continue
        images.append(((pixels + 1) * 127.5).round().to(torch.uint8))
    if not images:
        raise UserError(f"none of {dropped} files is a readable image, first {files[0]}")
    pixels_N3SS = torch.stack(images)

    def batch(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, 21, step])
        picked = torch.from_numpy(rng.integers(len(pixels_N3SS), size=config.batch_size))
        return pixels_N3SS[picked].float() / 127.5 - 1

    curve: list[tuple[int, float]] = []

    def log_loss(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise RunFailed(f"the loss of step {step} is {loss}; try a smaller --lr")
        if step % max(1, config.steps // 20) == 0 or step == config.steps - 1:
            curve.append((step, loss))

    how = VQOptimization(config.steps, config.lr, foreground=config.foreground)
    outcome = train_patch_vq(vq, batch, how, config.seed, log_loss)
    processor.vq = vq
    save_model(model, processor, out)
    report = {
        **asdict(outcome),
        "codebook_size": vq.codebook_size,
        "pictures": len(images),
        "dropped": dropped,
        "losses": curve,
        "optimization": asdict(how),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "config": document(config),
    }
    write_file(out / "vqgan.json", json.dumps(report, indent=1) + "\n")
    return report
