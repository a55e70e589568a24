"""InternVL as a base: InternVL2.5, 3 and 3.5. As published: how weights are named, what configurations say, which sizes
there are; then the base itself.

Two layouts of weights: `original` ones (InternVL2.5 as published: `internlm2` or `qwen2` text decoder, fused
projections) and `native` (transformers' own, with today's or yesterday's prefixes). The rules that carry each tensor to
its place are data; a key that no rule knows is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.base.images import tile_count
from armor_model.bases import BaseModel, ChatFormat, Origin, Rule, Settings, by_rules, native_settings
from armor_model.bases.internvl_sizes import PRESETS

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from armor_model.processing import ArmorProcessor, ProcessorSettings


VIT, TEXT, MLP = "model.vision_tower", "model.language_model", "model.multi_modal_projector"

# ---- names of weights -----------------------------------------------------------------------------------------------


def _whole(pattern: str, target: str) -> Rule:
    """\\1 is the layer, \\2 weight or bias."""
    return pattern, [(target, "")]


def _qkv(kind: str, pattern: str, target: str, suffix: str) -> Rule:
    """A fused projection: thirds (`vit`), or grouped (`wqkv`)."""
    return f"{pattern}.{suffix}", [(f"{target}.{x}_proj.{suffix}", f"{kind}:{x}") for x in "qkv"]


_V, _VL, _L = (
    r"vision_model\.embeddings\.",
    r"vision_model\.encoder\.layers\.(\d+)\.",
    r"language_model\.model\.layers\.(\d+)\.",
)
_VISION = [
    _whole(_V + "class_embedding", f"{VIT}.embeddings.cls_token"),
    _whole(_V + "position_embedding", f"{VIT}.embeddings.position_embeddings"),
    _whole(_V + r"patch_embedding\.(weight|bias)", rf"{VIT}.embeddings.patch_embeddings.projection.\1"),
    *(_qkv("vit", _VL + r"attn\.qkv", rf"{VIT}.encoder.layer.\1.attention", x) for x in ("weight", "bias")),
    *(
        _whole(rf"{_VL}{old}\.(weight|bias)", rf"{VIT}.encoder.layer.\1.{new}.\2")
        for old, new in (
            (r"attn\.proj", "attention.projection_layer"),
            (r"attn\.q_norm", "attention.q_norm"),
            (r"attn\.k_norm", "attention.k_norm"),
            (r"mlp\.fc1", "mlp.fc1"),
            (r"mlp\.fc2", "mlp.fc2"),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
        )
    ),
    _whole(_VL + "ls1", rf"{VIT}.encoder.layer.\1.lambda_1"),
    _whole(_VL + "ls2", rf"{VIT}.encoder.layer.\1.lambda_2"),
    _whole(r"mlp1\.0\.(weight|bias)", rf"{MLP}.layer_norm.\1"),
    _whole(r"mlp1\.1\.(weight|bias)", rf"{MLP}.linear_1.\1"),
    _whole(r"mlp1\.3\.(weight|bias)", rf"{MLP}.linear_2.\1"),
]
_INTERNLM2 = [
    _whole(r"language_model\.model\.tok_embeddings\.weight", f"{TEXT}.embed_tokens.weight"),
    _whole(r"language_model\.model\.norm\.weight", f"{TEXT}.norm.weight"),
    _whole(r"language_model\.output\.weight", "lm_head.weight"),
    _qkv("wqkv", _L + r"attention\.wqkv", rf"{TEXT}.layers.\1.self_attn", "weight"),
    *(
        _whole(rf"{_L}{old}\.weight", rf"{TEXT}.layers.\1.{new}.weight")
        for old, new in (
            (r"attention\.wo", "self_attn.o_proj"),
            (r"feed_forward\.w1", "mlp.gate_proj"),
            (r"feed_forward\.w3", "mlp.up_proj"),  # w3 is up, w2 is down: not in the order of their numbers
            (r"feed_forward\.w2", "mlp.down_proj"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
        )
    ),
]
_QWEN2 = [
    _whole(r"language_model\.lm_head\.weight", "lm_head.weight"),
    _whole(r"language_model\.model\.(.+)", rf"{TEXT}.\1"),
]
_NATIVE = [
    _whole(r"(?:language_model\.)?lm_head\.weight", "lm_head.weight"),
    _whole(r"(?:model\.)?language_model\.model\.(.+)", rf"{TEXT}.\1"),
    _whole(r"model\.language_model\.(.+)", rf"{TEXT}.\1"),
    _whole(r"(?:model\.)?vision_tower\.(.+)", rf"{VIT}.\1"),
    _whole(r"(?:model\.)?multi_modal_projector\.(.+)", rf"{MLP}.\1"),
]
RULES = {"internlm2": [*_VISION, *_INTERNLM2], "qwen2": [*_VISION, *_QWEN2], "native": _NATIVE}

# ---- configurations --------------------------------------------------------------------------------------------------

_TEXT_KINDS = {
    "InternLM2ForCausalLM": ("internlm2", "llama"),
    "Qwen2ForCausalLM": ("qwen2", "qwen2"),
    "Qwen3ForCausalLM": ("qwen2", "qwen3"),  # InternVL3.5: the same names, and norms of queries and keys
}
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
NATIVE_SETTINGS: tuple[str, ...] = ("text_config", "vision_config", "image_token_id", "image_seq_length")
NATIVE_SETTINGS += ("downsample_ratio", "projector_hidden_act", "vision_feature_layer")
NATIVE_SETTINGS += ("vision_feature_select_strategy",)


def original_settings(config: Settings) -> tuple[str, Settings]:
    """(layout of the weights, transformers' settings) of InternVL's published config.json. UserError for another."""
    if config.get("ps_version", "v2") != "v2":
        raise UserError(f"pixel shuffle {config['ps_version']} is not supported: InternVL2.5 uses v2")
    if config.get("select_layer", -1) != -1:
        raise UserError(f"select_layer {config['select_layer']} is not supported: InternVL2.5 uses -1")
    llm, vit = config["llm_config"], config["vision_config"]
    architecture = (llm.get("architectures") or ["?"])[0]
    if architecture not in _TEXT_KINDS:
        raise UserError(f"text tower {architecture} is not supported: {', '.join(_TEXT_KINDS)}")
    layout, kind = _TEXT_KINDS[architecture]
    rope = {"rope_type": "default", "rope_theta": llm.get("rope_theta", 1e6)}
    scaling = llm.get("rope_scaling")
    if scaling:
        rope |= {key: value for key, value in scaling.items() if key != "type"}
        rope["rope_type"] = scaling.get("rope_type") or scaling["type"]
    heads = llm["num_attention_heads"]
    eps = 1e-5 if kind == "llama" else 1e-6
    others = {"hidden_act": "silu", "rms_norm_eps": eps, "initializer_range": 0.02}
    text = {
        "model_type": kind,
        **{name: llm[name] for name in (*_SIZES, "vocab_size", "max_position_embeddings")},
        "num_key_value_heads": llm.get("num_key_value_heads") or heads,
        "head_dim": llm.get("head_dim") or llm["hidden_size"] // heads,
        **{name: llm.get(name, usual) for name, usual in others.items()},
        "rope_parameters": rope,
        "bos_token_id": llm.get("bos_token_id"),
        "eos_token_id": llm.get("eos_token_id"),
        "pad_token_id": None,
        "tie_word_embeddings": False,
    }
    if kind == "llama" and llm.get("bias"):
        raise UserError("an InternLM2 with biases is not supported: no published InternVL2.5 has them")
    size = config.get("force_image_size") or vit["image_size"]
    patch = vit["patch_size"]
    ratio = config.get("downsample_ratio", 0.5)
    others = {"norm_type": "rms_norm", "layer_norm_eps": 1e-6, "hidden_act": "gelu"}
    vision = {
        "model_type": "internvl_vision",
        **{name: vit[name] for name in _SIZES},
        "attention_bias": bool(vit["qkv_bias"]),
        "use_qk_norm": bool(vit["qk_normalization"]),
        **{name: vit.get(name, usual) for name, usual in others.items()},
        "image_size": [size, size],
        "patch_size": [patch, patch],
    }
    return layout, {
        "text_config": text,
        "vision_config": vision,
        "downsample_ratio": ratio,
        "image_token_id": 92546 if kind == "llama" else 151667,
        "image_seq_length": int((size // patch) ** 2 * ratio**2),
    }


# ---- the base --------------------------------------------------------------------------------------------------------


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
    presets: Mapping[str, Settings] = PRESETS

    def decoder(self, core: PreTrainedModel) -> PreTrainedModel:
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
            fields = {key: config[key] for key in NATIVE_SETTINGS if key in config}
            settings = native_settings(self.config_class, fields, NATIVE_SETTINGS)
            known = [kind for _, kind in _TEXT_KINDS.values()]
            if (kind := settings["text_config"]["model_type"]) not in known:
                raise UserError(f"text tower {kind} is not supported: {', '.join(known)}")
            return "native", settings
        try:
            return original_settings(config)
        except KeyError as error:
            raise UserError(f"the base's config.json lacks {error}") from error

    def default_system_prompt(self, layout: str) -> str:
        """The official one with the original layout, none with transformers'."""
        return "none" if layout == "native" else "internvl"

    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """By RULES."""
        return by_rules(keys, RULES[layout], f"an InternVL checkpoint in the {layout} layout")

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
