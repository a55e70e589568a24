"""Published image tokenizers into armor_model's: Chameleon's `vqgan.ckpt` (taming-transformers' names) into a
ChameleonVQ, LlamaGen's `vq_ds16_*.pt` into a LlamaGenVQ.

The file is a pickle and is opened with `weights_only`; sizes are read off the tensors, so that small ones work too.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from armor_model.base.errors import UserError
from armor_model.convert.shards import Source
from armor_model.vq import ChameleonVQ, ImageTokenizer, LlamaGenVQ

PREFIXES = ("encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def read_state(path: Path) -> dict[str, Tensor]:
    """The VQGAN's tensors of a .ckpt or .safetensors file, without a training loss's. Raises UserError otherwise."""
    if not path.is_file():
        raise UserError(f"no VQGAN file at {path}")
    if path.suffix == ".safetensors":
        source = Source(path)
        state: Any = {name: source.read(name) for name in source.tensors}
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            # torch's first sentence; the rest advises to switch the check off
            reason = re.split(r"[.\n]", str(error).strip())[0] or type(error).__name__
            raise UserError(f"{path} is not a plain state dict that can be read safely: {reason:.200}") from error
        if isinstance(state, dict):
            state = state.get("state_dict", state.get("model", state))
    plain = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not plain:
        raise UserError(f"{path} is not a plain state dict: names with a tensor each")
    return {key: value for key, value in state.items() if key.startswith(PREFIXES)}


def rename(key: str, levels: int) -> tuple[str, bool]:
    """diffusers' name of a tensor, and whether it is an attention weight stored as a 1x1 convolution."""
    place = re.fullmatch(r"(encoder|decoder)\.(?:(down|up)\.(\d+)|mid)\.(.+)", key)
    if place is None:
        return key.replace(".norm_out.", ".conv_norm_out."), False
    side, way, level, rest = place.groups()
    if way:
        # the decoder's index 0 is its highest resolution here, the last block in diffusers
        stack = f"{side}.{way}_blocks.{int(level) if way == 'down' else levels - 1 - int(level)}"
        rest = re.sub(r"^block\.", "resnets.", rest).replace("nin_shortcut", "conv_shortcut")
        rest = rest.replace("downsample.conv", "downsamplers.0.conv").replace("upsample.conv", "upsamplers.0.conv")
    else:
        stack = f"{side}.mid_block"
        rest = rest.replace("block_1.", "resnets.0.").replace("block_2.", "resnets.1.").replace("attn_1.", "attn.0.")
    attention = re.fullmatch(r"attn\.(\d+)\.(norm|q|k|v|proj_out)\.(weight|bias)", rest)
    if attention:
        number, layer, kind = attention.groups()
        return f"{stack}.attentions.{number}.{_ATTENTION[layer]}.{kind}", layer != "norm" and kind == "weight"
    return f"{stack}.{rest}", False


def from_llamagen(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """LlamaGen's names as taming-transformers' of the same parts; the count of used codes is left out, and the codebook
    normalised, as LlamaGen does it at every look-up."""
    levels = 1 + max((int(key.split(".")[2]) for key in state if key.startswith("decoder.conv_blocks.")), default=0)
    renamed = {}
    for key, value in state.items():
        block = re.fullmatch(r"(encoder|decoder)\.conv_blocks\.(\d+)\.(.+)", key)
        if key == "quantize.codebook_used":
            continue
        if block:
            side, i, rest = block.groups()
            stack, level = ("down", int(i)) if side == "encoder" else ("up", levels - 1 - int(i))
            key = f"{side}.{stack}.{level}." + re.sub(r"^res\.", "block.", rest)
        for number, name in enumerate(("block_1", "attn_1", "block_2")):
            key = key.replace(f".mid.{number}.", f".mid.{name}.")
        renamed[key] = F.normalize(value.float(), dim=1) if key == "quantize.embedding.weight" else value
    return renamed


def convert(state: dict[str, Tensor], image_size: int = 256) -> ChameleonVQ:
    """An image tokenizer with a published state dict's weights, of Chameleon's kind or LlamaGen's. An unknown, missing
    or mis-shaped key is named."""
    kind = ChameleonVQ
    if any(key.startswith("encoder.conv_blocks.") for key in state):
        kind, state = LlamaGenVQ, from_llamagen(state)
    if not any(key.startswith("encoder.down.") for key in state):
        raise UserError("not a VQGAN of the taming-transformers kind: it has no encoder.down.*")
    try:
        levels = 1 + max(int(key.split(".")[2]) for key in state if key.startswith("encoder.down."))
        widths = [len(state[f"encoder.down.{i}.block.0.conv1.weight"]) for i in range(levels)]
        blocks = len([k for k in state if re.fullmatch(r"encoder\.down\.0\.block\.\d+\.conv1\.weight", k)])
        codes, latent = state["quantize.embedding.weight"].shape
        z_channels = len(state["encoder.conv_out.weight"])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"not a VQGAN of the taming-transformers kind: {error} is missing") from error
    if image_size % 2 ** (levels - 1):
        raise UserError(
            f"--image-size {image_size} is not a multiple of this tokenizer's {2 ** (levels - 1)} pixels a code"
        )
    vq = kind(image_size, codes, tuple(widths), blocks, latent, z_channels=None if z_channels == latent else z_channels)
    expected = vq.model.state_dict()
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name, flatten = rename(key, levels)
        value = value[:, :, 0, 0] if flatten and value.ndim == 4 else value
        if name not in expected:
            raise UserError(f"unknown VQGAN weight {key}")
        if value.shape != expected[name].shape:
            raise UserError(f"VQGAN weight {key} is {tuple(value.shape)}, expected {tuple(expected[name].shape)}")
        renamed[name] = value.float()
    missing = sorted(set(expected) - set(renamed))
    if missing:
        raise UserError(f"the VQGAN lacks {missing[0]} (in diffusers' names)")
    vq.model.load_state_dict(renamed)
    return vq.eval()


def open_vqgan(path: Path, image_size: int = 256) -> ImageTokenizer:
    """A VQGAN from its published file, for images of so many pixels a side; or from a folder that `ImageTokenizer.save`
    wrote, which knows its size."""
    return ImageTokenizer.load(path) if path.is_dir() else convert(read_state(path), image_size)
