"""How many tokens a model can hold at once, estimated from its configuration and the memory that is free.

An estimate: where it is too high, memory runs out once, and the engine goes on with half (armor_eval.engine.batches).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from armor_eval.models.base import Room
from armor_model.base.devices import free_memory

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

USED = 0.8
"""Share of the free memory that is planned with."""
ROWS_CPU, ROWS_GPU = 64, 256
"""More rows no longer make a step cheaper by the row."""
PATCHES = 4
"""Patches of the vision tower behind one token."""


def room_of(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> Room:
    """Of a loaded model; `config` has a text and mostly a vision part."""
    rows = ROWS_CPU if device.type == "cpu" else ROWS_GPU
    return Room(int(free_memory(device) * USED) // (token_numbers(config) * dtype.itemsize), rows)


def token_numbers(config: PretrainedConfig) -> int:
    """Numbers that one token takes: keys and values in every layer, and the widest layer's intermediate results of the
    prompt's pass, of text or of the patches behind it."""
    text, vision = config.get_text_config(), getattr(config, "vision_config", None)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * width + max(_layer(text), PATCHES * _layer(vision) if vision else 0)


def _layer(part: PretrainedConfig) -> int:
    """Residual, normed input, queries, keys, values and output of a layer; the gate, its product and its result."""
    width: int = part.hidden_size if hasattr(part, "hidden_size") else getattr(part, "embed_dim", 0)
    inner = getattr(part, "intermediate_size", None)
    return 6 * width + 3 * (inner if isinstance(inner, int) else 4 * width)
