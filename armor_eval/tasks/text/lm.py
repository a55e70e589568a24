"""ARMOR as a model of lm-evaluation-harness: its text head behind their LM API (loglikelihood, rolling, generate).

Shape legend: B requests, T tokens, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from armor_model.base.errors import UserError


class ArmorLM(HFLM):
    """Requests are ordered, batched, padded and read by HFLM; only the two calls of the model are ours. Drawing is off:
    <imgbos> is no part of the text vocabulary that continuations are scored over."""

    def __init__(self, folder: Path, batch_size: int | str = 1, device: str | None = None) -> None:
        from armor_model import load

        self._armor, self._processor = load(folder, device=device or "cpu")
        context = self._armor.config.text_config.max_position_embeddings
        super().__init__(
            pretrained=self._armor,
            tokenizer=self._processor.tokenizer,
            backend="causal",
            batch_size=batch_size,
            max_length=context,
        )

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Token ids [B, T], padded on the right, to logits [B, T, V]."""
        with torch.inference_mode():
            hidden_BTD = self._armor.backbone(self._armor.embed(inps))
            return self._armor.text_logits(hidden_BTD)[..., : self._armor.config.vocab_size]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **settings: Any) -> Tensor:
        """Prompts [B, T], padded on the left, with their greedy continuations [B, up to max_length]; HFLM cuts them at
        its stop strings."""
        from armor_model import GenerationSettings
        from armor_model.generation.engine import Engine
        from armor_model.generation.state import Request

        if settings.get("do_sample") or settings.get("temperature"):
            raise UserError("ARMOR answers lm-eval's tasks greedily", "leave do_sample and temperature out")
        mask = settings.get("attention_mask")
        new = max_length - context.shape[1]
        decoding = GenerationSettings(max_new_tokens=new, allow_images=False)
        engine = Engine(self._armor, decoding, self._processor.stop_ids, [], batch_size=len(context))
        rows = list(context) if mask is None else [row[m.bool()] for row, m in zip(context, mask, strict=True)]
        done = engine.run([Request(row.tolist(), [], seed) for seed, row in enumerate(rows)])
        longest = max((len(row.tokens) for row in done), default=0)
        pad = self.tokenizer.pad_token_id
        said = [row.tokens + [pad] * (longest - len(row.tokens)) for row in done]
        return torch.cat([context, torch.tensor(said, dtype=context.dtype, device=context.device)], dim=1)
