"""Trains armor-nano's image tokenizer (PatchVQ): warm-up as a plain autoencoder, then a k-means++ codebook, then both
together.

Shapes: B pictures, H W pixels, h w patches a side, Z latent width, K codes, N patches.
A codebook trained from random values collapses; one that starts on the latents' own clusters does not. The ARMOR of
the paper uses Chameleon's published VQGAN instead, which is never trained here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from armor_model.vq import PatchVQ

PixelSource = Callable[[int], Tensor]
"""Step -> pixels (B, 3, H, W) in [-1, 1]."""


@dataclass(frozen=True)
class VQOptimization:
    steps: int = 400
    lr: float = 3e-3
    warmup_share: float = 0.3
    """Share of the steps without quantisation."""
    foreground: float = 5.0
    """Extra weight of pixels that are no background: shapes cover a third of a picture, and colour is only there."""
    commitment: float = 0.25
    """Weight that keeps latents near their code, as in VQ-VAE."""


@dataclass(frozen=True)
class VQOutcome:
    psnr: float
    """Decibels over the last batch, through the codes."""
    codes_used: int
    """Codes that the last batch needed."""


def foreground_weight(pixels_BCHW: Tensor, extra: float) -> Tensor:
    """(B, 1, H, W): 1 on white, 1 + extra elsewhere and one pixel around it.

    Without the margin, a ring's hole costs as little as background, and rings decode as circles (shared facts, trap 3).
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
