"""How many parameters a configuration has, part by part, from arithmetic alone (no torch): `armor-model params`.

The tests hold these sums against the built model and against the published totals.
"""

from __future__ import annotations

from typing import Any

TRAINED = {
    "1 what": ("new_embeddings", "text_head", "imgbos_row"),
    "2 how": ("new_embeddings", "adapter", "visual_head"),
    "3 better": ("new_embeddings", "adapter", "text_head", "imgbos_row", "visual_head"),
}
"""Parts that learn in each of the three stages (the paper's Figure 5)."""

NEW_PARTS = ("new_embeddings", "adapter", "imgbos_row", "visual_head")
"""What ARMOR adds to an InternVL."""


def _vision(v: dict[str, Any]) -> int:
    d, f = v["hidden_size"], v["intermediate_size"]
    height, width = (size // patch for size, patch in zip(v["image_size"], v["patch_size"], strict=True))
    patch = v["patch_size"][0] * v["patch_size"][1]
    embeddings = d + (height * width + 1) * d + 3 * patch * d + d
    attention = 4 * d * d + d + (3 * d if v.get("attention_bias") else 0) + (2 * d if v.get("use_qk_norm") else 0)
    norms = 2 * d if v.get("norm_type") == "rms_norm" else 4 * d
    return embeddings + v["num_hidden_layers"] * (attention + 2 * d * f + f + d + norms + 2 * d)


def block(t: dict[str, Any]) -> int:
    """One decoder block of the text tower: 218.1 M at InternVL2.5-8B's sizes."""
    d, heads, kv = t["hidden_size"], t["num_attention_heads"], t["num_key_value_heads"]
    head_dim = t.get("head_dim") or d // heads
    biases = (heads + 2 * kv) * head_dim if t["model_type"] == "qwen2" else 0
    return 2 * d * heads * head_dim + 2 * d * kv * head_dim + biases + 3 * d * t["intermediate_size"] + 2 * d


def count(config: dict[str, Any]) -> dict[str, int]:
    """Parameters by part (named as in the model's `part_modules`); the image tokenizer is not counted.

    Args:
        config: a preset's settings, or a checkpoint's config.json.
    """
    t, v, K = config["text_config"], config["vision_config"], config["codebook_size"]
    D, V, wide = t["hidden_size"], t["vocab_size"], 4 * v["hidden_size"]
    single = config.get("heads") == "single"
    return {
        "vision": _vision(v),
        "projector": 2 * wide + wide * D + D + D * D + D,
        "embeddings": V * D,
        "decoder": t["num_hidden_layers"] * block(t) + D,
        "text_head": V * D,
        "new_embeddings": (K + 3) * D,
        "adapter": config["num_adapter_layers"] * block(t) + D,
        "imgbos_row": 0 if single else D,
        "visual_head": (V + K + 3 if single else K + 2) * D,
    }


def summary(config: dict[str, Any]) -> dict[str, Any]:
    """`parts`, `internvl`, `new`, `new_percent` (of InternVL), `total`, and `trained` by stage."""
    parts = count(config)
    new = sum(parts[name] for name in NEW_PARTS)
    total = sum(parts.values())
    return {
        "parts": parts,
        "internvl": total - new,
        "new": new,
        "new_percent": 100 * new / (total - new),
        "total": total,
        "trained": {stage: sum(parts[name] for name in names) for stage, names in TRAINED.items()},
    }
