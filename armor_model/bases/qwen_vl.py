"""Qwen2.5-VL and Qwen3-VL as bases: images of any size without tiles, positions of three axes, Qwen3-VL's deepstack.

Three axes (M-RoPE): text and generated codes advance time, height and width by one each; the features of a seen image
of h rows and w columns share its time and lie on rows and columns, and what follows goes on max(h, w) behind its start.

Sizes of presets and preprocessing are the published config.json's and preprocessor_config.json's, from memory: no file
could be opened here (2026-11). A test holds the totals that follow against the published ones.

Legend: B rows, T tokens, N patches, D model width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.bases import (
    BaseModel,
    ChatFormat,
    Origin,
    Settings,
    by_rules,
    decoder_sizes,
    native_settings,
    published_preset,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from armor_model.processing import ArmorProcessor, ProcessorSettings

VISION, TEXT = "model.visual", "model.language_model"
RULES = tuple(
    (pattern, [(target, "")])
    for pattern, target in (
        (r"lm_head\.weight", "lm_head.weight"),
        (r"(?:model\.)?visual\.(.+)", rf"{VISION}.\1"),
        (r"model\.language_model\.(.+)", rf"{TEXT}.\1"),
        (r"model\.((?:layers|embed_tokens|norm)\..+)", rf"{TEXT}.\1"),  # as Qwen2.5-VL is published
    )
)
"""Patterns of published names, and where each tensor goes."""
SETTINGS: tuple[str, ...] = ("text_config", "vision_config", "image_token_id", "video_token_id")
SETTINGS += ("vision_start_token_id", "vision_end_token_id")
MAX_ASPECT = 200
"""Longest side over shortest; the published processor refuses more."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
FEWEST = 4
"""Features of an image, for models that were not published."""


