"""The published sizes of InternVL2.5, 3 and 3.5 as settings of ARMOR's configuration."""

from __future__ import annotations

from collections.abc import Mapping

from armor_model.bases import Settings, decoder_sizes, published_preset


def _vision(size: str) -> Settings:
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


def _preset(vision: str, kind: str, width: int, layers: int, heads: int, kv_heads: int, ffn: int) -> Settings:
    """A published size, by the sizes of its text tower: InternLM2 has Llama's layout (no biases, eps 1e-5), Qwen2.5
    adds biases of queries, keys and values (eps 1e-6), Qwen3 norms them instead, in heads of 128."""
    vocab, image_token, eps, context = {
        "llama": (92553, 92546, 1e-5, 32768),
        "qwen2": (151674, 151667, 1e-6, 32768),
        "qwen3": (151936, 151671, 1e-6, 40960),
    }[kind]
    head_dim = 128 if kind == "qwen3" else width // heads
    text = decoder_sizes(kind, vocab, width, layers, heads, kv_heads, ffn, context, 1e6, eps, head_dim)
    return published_preset(text, _vision(vision), image_token, image_seq_length=256)


PRESETS: Mapping[str, Settings] = {
    "internvl2_5-1b": _preset("300M", "qwen2", 896, 24, 14, 2, 4864),
    "internvl2_5-2b": _preset("300M", "llama", 2048, 24, 16, 8, 8192),
    "internvl2_5-4b": _preset("300M", "qwen2", 2048, 36, 16, 2, 11008),
    "internvl2_5-8b": _preset("300M", "llama", 4096, 32, 32, 8, 14336),
    "internvl2_5-26b": _preset("6B", "llama", 6144, 48, 48, 8, 16384),
    "internvl2_5-38b": _preset("6B", "qwen2", 5120, 64, 40, 8, 27648),
    "internvl2_5-78b": _preset("6B", "qwen2", 8192, 80, 64, 8, 29568),
    "internvl3-1b": _preset("300M", "qwen2", 896, 24, 14, 2, 4864),
    "internvl3-2b": _preset("300M", "qwen2", 1536, 28, 12, 2, 8960),
    "internvl3-8b": _preset("300M", "qwen2", 3584, 28, 28, 4, 18944),
    "internvl3-14b": _preset("300M", "qwen2", 5120, 48, 40, 8, 13824),
    "internvl3-38b": _preset("6B", "qwen2", 5120, 64, 40, 8, 27648),
    "internvl3-78b": _preset("6B", "qwen2", 8192, 80, 64, 8, 29568),
    "internvl3_5-1b": _preset("300M", "qwen3", 1024, 28, 16, 8, 3072),
    "internvl3_5-2b": _preset("300M", "qwen3", 2048, 28, 16, 8, 6144),
    "internvl3_5-4b": _preset("300M", "qwen3", 2560, 36, 32, 8, 9728),
    "internvl3_5-8b": _preset("300M", "qwen3", 4096, 36, 32, 8, 12288),
    "internvl3_5-14b": _preset("300M", "qwen3", 5120, 40, 40, 8, 17408),
    "internvl3_5-38b": _preset("6B", "qwen3", 5120, 64, 64, 8, 25600),
}
