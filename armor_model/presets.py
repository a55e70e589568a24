"""Named configurations as data, and the number of their parameters: the bases' published sizes, armor-nano, tiny.

No torch here, so that `armor-model params` answers at once.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import unknown_name
from armor_model.base.jsons import JsonObject
from armor_model.bases import BASES, Settings, base_name_of, find_base

if TYPE_CHECKING:
    from armor_model.config import ArmorFields


def _small(
    base: str, width: int, layers: int, ffn: int, vit: int, vq: Settings, vocab: int, codes: int, patch: int, std: float
) -> Settings:
    """A model for 32x32 images: patches of 4 pixels give 16 tokens an image seen, of 8 pixels 4; 4x4 codes an image
    drawn."""
    tower = find_base(base).small(width // 4, vit, patch)
    text = {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": ffn,
        "max_position_embeddings": 1024,
        "initializer_range": std,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "tie_word_embeddings": False,
    }
    return {
        "base_name": base,
        **tower,
        "text_config": {
            **text,
            **tower["text_config"],
            "rope_parameters": text["rope_parameters"] | tower["text_config"].get("rope_parameters", {}),
        },
        "image_token_id": 3,
        "num_adapter_layers": 2,
        "codebook_size": codes,
        "image_grid": 4,
        "vq_config": {"type": "patch", "image_size": 32, **vq},
    }


def _smalls(base: str) -> dict[str, Settings]:
    suffix = "" if base == "internvl" else f"-{base}"
    return {
        # Patches of 8 pixels: one token a cell of the shapes world, and prompts a quarter shorter. Initial weights of
        # 0.1, about 1 / sqrt(width); the usual 0.02 is made for widths in the thousands.
        f"armor-nano{suffix}": _small(
            base, 96, 4, 256, 64, {"latent_dim": 24, "encoder_width": 96, "width": 64}, 256, 128, patch=8, std=0.1
        ),
        f"tiny{suffix}": _small(
            base, 32, 2, 64, 32, {"latent_dim": 8, "encoder_width": 16, "width": 16}, 64, 16, patch=4, std=0.02
        ),
    }


PRESETS: dict[str, Settings] = {
    **{preset: settings for base in BASES for preset, settings in find_base(base).presets.items()},
    **{preset: settings for base in BASES for preset, settings in _smalls(base).items()},
}


def preset_names() -> list[str]:
    """Names that `preset` knows."""
    return list(PRESETS)


def preset_dict(name: str) -> JsonObject:
    """The plain settings of a preset, as a copy. Raises UserError with a suggestion for an unknown name."""
    if name not in PRESETS:
        raise unknown_name("configuration", name, PRESETS)
    return deepcopy(PRESETS[name])


def preset(name: str, vocab_size: int | None = None, text: JsonObject | None = None, **overrides: Any) -> ArmorFields:
    """Build a named configuration.

    Args:
        name: one of `preset_names()`.
        vocab_size: V, for the small presets, whose word list is the caller's.
        text: settings of the text tower to override.
        overrides: settings of ArmorFields to override, e.g. `num_adapter_layers=2`.
    """
    from armor_model.config import make_config

    settings = preset_dict(name)
    settings["text_config"].update(text or {})
    if vocab_size is not None:
        settings["text_config"]["vocab_size"] = vocab_size
    return make_config({**settings, **overrides})


# ---- parameters by arithmetic: the tests hold these sums against the built model and the published totals -----------

TRAINED = {
    "1 what": ("new_embeddings", "text_head", "imgbos_row"),
    "2 how": ("new_embeddings", "adapter", "visual_head"),
    "3 better": ("new_embeddings", "adapter", "text_head", "imgbos_row", "visual_head"),
}
"""Parts that learn in each of the three stages (the paper's Figure 5)."""

NEW_PARTS = ("new_embeddings", "adapter", "imgbos_row", "visual_head")
"""What ARMOR adds to its base."""


def block(t: JsonObject) -> int:
    """One decoder block of the text tower: 218.1 M at InternVL2.5-8B's sizes."""
    d, heads, kv = t["hidden_size"], t["num_attention_heads"], t["num_key_value_heads"]
    head_dim = t.get("head_dim") or d // heads
    kind = t["model_type"]
    biased = kind in ("qwen2", "qwen2_5_vl_text")  # of queries, keys, values; elsewhere, where asked, the output's too
    extra = (heads + 2 * kv) * head_dim if biased else 0
    if not biased and t.get("attention_bias"):
        extra = (heads + 2 * kv) * head_dim + d
    if kind in ("qwen3", "qwen3_vl_text"):
        extra += 2 * head_dim  # the norms of queries and keys
    return 2 * d * heads * head_dim + 2 * d * kv * head_dim + extra + 3 * d * t["intermediate_size"] + 2 * d


def count(config: JsonObject) -> dict[str, int]:
    """Parameters by part (named as in the model's `part_modules`); the image tokenizer is not counted.

    Args:
        config: a preset's settings, or a checkpoint's config.json.
    """
    t, K = config["text_config"], config["codebook_size"]
    D, V = t["hidden_size"], t["vocab_size"]
    single = config.get("heads") == "single"
    return {
        **find_base(base_name_of(config) or "").parameters(config),
        "embeddings": V * D,
        "decoder": t["num_hidden_layers"] * block(t) + D,
        "text_head": V * D,
        "new_embeddings": (K + 3) * D,
        "adapter": config["num_adapter_layers"] * block(t) + D,
        "imgbos_row": 0 if single else D,
        "visual_head": (V + K + 3 if single else K + 2) * D,
    }


def summary(config: JsonObject) -> JsonObject:
    """`parts`, `base` (the base's own), `new`, `new_percent` (of the base), `total`, and by stage `trained` and
    `training_bytes`: fp32 masters, gradients and AdamW's two moments, 16 bytes a parameter, on top of the frozen
    weights."""
    parts = count(config)
    new = sum(parts[name] for name in NEW_PARTS)
    total = sum(parts.values())
    trained = {stage: sum(parts[name] for name in names) for stage, names in TRAINED.items()}
    return {
        "parts": parts,
        "base": total - new,
        "new": new,
        "new_percent": 100 * new / (total - new),
        "total": total,
        "trained": trained,
        "training_bytes": {stage: 16 * number for stage, number in trained.items()},
    }
