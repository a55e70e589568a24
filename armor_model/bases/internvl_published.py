"""InternVL2.5, 3 and 3.5 as published: how weights are named, what configurations say, which sizes there are.

Two layouts of weights: `original` ones (InternVL2.5 as published: `internlm2` or `qwen2` text decoder, fused
projections) and `native` (transformers' own, with today's or yesterday's prefixes). The rules that carry each tensor to
its place are data; a key that no rule knows is an error.
"""

from __future__ import annotations

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject

VIT, TEXT, MLP = "model.vision_tower", "model.language_model", "model.multi_modal_projector"

# ---- names of weights -----------------------------------------------------------------------------------------------

Rule = tuple[str, list[tuple[str, str]]]
"""A pattern, and for each tensor made of it (target, part); \\1 is the layer, \\2 weight or bias."""


def _whole(pattern: str, target: str) -> Rule:
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
NATIVE_SETTINGS = (
    "text_config",
    "vision_config",
    "image_token_id",
    "image_seq_length",
    "downsample_ratio",
    "projector_hidden_act",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)


def original_settings(config: JsonObject) -> tuple[str, JsonObject]:
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


def _vision_preset(size: str) -> JsonObject:
    """InternViT: `300M` has LayerNorm and qkv biases, `6B` has RMSNorm and normalised queries and keys."""
    small = size == "300M"
    return {
        "model_type": "internvl_vision",
        "hidden_size": 1024 if small else 3200,
        "num_hidden_layers": 24 if small else 45,
        "num_attention_heads": 16 if small else 25,
        "intermediate_size": 4096 if small else 12800,
        "attention_bias": small,
        "use_qk_norm": not small,
        "norm_type": "layer_norm" if small else "rms_norm",
        "layer_norm_eps": 1e-6,
        "image_size": [448, 448],
        "patch_size": [14, 14],
    }


def _text_preset(kind: str, width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> JsonObject:
    """InternLM2 has Llama's layout (no biases, eps 1e-5); Qwen2.5 adds q, k, v biases (eps 1e-6)."""
    llama = kind == "llama"
    return {
        "model_type": kind,
        "vocab_size": 92553 if llama else 151674,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width // heads,
        "intermediate_size": ffn,
        "rms_norm_eps": 1e-5 if llama else 1e-6,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False,
    }


def preset(vision: str, kind: str, *sizes: int) -> JsonObject:
    """A published size: `sizes` are width, layers, heads, key-value heads and feed-forward width of the text tower."""
    return {
        "vision_config": _vision_preset(vision),
        "text_config": _text_preset(kind, *sizes),
        "image_token_id": 92546 if kind == "llama" else 151667,
        "image_seq_length": 256,
        "num_adapter_layers": 3,
        "codebook_size": 8192,
        "image_grid": 16,
        "vq_config": {"type": "chameleon", "image_size": 256},
    }
