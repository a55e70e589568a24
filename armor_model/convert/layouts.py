"""How published InternVL weights are named, and the rules that carry each tensor to its place in transformers' layout.

Two layouts: `original` (InternVL2.5 as published: InternLM2 or Qwen2 text tower, fused projections) and `native`
(transformers' own, with today's or yesterday's prefixes). The rules are data; a key that no rule knows is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from armor_model.base.errors import UserError

VIT, TEXT, MLP = "model.vision_tower", "model.language_model", "model.multi_modal_projector"


@dataclass(frozen=True)
class Origin:
    """Where a tensor of the new checkpoint comes from: a source tensor, and the part of it."""

    key: str
    part: str = ""
    """`q`, `k` or `v` of a fused projection (`vit:` thirds, `wqkv:` grouped), or empty for the whole tensor."""


def _qkv(kind: str, target: str, suffix: str) -> list[tuple[str, str]]:
    return [(f"{target}.{x}_proj.{suffix}", f"{kind}:{x}") for x in "qkv"]


# (pattern, [(target, part), ...]); \1 is the layer, \2 weight or bias
_VISION = [
    (r"vision_model\.embeddings\.class_embedding", [(f"{VIT}.embeddings.cls_token", "")]),
    (r"vision_model\.embeddings\.position_embedding", [(f"{VIT}.embeddings.position_embeddings", "")]),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        [(rf"{VIT}.embeddings.patch_embeddings.projection.\1", "")],
    ),
    *(
        (rf"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.{s}", _qkv("vit", rf"{VIT}.encoder.layer.\1.attention", s))
        for s in ("weight", "bias")
    ),
    *(
        (
            rf"vision_model\.encoder\.layers\.(\d+)\.{old}\.(weight|bias)",
            [(rf"{VIT}.encoder.layer.\1.{new}.\2", "")],
        )
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
    (r"vision_model\.encoder\.layers\.(\d+)\.ls1", [(rf"{VIT}.encoder.layer.\1.lambda_1", "")]),
    (r"vision_model\.encoder\.layers\.(\d+)\.ls2", [(rf"{VIT}.encoder.layer.\1.lambda_2", "")]),
    (r"mlp1\.0\.(weight|bias)", [(rf"{MLP}.layer_norm.\1", "")]),
    (r"mlp1\.1\.(weight|bias)", [(rf"{MLP}.linear_1.\1", "")]),
    (r"mlp1\.3\.(weight|bias)", [(rf"{MLP}.linear_2.\1", "")]),
]

_INTERNLM2 = [
    (r"language_model\.model\.tok_embeddings\.weight", [(f"{TEXT}.embed_tokens.weight", "")]),
    (r"language_model\.model\.norm\.weight", [(f"{TEXT}.norm.weight", "")]),
    (r"language_model\.output\.weight", [("lm_head.weight", "")]),
    (
        r"language_model\.model\.layers\.(\d+)\.attention\.wqkv\.weight",
        _qkv("wqkv", rf"{TEXT}.layers.\1.self_attn", "weight"),
    ),
    *(
        (rf"language_model\.model\.layers\.(\d+)\.{old}\.weight", [(rf"{TEXT}.layers.\1.{new}.weight", "")])
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
    (r"language_model\.lm_head\.weight", [("lm_head.weight", "")]),
    (r"language_model\.model\.(.+)", [(rf"{TEXT}.\1", "")]),
]

_NATIVE = [
    (r"(?:language_model\.)?lm_head\.weight", [("lm_head.weight", "")]),
    (r"(?:model\.)?language_model\.model\.(.+)", [(rf"{TEXT}.\1", "")]),
    (r"model\.language_model\.(.+)", [(rf"{TEXT}.\1", "")]),
    (r"(?:model\.)?vision_tower\.(.+)", [(rf"{VIT}.\1", "")]),
    (r"(?:model\.)?multi_modal_projector\.(.+)", [(rf"{MLP}.\1", "")]),
]

RULES = {"internlm2": [*_VISION, *_INTERNLM2], "qwen2": [*_VISION, *_QWEN2], "native": _NATIVE}


def targets(keys: Iterable[str], layout: str) -> dict[str, Origin]:
    """Names in transformers' layout for a checkpoint's keys. Raises UserError for a key that no rule knows."""
    rules = [(re.compile(pattern), outs) for pattern, outs in RULES[layout]]
    found: dict[str, Origin] = {}
    for key in keys:
        for pattern, outs in rules:
            match = pattern.fullmatch(key)
            if match:
                found.update({match.expand(target): Origin(key, part) for target, part in outs})
                break
        else:
            raise UserError(f"unknown weight {key}: not an InternVL checkpoint in the {layout} layout")
    return found


def splitter(part: str, text: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """The function that takes a fused projection's part out of it.

    InternLM2's wqkv interleaves by key-value group: with H heads over K groups, each group holds H/K query heads, then
    its key, then its value. Contiguous thirds have the same shapes, load without a word, and are wrong.
    """
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


# ---- configurations -------------------------------------------------------------------------------------------------

_TEXT_KINDS = {"InternLM2ForCausalLM": ("internlm2", "llama"), "Qwen2ForCausalLM": ("qwen2", "qwen2")}


def read_config(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Layout and ArmorConfig's settings for a published config.json. Raises UserError for another kind of model."""
    kind = config.get("model_type")
    if kind == "internvl":
        keep = ("text_config", "vision_config", "image_token_id", "image_seq_length", "downsample_ratio",
                "projector_hidden_act", "vision_feature_layer", "vision_feature_select_strategy")  # fmt: skip
        return "native", {key: config[key] for key in keep if key in config}
    if kind != "internvl_chat":
        raise UserError(f"the base's model_type is {kind!r}; InternVL2.5's is internvl_chat, transformers' internvl")
    try:
        return _original(config)
    except KeyError as error:
        raise UserError(f"the base's config.json lacks {error}") from error


def _original(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
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
    text = {
        "model_type": kind,
        "vocab_size": llm["vocab_size"],
        "hidden_size": llm["hidden_size"],
        "intermediate_size": llm["intermediate_size"],
        "num_hidden_layers": llm["num_hidden_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": llm.get("num_key_value_heads") or heads,
        "head_dim": llm.get("head_dim") or llm["hidden_size"] // heads,
        "hidden_act": llm.get("hidden_act", "silu"),
        "max_position_embeddings": llm["max_position_embeddings"],
        "rms_norm_eps": llm.get("rms_norm_eps", 1e-5 if kind == "llama" else 1e-6),
        "initializer_range": llm.get("initializer_range", 0.02),
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
    vision = {
        "model_type": "internvl_vision",
        "hidden_size": vit["hidden_size"],
        "intermediate_size": vit["intermediate_size"],
        "num_hidden_layers": vit["num_hidden_layers"],
        "num_attention_heads": vit["num_attention_heads"],
        "attention_bias": bool(vit["qkv_bias"]),
        "use_qk_norm": bool(vit["qk_normalization"]),
        "norm_type": vit.get("norm_type", "rms_norm"),
        "layer_norm_eps": vit.get("layer_norm_eps", 1e-6),
        "hidden_act": vit.get("hidden_act", "gelu"),
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
