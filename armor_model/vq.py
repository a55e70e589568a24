"""Image tokenizers: pixels to codes and back, behind one interface.

Legend: B batch, C channels, H W pixels, h w codes a side, K codes, Z latent width.
Pixels are float in [-1, 1]; codes are long in [0, K).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from armor_model.base.errors import ArmorError, UserError, reason_of
from armor_model.base.jsons import JsonObject
from armor_model.base.runtime import prepare_torchvision

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class ImageTokenizer(nn.Module, ABC):
    """What the rest of ARMOR needs of an image tokenizer."""

    type: str
    settings: JsonObject
    """Arguments that rebuild this tokenizer; saved as JSON."""

    def __init__(self, image_size: int, grid: int, codebook_size: int):
        super().__init__()
        self.image_size = image_size
        self.grid = grid
        self.codebook_size = codebook_size

    @abstractmethod
    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] to codes (B, h, w), long."""

    @abstractmethod
    def _decode(self, codes_BHW: Tensor) -> Tensor:
        """Codes, already checked, to pixels."""

    def decode(self, codes_BHW: Tensor) -> Tensor:
        """Codes (B, h, w) to pixels (B, 3, H, W), clamped to [-1, 1]. Raises UserError for a code out of range."""
        if codes_BHW.ndim != 3:
            raise UserError(f"codes must be (batch, height, width), not {tuple(codes_BHW.shape)}")
        if codes_BHW.numel():
            low, high = int(codes_BHW.min()), int(codes_BHW.max())
            if low < 0 or high >= self.codebook_size:
                bad = low if low < 0 else high
                raise UserError(f"image code {bad} is out of range: the codebook has {self.codebook_size} codes")
        return self._decode(codes_BHW).clamp(-1, 1)

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"type": self.type, **self.settings}, indent=2) + "\n")
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    @staticmethod
    def load(folder: str | Path) -> ImageTokenizer:
        """Read what `save` wrote. Raises UserError when the folder is not such a checkpoint."""
        folder = Path(folder)
        try:
            settings = json.loads((folder / "config.json").read_text())
            vq = build_vq(settings)
            vq.load_state_dict(load_file(folder / "model.safetensors"))  # into fp32, whatever the file's type
        except ArmorError:
            raise
        except Exception as error:  # any damage to either file ends in the same advice
            raise UserError(f"{folder} holds no readable image tokenizer: {reason_of(error)}") from error
        return vq.eval()