@dataclass(frozen=True)
class QwenVL(BaseModel):
    """See armor_model.bases.BaseModel, whose members these are."""

    name: str
    config_class: str
    model_class: str
    model_types: tuple[str, ...]
    chat: ChatFormat
    presets: Mapping[str, Settings]
    vision_paths: tuple[str, ...]
    projector_paths: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of each channel in 0..1."""
    features: tuple[int, int]
    """Fewest and most of an image: preprocessor_config.json's limits, which are in pixels."""
    processor_class: str
    old_names: bool
    """Published tensors lack transformers' prefix `model.language_model`."""
    decoder_path: str = TEXT
    tokenizer_hint: str = "the base's own id on the hub"

    def decoder(self, core: PreTrainedModel) -> PreTrainedModel:
        """Qwen2.5's or Qwen3's blocks under M-RoPE."""
        return core.language_model

    def vision_blocks(self, core: PreTrainedModel) -> Iterable[nn.Module]:
        """The vision transformer's."""
        return core.visual.blocks

    def image_features(self, core: PreTrainedModel, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Images (3, H, W) to features (h * w, D), of Qwen3-VL (h * w, D * (1 + deepstack))."""
        import torch

        vision = core.config.vision_config
        patches_ND = torch.cat([_patches(image, vision) for image in images])
        side = vision.patch_size
        grids = torch.tensor([[1, image.shape[1] // side, image.shape[2] // side] for image in images])
        out = core.get_image_features(patches_ND, grids.to(patches_ND.device), return_dict=True)
        each = [out.pooler_output, *(getattr(out, "deepstack_features", None) or ())]
        features = torch.cat([torch.cat(list(parts)) for parts in each], dim=-1)
        return features.split([len(part) for part in out.pooler_output])

    def blank(self, config: PretrainedConfig) -> Tensor:
        """One feature's pixels."""
        import torch

        side = config.vision_config.patch_size * config.vision_config.spatial_merge_size
        return torch.zeros(3, side, side)

    def place(self, counts_BT: Tensor, ids_BT: Tensor, images: Sequence[Tensor], image_token_id: int) -> Tensor | None:
        """Count, time, height, width. A count that does not follow the one before begins another conversation."""
        import numpy as np
        import torch

        counts, is_image = counts_BT.cpu().numpy(), (ids_BT == image_token_id).cpu().numpy()
        placed = np.repeat(counts[..., None], 4, axis=-1)
        waiting = iter(images)
        for b in is_image.any(1).nonzero()[0]:
            edges = np.diff(is_image[b].astype(np.int8), prepend=0, append=0).nonzero()[0]
            restarts = [*(np.diff(counts[b]) != 1).nonzero()[0] + 1, len(counts[b])]
            for start, end in edges.reshape(-1, 2):
                h, w = self._grid_of(next(waiting), int(end - start))
                stop = next(i for i in restarts if i > start)
                at = placed[b, start, 1]
                placed[b, start:end, 1] = at
                placed[b, start:end, 2] = at + np.arange(h).repeat(w)
                placed[b, start:end, 3] = at + np.tile(np.arange(w), h)
                placed[b, end:stop, 1:] += max(h, w) - (end - start)
        return torch.from_numpy(placed).to(counts_BT.device)

    @staticmethod
    def _grid_of(image: Tensor, run: int) -> tuple[int, int]:
        """Rows and columns of features of an image (3, H, W) that takes `run` placeholders."""
        _, height, width = image.shape
        side = math.isqrt(height * width // run)
        if height // side * (width // side) != run:
            raise ValueError(f"an image of {width} x {height} pixels does not take {run} placeholders")
        return height // side, width // side

    def positions(self, position_ids: Tensor) -> Tensor:
        """(3, B, T): the axes of placed images, or the count on each."""
        return position_ids[..., 1:].movedim(-1, 0) if position_ids.ndim == 3 else position_ids[None].expand(3, -1, -1)

    def processor_settings(self, config: PretrainedConfig, published: Settings) -> Settings:
        """`pixels`: a patch's side, the features' side in patches, and the limits that were published."""
        vision, size = config.vision_config, published.get("size") or {}
        area = (vision.patch_size * vision.spatial_merge_size) ** 2
        fewest, most = self.features if published else (FEWEST, self.features[1])
        limits = {
            "min": published.get("min_pixels") or size.get("shortest_edge") or fewest * area,
            "max": published.get("max_pixels") or size.get("longest_edge") or most * area,
        }
        return {"pixels": {"patch": vision.patch_size, "merge": vision.spatial_merge_size, **limits}}

    def preprocess(self, image: Image, settings: ProcessorSettings, max_tiles: int | None) -> Tensor:
        """(3, H, W): resized to whole features within the limits, its aspect kept as well as that allows."""
        import numpy as np
        import torch
        from PIL.Image import Resampling

        _, height, width = self.shape(image.width, image.height, settings)
        array = np.array(image.resize((width, height), Resampling.BICUBIC))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return torch.from_numpy(array).permute(2, 0, 1).float().div_(255).sub_(mean).div_(std)

    def shape(self, width: int, height: int, settings: ProcessorSettings) -> tuple[int, ...]:
        """(3, H, W)"""
        p = settings.pixels
        return 3, *fit(height, width, p["patch"] * p["merge"], p["min"], p["max"])

    def image_text(self, pixels: Tensor, settings: ProcessorSettings) -> tuple[str, list[int]]:
        """A placeholder for each feature."""
        side = settings.pixels["patch"] * settings.pixels["merge"]
        return self.chat.image_mark, [pixels.shape[1] // side * (pixels.shape[2] // side)]

    def small(self, head_dim: int, vision_width: int, patch: int) -> Settings:
        """Windows of 2x2 features in the first block; deepstack from both."""
        third = head_dim // 6
        own = (
            {"window_size": 4 * patch, "fullatt_block_indexes": [1]}
            if self.name == "qwen2_5_vl"
            else {"num_position_embeddings": (32 // patch) ** 2, "deepstack_visual_indexes": [0, 1]}
        )
        return {
            "vision_config": {
                "depth": 2,
                "hidden_size": vision_width,
                "intermediate_size": 2 * vision_width,
                "num_heads": 4,
                "patch_size": patch,
                "out_hidden_size": 4 * head_dim,
                **own,
            },
            "text_config": {
                "model_type": f"{self.name}_text",
                "head_dim": head_dim,
                "rope_parameters": {"mrope_section": [head_dim // 2 - 2 * third, third, third]},
            },
        }

    def read_config(self, config: Settings) -> tuple[str, Settings]:
        """Layout `native`; nested or, as Qwen2.5-VL was published, flat."""
        settings = native_settings(self.config_class, {k: v for k, v in config.items() if k != "model_type"}, SETTINGS)
        if "sliding_attention" in (settings["text_config"].get("layer_types") or ()):
            raise UserError("a decoder with sliding windows is not supported: no published Qwen-VL uses them")
        return "native", settings

    def default_system_prompt(self, layout: str) -> str:
        """The one of the published chat template: Qwen2.5-VL's is a helpful assistant, Qwen3-VL's has none."""
        return "qwen" if "qwen" in self.chat.system_prompts else "none"

    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """By RULES."""
        return by_rules(keys, RULES, f"a checkpoint of {self.name}")

    def published_name(self, name: str) -> str:
        """Qwen2.5-VL's prefixes predate transformers' present ones, Qwen3-VL's are these."""
        return name.replace(f"{TEXT}.", "model.").replace(f"{VISION}.", "visual.") if self.old_names else name

    def published_files(self, processor: ArmorProcessor) -> dict[str, Settings]:
        """For Qwen2VLImageProcessor, in the fields that every version reads."""
        p = processor.settings.pixels
        image = {
            "min_pixels": p["min"],
            "max_pixels": p["max"],
            "patch_size": p["patch"],
            "temporal_patch_size": 2,
            "merge_size": p["merge"],
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": self.processor_class,
        }
        return {"preprocessor_config.json": image, "processor_config.json": {"processor_class": self.processor_class}}

    def parameters(self, config: Settings) -> dict[str, int]:
        """Qwen2.5-VL: RMSNorm and gated MLPs; Qwen3-VL: LayerNorm, learned positions, a merger for each deepstack."""
        v, D = config["vision_config"], config["text_config"]["hidden_size"]
        d, f, wide = v["hidden_size"], v["intermediate_size"], 4 * v["hidden_size"]
        attention, patch = 4 * d * d + 4 * d, 3 * 2 * v["patch_size"] ** 2 * d
        merge = wide * wide + wide + wide * D + D
        if self.name == "qwen2_5_vl":
            return {"vision": patch + v["depth"] * (2 * d + attention + 3 * d * f + 2 * f + d), "projector": d + merge}
        block = 4 * d + attention + 2 * d * f + f + d
        deep = len(v["deepstack_visual_indexes"]) * (2 * wide + merge)
        vision = patch + d + v["num_position_embeddings"] * d + v["depth"] * block
        return {"vision": vision, "projector": 2 * d + merge + deep}


def fit(height: int, width: int, side: int, least: int, most: int) -> tuple[int, int]:
    """Height and width in whole multiples of `side`, their product within [least, most] pixels. Raises UserError for an
    image that is a line.

    >>> fit(300, 400, 28, 3136, 12845056)
    (308, 392)
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise UserError(f"an image of {width} x {height} is a line: sides may differ by a factor of {MAX_ASPECT}")
    new = [round(height / side) * side, round(width / side) * side]
    if new[0] * new[1] > most:
        scale = math.sqrt(height * width / most)
        new = [max(side, math.floor(x / scale / side) * side) for x in (height, width)]
    elif new[0] * new[1] < least:
        scale = math.sqrt(least / (height * width))
        new = [math.ceil(x * scale / side) * side for x in (height, width)]
    return new[0], new[1]


def _patches(image_3HW: Tensor, vision: PretrainedConfig) -> Tensor:
    """(N, 3 * 2 * P * P): the patches of a feature follow each other; a still image is its own second frame."""
    P, m, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    rows, columns = image_3HW.shape[1] // (P * m), image_3HW.shape[2] // (P * m)
    cut = image_3HW.view(3, rows, m, P, columns, m, P).permute(1, 4, 2, 5, 0, 3, 6)
    return cut.unsqueeze(5).expand(-1, -1, -1, -1, -1, frames, -1, -1).reshape(rows * columns * m * m, -1)


# ---- the published sizes -------------------------------------------------------------------------------------------


def _preset(base: str, vocab: int, text: tuple[int, ...], vision: Settings) -> Settings:
    width, layers, heads, kv_heads, head_dim, ffn = text
    sizes = vocab, width, layers, heads, kv_heads, ffn
    if base == "qwen3_vl":
        decoder = decoder_sizes(f"{base}_text", *sizes, 262144, 5e6, 1e-6, head_dim)
        decoder["rope_parameters"] |= {"mrope_section": [24, 20, 20], "mrope_interleaved": True}
    else:
        decoder = decoder_sizes(f"{base}_text", *sizes, 128000, 1e6, 1e-6)
        decoder["rope_parameters"] |= {"mrope_section": [16, 24, 24]}
    return published_preset(decoder, {"out_hidden_size": width, **vision}, 151655, base_name=base)


def _preset_2_5(vocab: int, ffn: int, *text: int) -> Settings:
    vision = {
        "model_type": "qwen2_5_vl_vision",
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": ffn,
        "num_heads": 16,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    }
    return _preset("qwen2_5_vl", vocab, text, vision)


def _preset_3(large: bool, *text: int) -> Settings:
    vision = {
        "model_type": "qwen3_vl",
        "depth": 27 if large else 24,
        "hidden_size": 1152 if large else 1024,
        "intermediate_size": 4304 if large else 4096,
        "num_heads": 16,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [8, 16, 24] if large else [5, 11, 17],
    }
    return _preset("qwen3_vl", 151936, text, vision)


_CHAT = ChatFormat(
    turn="<|im_start|>{role}\n",
    end="<|im_end|>",
    after="\n",
    image_token="<|image_pad|>",
    image_mark="<|vision_start|><|image_pad|><|vision_end|>",
    after_image="",
    specials=("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    system_prompts={"qwen": "You are a helpful assistant.", "none": None},
)
_CLASSES = "transformers.models.{0}.{1}_{0}:{2}"

QWEN2_5_VL = QwenVL(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    config_class=_CLASSES.format("qwen2_5_vl", "configuration", "Qwen2_5_VLConfig"),
    model_class=_CLASSES.format("qwen2_5_vl", "modeling", "Qwen2_5_VLForConditionalGeneration"),
    chat=_CHAT,
    presets={
        "qwen2_5_vl-3b": _preset_2_5(151936, 3420, 2048, 36, 16, 2, 128, 11008),
        "qwen2_5_vl-7b": _preset_2_5(152064, 3420, 3584, 28, 28, 4, 128, 18944),
        "qwen2_5_vl-32b": _preset_2_5(152064, 3456, 5120, 64, 40, 8, 128, 27648),
        "qwen2_5_vl-72b": _preset_2_5(152064, 3456, 8192, 80, 64, 8, 128, 29568),
    },
    vision_paths=(f"{VISION}.patch_embed", f"{VISION}.blocks"),
    projector_paths=(f"{VISION}.merger",),
    mean=CLIP_MEAN,
    std=CLIP_STD,
    features=(4, 16384),
    processor_class="Qwen2_5_VLProcessor",
    old_names=True,
)
QWEN3_VL = QwenVL(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    config_class=_CLASSES.format("qwen3_vl", "configuration", "Qwen3VLConfig"),
    model_class=_CLASSES.format("qwen3_vl", "modeling", "Qwen3VLForConditionalGeneration"),
    chat=ChatFormat(**{**vars(_CHAT), "system_prompts": {"none": None}}),
    presets={
        "qwen3_vl-2b": _preset_3(False, 2048, 28, 16, 8, 128, 6144),
        "qwen3_vl-4b": _preset_3(False, 2560, 36, 32, 8, 128, 9728),
        "qwen3_vl-8b": _preset_3(True, 4096, 36, 32, 8, 128, 12288),
        "qwen3_vl-32b": _preset_3(True, 5120, 64, 64, 8, 128, 25600),
    },
    vision_paths=(f"{VISION}.patch_embed", f"{VISION}.pos_embed", f"{VISION}.blocks"),
    projector_paths=(f"{VISION}.merger", f"{VISION}.deepstack_merger_list"),
    mean=HALF,
    std=HALF,
    features=(64, 16384),
    processor_class="Qwen3VLProcessor",
    old_names=False,
)
