"""LoRA on the text decoder (`--lora RANK`), by peft: the one way in which a stage here changes text beside its heads.

The paper freezes the decoder; without the option nothing of this module runs. The additions are merged into the
decoder's own matrices at the end, so what is saved is a plain checkpoint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from armor_model.modeling import ArmorModel

MATRICES = r"layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
"""Of a decoder's blocks, all their matrices."""


def add_lora(model: ArmorModel, rank: int) -> None:
    """Put low-rank additions, zero at the start, beside every matrix of the decoder's blocks. Raises UserError without
    peft."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("--lora needs the package peft", "pip install 'armor-eval[lora]'") from error
    target = rf"{re.escape(model.base.decoder_path)}\.{MATRICES}"
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=target), model)


def merge_lora(model: nn.Module) -> None:
    """Add what was learned to the matrices, and take peft's layers out."""
    from peft.tuners.lora import LoraLayer

    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        parent, _, child = name.rpartition(".")
        layer.merge(safe_merge=True)
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
