"""LlamaGen's VQ-16 in plain PyTorch, for tests only: the module names are those of its published `vq_ds16_*.pt`."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


def swish(x):
    return x * torch.sigmoid(x)


class Resnet(nn.Module):
    def __init__(self, inside: int, out: int):
        super().__init__()
        self.norm1, self.conv1 = norm(inside), nn.Conv2d(inside, out, 3, 1, 1)
        self.norm2, self.conv2 = norm(out), nn.Conv2d(out, out, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(inside, out, 1) if inside != out else nn.Identity()

    def forward(self, x):
        h = self.conv1(swish(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(swish(self.norm2(h)))


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # (B, D, h w)
        weights = (q.transpose(1, 2) @ k * x.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Resample(nn.Module):
    def __init__(self, width: int, down: bool):
        super().__init__()
        self.down, self.conv = down, nn.Conv2d(width, width, 3, 2 if down else 1, 0 if down else 1)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0))


def level(widths: list[int], attends: bool, resample: str | None, down: bool) -> nn.Module:
    block = nn.Module()
    block.res = nn.ModuleList(Resnet(a, b) for a, b in pairwise(widths))
    block.attn = nn.ModuleList(Attention(widths[-1]) for _ in widths[1:] if attends)
    if resample:
        setattr(block, resample, Resample(widths[-1], down))
    return block


def through(block: nn.Module, x):
    for i, res in enumerate(block.res):
        x = res(x)
        if len(block.attn):
            x = block.attn[i](x)
    resample = getattr(block, "downsample", getattr(block, "upsample", None))
    return resample(x) if resample is not None else x


class Coder(nn.Module):
    """Encoder or decoder."""

    def __init__(self, inside: int, widths: list[int], out: int, blocks: int, down: bool):
        super().__init__()
        self.down, last = down, len(widths) - 1
        wide = widths if down else widths[::-1]
        self.conv_in = nn.Conv2d(inside, wide[0], 3, 1, 1)
        self.conv_blocks = nn.ModuleList(
            level(
                [wide[max(0, i - 1)], *[width] * blocks],
                attends=i == (last if down else 0),
                resample=None if i == last else "downsample" if down else "upsample",
                down=down,
            )
            for i, width in enumerate(wide)
        )
        deep = widths[-1]
        self.mid = nn.ModuleList([Resnet(deep, deep), Attention(deep), Resnet(deep, deep)])
        self.norm_out, self.conv_out = norm(wide[-1]), nn.Conv2d(wide[-1], out, 3, 1, 1)

    def forward(self, x):
        x = self.conv_in(x)
        stages = [*(lambda h, b=b: through(b, h) for b in self.conv_blocks)]
        middle = list(self.mid)
        for stage in [*stages, *middle] if self.down else [*middle, *stages]:
            x = stage(x)
        return self.conv_out(swish(self.norm_out(x)))


class LlamaGen(nn.Module):
    def __init__(self, widths: list[int], blocks: int, z: int, codes: int, width: int):
        super().__init__()
        self.encoder = Coder(3, widths, z, blocks, down=True)
        self.decoder = Coder(z, widths, 3, blocks + 1, down=False)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, width)
        self.quantize.register_buffer("codebook_used", torch.zeros(65_536))
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, width, 1), nn.Conv2d(width, z, 1)

    def encode(self, pixels):
        z = F.normalize(self.quant_conv(self.encoder(pixels)), dim=1).permute(0, 2, 3, 1)
        return (z @ F.normalize(self.quantize.embedding.weight, dim=1).T).argmax(-1)

    def decode(self, codes):
        z = F.normalize(self.quantize.embedding.weight, dim=1)[codes].permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(z))


PUBLISHED = {  # some of the file's names, written down from its layout; all of them have these shapes
    "encoder.conv_in.weight": (128, 3, 3, 3),
    "encoder.conv_blocks.2.res.0.nin_shortcut.weight": (256, 128, 1, 1),
    "encoder.conv_blocks.3.downsample.conv.bias": (256,),
    "encoder.conv_blocks.4.res.1.conv2.weight": (512, 512, 3, 3),
    "encoder.conv_blocks.4.attn.1.proj_out.weight": (512, 512, 1, 1),
    "encoder.mid.1.q.weight": (512, 512, 1, 1),
    "encoder.mid.2.norm2.weight": (512,),
    "encoder.conv_out.weight": (256, 512, 3, 3),
    "decoder.conv_in.weight": (512, 256, 3, 3),
    "decoder.conv_blocks.0.attn.2.norm.bias": (512,),
    "decoder.conv_blocks.0.upsample.conv.weight": (512, 512, 3, 3),
    "decoder.conv_blocks.1.res.0.nin_shortcut.weight": (256, 512, 1, 1),
    "decoder.conv_blocks.4.res.2.conv1.weight": (128, 128, 3, 3),
    "decoder.norm_out.weight": (128,),
    "quantize.embedding.weight": (16_384, 8),
    "quantize.codebook_used": (65_536,),
    "quant_conv.weight": (8, 256, 1, 1),
    "post_quant_conv.weight": (256, 8, 1, 1),
}
