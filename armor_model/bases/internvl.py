"""InternVL as a base: InternVL2.5, 3 and 3.5, as published and in transformers' layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import UserError
from armor_model.base.images import tile_count
from armor_model.bases import BaseModel, ChatFormat, Origin, Settings
from armor_model.bases.internvl_published import MLP, NATIVE_SETTINGS, RULES, TEXT, VIT, original_settings, preset

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from armor_model.processing import ArmorProcessor, ProcessorSettings


class InternVL(BaseModel):
    """See armor_model.bases.BaseModel, whose members these are."""

    name = "internvl"
    model_types = ("internvl", "internvl_chat")
    config_class = "transformers.models.internvl.configuration_internvl:InternVLConfig"
    model_class = "transformers.models.internvl.modeling_internvl:InternVLForConditionalGeneration"
    decoder_path, vision_paths, projector_paths = TEXT, (VIT,), (MLP,)
    chat = ChatFormat(
        turn="<|im_start|>{role}\n",
        end="<|im_end|>",
        after="\n",
        image_token="<IMG_CONTEXT>",
        image_mark="<IMG_CONTEXT>",
        after_image="\n",
        specials=("<|im_start|>", "<|im_end|>", "<IMG_CONTEXT>", "<img>", "</img>"),
        system_prompts={
            # InternVL2.5's official one (its published scores use it), and transformers' own template, which has none
            "internvl": "你是书生·万象，英文名是InternVL，"
            "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
            "none": None,
        },
    )
    tokenizer_hint = "e.g. OpenGVLab/InternVL2_5-2B-MPO-hf: InternLM2's vocabulary as a tokenizer.json"
    presets: Mapping[str, Settings] = {
        "internvl2_5-1b": preset("300M", "qwen2", 896, 24, 14, 2, 4864),
        "internvl2_5-2b": preset("300M", "llama", 2048, 24, 16, 8, 8192),
        "internvl2_5-4b": preset("300M", "qwen2", 2048, 36, 16, 2, 11008),
        "internvl2_5-8b": preset("300M", "llama", 4096, 32, 32, 8, 14336),
        "internvl2_5-26b": preset("6B", "llama", 6144, 48, 48, 8, 16384),
        "internvl2_5-38b": preset("6B", "qwen2", 5120, 64, 40, 8, 27648),
        "internvl2_5-78b": preset("6B", "qwen2", 8192, 80, 64, 8, 29568),
    }

    def decoder(self, core: PreTrainedModel) -> Any:
        """A Llama (InternLM2 in transformers' layout) or a Qwen2 or Qwen3."""
        return core.language_model

    def vision_blocks(self, core: PreTrainedModel) -> Iterable[nn.Module]:
        """InternViT's."""
        return core.vision_tower.encoder.layer

    def image_features(self, core: PreTrainedModel, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Tiles (N, 3, H, W) of each image to features (N * image_seq_length, D)."""
        import torch

        tiles = images[0] if len(images) == 1 else torch.cat(list(images))
        features_NPD = core.get_image_features(
            tiles,
            vision_feature_layer=core.config.vision_feature_layer,
            vision_feature_select_strategy=core.config.vision_feature_select_strategy,
            return_dict=True,
        ).pooler_output
        return [part.flatten(0, 1) for part in features_NPD.split([len(image) for image in images])]

    def blank(self, config: PretrainedConfig) -> Tensor:
        """One tile."""
        import torch

        return torch.zeros(1, 3, *config.vision_config.image_size)

    def processor_settings(self, config: PretrainedConfig, published: Settings) -> Settings:
        """Sizes of a tile; the published limits, or one tile for small models."""
        size = config.vision_config.image_size[0]
        known = {
            "image_seq_length": config.image_seq_length,
            "image_size": size,
            "max_tiles": published.get("max_dynamic_patch", 12 if size >= 224 else 1),
        }
        return known | ({"use_thumbnail": published["use_thumbnail"]} if "use_thumbnail" in published else {})

    def preprocess(self, image: Image, settings: ProcessorSettings, max_tiles: int | None) -> Tensor:
        """Tiles of 448 pixels (N, 3, H, W), the grid nearest the image's aspect ratio, and a thumbnail."""
        from armor_model.images import tiles

        return tiles(image, settings.image_size, max_tiles or settings.max_tiles, settings.use_thumbnail)

    def shape(self, width: int, height: int, settings: ProcessorSettings) -> tuple[int, ...]:
        """Tiles of an image, three channels."""
        count = tile_count(width, height, settings.max_tiles, settings.image_size, settings.use_thumbnail)
        return count, 3, settings.image_size, settings.image_size

    def image_text(self, pixels: Tensor, settings: ProcessorSettings) -> tuple[str, list[int]]:
        """All tiles of an image between one pair of marks."""
        return "<img><IMG_CONTEXT></img>", [len(pixels) * settings.image_seq_length]

    def small(self, head_dim: int, vision_width: int, patch: int) -> Settings:
        """InternViT over a Qwen2."""
        return {
            "vision_config": {
                "model_type": "internvl_vision",
                "hidden_size": vision_width,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 2 * vision_width,
                "attention_bias": True,
                "image_size": [32, 32],
                "patch_size": [patch, patch],
            },
            "text_config": {"model_type": "qwen2"},
            "image_seq_length": (32 // patch // 2) ** 2,
        }

    def read_config(self, config: Settings) -> tuple[str, Settings]:
        """Layouts `native`, `internlm2` and `qwen2`."""
        if config["model_type"] == "internvl":
            return "native", {key: config[key] for key in NATIVE_SETTINGS if key in config}
        try:
            return original_settings(config)
        except KeyError as error:
            raise UserError(f"the base's config.json lacks {error}") from error

    def default_system_prompt(self, layout: str) -> str:
        """The official one with the original layout, none with transformers'."""
        return "none" if layout == "native" else "internvl"

    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """By RULES."""
        rules = [(re.compile(pattern), outs) for pattern, outs in RULES[layout]]
        origins: dict[str, Origin] = {}
        for key in keys:
            for pattern, outs in rules:
                if match := pattern.fullmatch(key):
                    origins.update({match.expand(target): Origin(key, part) for target, part in outs})
                    break
            else:
                raise UserError(f"unknown weight {key}: not an InternVL checkpoint in the {layout} layout")
        return origins

    def take(self, part: str, text: Settings) -> Callable[[Tensor], Tensor]:
        """InternLM2's wqkv interleaves by key-value group: with H heads over K groups, each group holds H/K query
        heads, then its key, then its value. Contiguous thirds have the same shapes, load without a word, and are
        wrong."""
        if not part:
            return lambda tensor: tensor
        kind, which = part.split(":")
        if kind == "vit":
            return lambda tensor: tensor.chunk(3, dim=0)["qkv".index(which)]
        heads, groups = text["num_attention_heads"], text["num_key_value_heads"]
        head_dim = text.get("head_dim") or text["hidden_size"] // heads
        queries = heads // groups

        def grouped(tensor: Tensor) -> Tensor:
            if tensor.shape[0] != (heads + 2 * groups) * head_dim:
                raise UserError(f"wqkv has {tensor.shape[0]} rows, {(heads + 2 * groups) * head_dim} were expected")
            view = tensor.view(groups, queries + 2, head_dim, *tensor.shape[1:])
            taken = {"q": view[:, :queries], "k": view[:, queries], "v": view[:, queries + 1]}[which]
            return taken.reshape(-1, *tensor.shape[1:])

        return grouped

    def published_name(self, name: str) -> str:
        """The public -hf checkpoints' prefixes predate transformers' present ones."""
        if name == "lm_head.weight":
            return "language_model.lm_head.weight"
        if name.startswith(f"{TEXT}."):
            return name.replace(f"{TEXT}.", "language_model.model.", 1)
        return name.removeprefix("model.")

    def published_files(self, processor: ArmorProcessor) -> dict[str, Settings]:
        """For InternVLProcessor: 448 pixels and ImageNet statistics must be said, its defaults are others."""
        from armor_model.images import IMAGENET_MEAN, IMAGENET_STD

        s = processor.settings
        tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        image = {
            "image_processor_type": "GotOcr2ImageProcessor",
            "size": {"height": s.image_size, "width": s.image_size},
            "do_resize": True,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(IMAGENET_MEAN),
            "image_std": list(IMAGENET_STD),
            "do_convert_rgb": True,
            "crop_to_patches": s.max_tiles > 1,
            "min_patches": 1,
            "max_patches": s.max_tiles,
        }
        return {
            # it insists on a video placeholder of its own, which gets an id behind the vocabulary and is never used
            "tokenizer_config.json": {"extra_special_tokens": {**tokens, "video_token": "<video>"}},
            "preprocessor_config.json": image,
            "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": s.image_seq_length},
        }

    def parameters(self, config: Settings) -> dict[str, int]:
        """Vision tower, and projector of four shuffled features' width."""
        v, D = config["vision_config"], config["text_config"]["hidden_size"]
        d, f, wide = v["hidden_size"], v["intermediate_size"], 4 * v["hidden_size"]
        height, width = (size // patch for size, patch in zip(v["image_size"], v["patch_size"], strict=True))
        patch = v["patch_size"][0] * v["patch_size"][1]
        embeddings = d + (height * width + 1) * d + 3 * patch * d + d
        biases = d + (3 * d if v.get("attention_bias") else 0) + (2 * d if v.get("use_qk_norm") else 0)
        norms = 2 * d if v.get("norm_type") == "rms_norm" else 4 * d
        block = 4 * d * d + biases + 2 * d * f + f + d + norms + 2 * d
        vision = embeddings + v["num_hidden_layers"] * block
        return {"vision": vision, "projector": 2 * wide + wide * D + D + D * D + D}


INTERNVL = InternVL()
