"""Janus-Pro through transformers as a drawing model: `--model janus:deepseek-community/Janus-Pro-1B[@REVISION]`.

Shape legend: B prompts, 2B rows (conditional, then unconditional), V image codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_eval.errors import UserError
from armor_eval.models.base import Decoding
from armor_eval.models.diffusers import parse, snapshot
from armor_eval.runs.provenance import fingerprint_folder, sha256_text
from armor_eval.runs.schema import ModelInfo, Profile

if TYPE_CHECKING:
    import torch
    from PIL import Image

GUIDANCE = 5.0
"""Janus-Pro's own classifier-free guidance."""


def load(rest: str, profile: Profile, *, device: str | None = None) -> JanusModel:
    return JanusModel(rest, device)


class GuidedSampling:
    """Guidance and sampling with a generator a row, as a logits processor: [2B, V] in, [B, V] out, to be argmax-ed.

    Adding Gumbel noise and taking the maximum draws from the softmax exactly; transformers' own sampling has one
    generator for the whole process, so that a picture would hang on its batch.
    """

    def __init__(self, seeds: Sequence[int], guidance: float, temperature: float, top_k: int) -> None:
        import torch

        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.guidance, self.temperature, self.top_k = guidance, temperature, top_k

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        conditional, unconditional = scores.float().chunk(2)
        logits = unconditional + self.guidance * (conditional - unconditional)
        if self.temperature == 0:
            return logits
        logits = logits / self.temperature
        if self.top_k:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        uniform = torch.stack([torch.rand(logits.shape[-1], generator=g, dtype=torch.float64) for g in self.generators])
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
        return logits + gumbel.to(logits)


class JanusModel:
    """Loads on first use."""

    def __init__(self, rest: str, device: str | None = None) -> None:
        name, revision = parse("janus", rest)
        self._folder, commit = snapshot("janus", name, revision)
        self._device = device
        self._loaded = None
        self.info = ModelInfo(
            spec=f"janus:{rest}",
            name=Path(name).name,
            fingerprint=sha256_text(f"janus:{name}@{commit}") if commit else fingerprint_folder(self._folder),
            revision=commit,
        )

    def _load(self):
        if self._loaded is None:
            from armor_model.base.runtime import prepare_torchvision

            prepare_torchvision()
            import torch
            from transformers import AutoProcessor, JanusForConditionalGeneration

            device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
            try:
                model = JanusForConditionalGeneration.from_pretrained(self._folder, dtype=dtype).to(device).eval()
                self._loaded = model, AutoProcessor.from_pretrained(self._folder)
            except (OSError, ValueError, KeyError) as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(f"{self.info.name} is not a Janus model for transformers: {first}") from None
        return self._loaded

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        """One picture a prompt. A guidance of 1, our default, means Janus-Pro's own, 5."""
        import torch
        from transformers import LogitsProcessorList

        model, processor = self._load()
        guidance = GUIDANCE if decoding.guidance == 1.0 else decoding.guidance
        sampling = GuidedSampling(seeds, guidance, decoding.image_temperature, decoding.image_top_k)
        words = [
            processor.apply_chat_template(
                [{"role": "user", "content": [{"type": "text", "text": prompt}]}], add_generation_prompt=True
            )
            for prompt in prompts
        ]
        inputs = processor(text=words, generation_mode="image", padding=True, return_tensors="pt").to(model.device)
        try:
            with torch.inference_mode():
                codes = model.generate(
                    **inputs,
                    generation_mode="image",
                    do_sample=False,
                    guidance_scale=1.0,  # applied by `sampling`, which must see both halves
                    logits_processor=LogitsProcessorList([sampling]),
                )
                pixels = model.decode_image_tokens(codes)
            done = processor.postprocess(list(pixels.float()), return_tensors="PIL.Image.Image")
            return list(done["pixel_values"])
        except Exception as error:
            if len(prompts) == 1:
                return [error]
            return [self.draw([p], [s], decoding)[0] for p, s in zip(prompts, seeds, strict=True)]

    def close(self) -> None:
        self._loaded = None
