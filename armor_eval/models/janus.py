"""Janus-Pro through transformers as a drawing model: `--model janus:deepseek-community/Janus-Pro-1B[@REVISION]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from armor_eval.models.base import Decoding
from armor_eval.models.drawing import GuidedSampling
from armor_eval.models.transformers_drawing import TransformersDrawing, images_of
from armor_eval.runs.schema import Profile

if TYPE_CHECKING:
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

GUIDANCE = 5.0
"""Janus-Pro's own classifier-free guidance."""


def load(
    rest: str, profile: Profile, *, device: str | None = None, dtype: str | None = None, device_map: str | None = None
) -> JanusModel:
    return JanusModel(rest, device, dtype, device_map)


class JanusModel(TransformersDrawing):
    """Draws 24 x 24 codes, an image of 384 pixels, with classifier-free guidance."""

    kind, example, guidance = "janus", "janus:deepseek-community/Janus-Pro-1B", GUIDANCE

    def _class(self) -> type[PreTrainedModel]:
        from transformers import JanusForConditionalGeneration

        return JanusForConditionalGeneration

    def _prepare(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """`generate` reads the token that begins an image from `generation_config.generation_kwargs`, where old
        conversions keep it; new ones have it at the top, and the tokenizer knows it in any case."""
        config, tokenizer = model.generation_config, processor.tokenizer
        generating = dict(getattr(config, "generation_kwargs", None) or {})
        begin = generating.get("boi_token_id", getattr(config, "boi_token_id", None))
        if begin is None:
            begin = getattr(tokenizer, "boi_token_id", None)
        if begin is None:
            raise ValueError("neither its generation config nor its tokenizer names boi_token_id")
        config.generation_kwargs, config.boi_token_id = {**generating, "boi_token_id": begin}, begin
        for name in ("bos_token_id", "pad_token_id"):
            if getattr(config, name, None) is None:
                setattr(config, name, getattr(tokenizer, name))

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        import torch
        from transformers import LogitsProcessorList

        model, processor = self._load()
        words = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "text", "text": prompt}]}], add_generation_prompt=True
            )
            for prompt in prompts
        ]
        inputs = processor(text=words, generation_mode="image", padding=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            codes = model.generate(
                **inputs,
                generation_mode="image",
                do_sample=False,
                guidance_scale=1.0,  # applied by GuidedSampling, which must see both halves
                logits_processor=LogitsProcessorList([GuidedSampling(seeds, self._guidance(decoding), decoding)]),
            )
            return images_of(model.decode_image_tokens(codes), processor)