class ChameleonVQ(ImageTokenizer):
    """Chameleon's VQGAN, carried by diffusers' VQModel; its default sizes are the published (68.7 M parameters)."""

    type = "chameleon"
    deepest_attention = False
    """Whether the blocks at code resolution attend, beside the middle one."""

    def __init__(
        self,
        image_size: int = 256,
        codebook_size: int = 8192,
        block_out_channels: tuple[int, ...] = (128, 128, 256, 256, 512),
        layers_per_block: int = 2,
        latent_dim: int = 256,
        norm_num_groups: int = 32,
        grid: int | None = None,
        z_channels: int | None = None,
    ):
        """z_channels: width of encoder and decoder beside the codebook; by default the latents'."""
        downsampling = 2 ** (len(block_out_channels) - 1)
        super().__init__(image_size, image_size // downsampling, codebook_size)
        if grid is not None and grid != self.grid:
            raise UserError(f"a {image_size}-pixel image has {self.grid} codes a side here, not {grid}")
        prepare_torchvision()  # diffusers imports transformers' model classes
        from diffusers import VQModel

        plain = len(block_out_channels) - 1
        deepest = "Attn" if self.deepest_attention else ""
        self.settings = {
            "image_size": image_size,
            "codebook_size": codebook_size,
            "block_out_channels": list(block_out_channels),
            "layers_per_block": layers_per_block,
            "latent_dim": latent_dim,
            "norm_num_groups": norm_num_groups,
            **({} if z_channels is None else {"z_channels": z_channels}),
        }
        self.model: Any = VQModel(
            in_channels=3,
            out_channels=3,
            down_block_types=(*["DownEncoderBlock2D"] * plain, f"{deepest}DownEncoderBlock2D"),
            up_block_types=(f"{deepest}UpDecoderBlock2D", *["UpDecoderBlock2D"] * plain),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            act_fn="silu",
            latent_channels=z_channels or latent_dim,
            num_vq_embeddings=codebook_size,
            vq_embed_dim=latent_dim,
            norm_num_groups=norm_num_groups,
            norm_type="group",
            mid_block_add_attention=True,
            lookup_from_codebook=True,
            scaling_factor=1.0,
        )

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        latents_BZhw = self._latents(pixels_BCHW.to(self.model.dtype))
        _, _, (_, _, codes) = self.model.quantize(latents_BZhw)
        return codes.view(latents_BZhw.shape[0], *latents_BZhw.shape[2:])

    def _latents(self, pixels_BCHW: Tensor) -> Tensor:
        return self.model.encode(pixels_BCHW).latents

    def _decode(self, codes_BHW: Tensor) -> Tensor:
        # The shape is channels-last, and without force_not_quantize the codes would be taken for latents.
        shape = (*codes_BHW.shape, self.settings["latent_dim"])
        return self.model.decode(codes_BHW.flatten(), force_not_quantize=True, shape=shape).sample


class LlamaGenVQ(ChameleonVQ):
    """LlamaGen's VQ-16 (arXiv 2406.06525; 16,384 codes of width 8, else the default sizes): attention at code
    resolution, and a codebook of unit vectors, so that the nearest entry is the one of the smallest angle."""

    type = "llamagen"
    deepest_attention = True

    def _latents(self, pixels_BCHW: Tensor) -> Tensor:
        return F.normalize(super()._latents(pixels_BCHW), dim=1)


class ResidualConv(nn.Module):
    """3x3 convolution at code resolution, with a skip: lets a patch's pixels depend on its neighbours' codes."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BZhw: Tensor) -> Tensor:
        return x_BZhw + self.conv(F.gelu(self.norm(x_BZhw)))


class PatchVQ(ImageTokenizer):
    """A small VQ for armor-nano: each patch is encoded alone, the decoder sees its neighbours (120 K parameters).

    Overlapping encoders lost colours at this size (19 dB); patches that do not overlap keep them.
    """

    type = "patch"

    def __init__(
        self,
        image_size: int = 32,
        grid: int = 4,
        codebook_size: int = 128,
        latent_dim: int = 24,
        encoder_width: int = 96,
        width: int = 64,
        decoder_blocks: int = 2,
    ):
        super().__init__(image_size, grid, codebook_size)
        if image_size % grid:
            raise UserError(f"{image_size} pixels do not divide into {grid} patches a side")
        self.settings = {
            "image_size": image_size,
            "grid": grid,
            "codebook_size": codebook_size,
            "latent_dim": latent_dim,
            "encoder_width": encoder_width,
            "width": width,
            "decoder_blocks": decoder_blocks,
        }
        self.patch = image_size // grid
        patch_values = 3 * self.patch**2
        self.encoder = nn.Sequential(
            nn.Conv2d(3, encoder_width, self.patch, stride=self.patch),
            nn.GELU(),
            nn.Conv2d(encoder_width, encoder_width, 1),
            nn.GELU(),
            nn.Conv2d(encoder_width, latent_dim, 1),
        )
        self.codebook = nn.Embedding(codebook_size, latent_dim)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_dim, width, 1),
            *(ResidualConv(width) for _ in range(decoder_blocks)),
            nn.GELU(),
            nn.Conv2d(width, patch_values, 1),
            nn.PixelShuffle(self.patch),
        )

    def encode_latents(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels to continuous latents (B, Z, h, w)."""
        return self.encoder(pixels_BCHW)

    def quantize(self, latents_BZhw: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest entries: latents (B, Z, h, w), through which only the codebook learns, and codes (B, h, w)."""
        flat_NZ = latents_BZhw.permute(0, 2, 3, 1).flatten(0, 2)
        codes_N = torch.cdist(flat_NZ.detach().float(), self.codebook.weight.detach().float()).argmin(1)
        codes_BHW = codes_N.view(latents_BZhw.shape[0], *latents_BZhw.shape[2:])
        return self.codebook(codes_BHW).permute(0, 3, 1, 2), codes_BHW

    def decode_latents(self, latents_BZhw: Tensor) -> Tensor:
        """Latents to pixels, not clamped (training needs the gradient outside of [-1, 1])."""
        return self.decoder(latents_BZhw)

    def encode(self, pixels_BCHW: Tensor) -> Tensor:
        return self.quantize(self.encode_latents(pixels_BCHW.to(self.codebook.weight.dtype)))[1]

    def _decode(self, codes_BHW: Tensor) -> Tensor:
        return self.decode_latents(self.codebook(codes_BHW).permute(0, 3, 1, 2))


TYPES: dict[str, type[ImageTokenizer]] = {"chameleon": ChameleonVQ, "llamagen": LlamaGenVQ, "patch": PatchVQ}


def build_vq(config: PretrainedConfig) -> ImageTokenizer:
    """A randomly initialised image tokenizer, from an ArmorConfig (its grid and codebook win) or a dict with `type`."""
    if isinstance(config, dict):
        settings = dict(config)
    else:
        settings = {**config.vq_config, "codebook_size": config.codebook_size, "grid": config.image_grid}
    kind = settings.pop("type", None)
    if kind not in TYPES:
        raise UserError(f"unknown image tokenizer type {kind!r}", hint=f"known: {', '.join(TYPES)}")
    try:
        return TYPES[kind](**settings)
    except TypeError as error:
        raise UserError(f"image tokenizer {kind!r}: {error}") from error
