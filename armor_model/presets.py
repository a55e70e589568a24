"""Named configurations as data: the seven published InternVL2.5 sizes, the bundled armor-nano, and tiny ones for tests.

No torch here, so that `armor-model params` answers at once. Sizes: shared facts, checked against published configs.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import unknown_name

if TYPE_CHECKING:
    from armor_model.config import ArmorConfig

CHAMELEON_VQ = {"type": "chameleon", "image_size": 256}


def _vision(size: str) -> dict[str, Any]:
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


def _text(kind: str, width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> dict[str, Any]:
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


def _internvl(vision: str, kind: str, *sizes: int) -> dict[str, Any]:
    return {
        "vision_config": _vision(vision),
        "text_config": _text(kind, *sizes),
        "image_token_id": 92546 if kind == "llama" else 151667,
        "image_seq_length": 256,
        "num_adapter_layers": 3,
        "codebook_size": 8192,
        "image_grid": 16,
        "vq_config": dict(CHAMELEON_VQ),
    }


def _small(
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    ffn: int,
    vit: int,
    vq: dict[str, Any],
    codes: int,
    patch: int = 4,
    std: float = 0.02,
) -> dict[str, Any]:
    """A model for 32x32 pictures: patches of 4 pixels give 16 tokens a picture seen, of 8 pixels 4; 4x4 codes a picture
    drawn."""
    return {
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": vit,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 2 * vit,
            "attention_bias": True,
            "image_size": [32, 32],
            "patch_size": [patch, patch],
        },
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": vocab,
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "intermediate_size": ffn,
            "max_position_embeddings": 1024,
            "initializer_range": std,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "tie_word_embeddings": False,
        },
        "image_token_id": 3,
        "image_seq_length": (32 // patch // 2) ** 2,
        "num_adapter_layers": 2,
        "codebook_size": codes,
        "image_grid": 4,
        "vq_config": {"type": "patch", "image_size": 32, **vq},
    }


PRESETS: dict[str, dict[str, Any]] = {
    "internvl2_5-1b": _internvl("300M", "qwen2", 896, 24, 14, 2, 4864),
    "internvl2_5-2b": _internvl("300M", "llama", 2048, 24, 16, 8, 8192),
    "internvl2_5-4b": _internvl("300M", "qwen2", 2048, 36, 16, 2, 11008),
    "internvl2_5-8b": _internvl("300M", "llama", 4096, 32, 32, 8, 14336),
    "internvl2_5-26b": _internvl("6B", "llama", 6144, 48, 48, 8, 16384),
    "internvl2_5-38b": _internvl("6B", "qwen2", 5120, 64, 40, 8, 27648),
    "internvl2_5-78b": _internvl("6B", "qwen2", 8192, 80, 64, 8, 29568),
    # Patches of 8 pixels: one token a cell of the shapes world, and prompts a quarter shorter. Initial weights of
    # 0.1, about # 1 / sqrt(width); the usual 0.02 is made for widths in the thousands.
    "armor-nano": _small(
        256, 96, 4, 4, 256, 64, {"latent_dim": 24, "encoder_width": 96, "width": 64}, 128, patch=8, std=0.1
    ),
    "tiny": _small(64, 32, 2, 4, 64, 32, {"latent_dim": 8, "encoder_width": 16, "width": 16}, 16),
}


def preset_names() -> list[str]:
    """Names that `preset` knows."""
    return list(PRESETS)


def preset_dict(name: str) -> dict[str, Any]:
    """The plain settings of a preset, as a copy. Raises UserError with a suggestion for an unknown name."""
    if name not in PRESETS:
        raise unknown_name("configuration", name, PRESETS)
    return deepcopy(PRESETS[name])


def preset(
    name: str, vocab_size: int | None = None, text: dict[str, Any] | None = None, **overrides: Any
) -> ArmorConfig:
    """Build a named configuration.

    Args:
        name: one of `preset_names()`.
        vocab_size: V, for the small presets, whose word list is the caller's.
        text: settings of the text tower to override.
        overrides: settings of ArmorConfig to override, e.g. `num_adapter_layers=2`.
    """
    from armor_model.config import ArmorConfig

    settings = preset_dict(name)
    settings["text_config"].update(text or {})
    if vocab_size is not None:
        settings["text_config"]["vocab_size"] = vocab_size
    return ArmorConfig(**{**settings, **overrides})
