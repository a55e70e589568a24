"""Emu3 through transformers as a drawing model: `--model emu3:Emu3-community/Emu3-Gen-hf[@REVISION]`.

An image is h rows of w codes, each row closed by an end-of-line token, and three tokens that close the image. Emu3's
own sampling is `--image-top-k 2048`.

Shape legend: B prompts, 2B rows (conditional, then unconditional), V vocabulary, K codes, h x w the grid of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from armor_eval.models.base import Decoding
from armor_eval.models.drawing import GuidedSampling
from armor_eval.models.options import refuse_unknown
from armor_eval.models.transformers_drawing import TransformersDrawing, images_of
from armor_eval.runs.schema import Profile
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject, JsonView

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

GUIDANCE = 3.0
"""Emu3-Gen's own classifier-free guidance."""
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality, normal quality, jpeg artifacts, signature, watermark, username, blurry."
)
OPTIONS = {"ratio": "1:1", "image_area": 518_400, "positive_prompt": "", "negative_prompt": NEGATIVE}
"""Model arguments with their defaults: 720 x 720 pixels, and the negative prompt of the authors' example. What they add
to a prompt, " masterpiece, film grained, best quality.", would be another text than the benchmark's: it is off."""


def load(
    rest: str,
    profile: Profile,
    *,
    device: str | None = None,
    dtype: str | None = None,
    device_map: str | None = None,
    model_args: JsonView | None = None,
) -> Emu3Model:
    """`model_args`: see OPTIONS."""
    arguments = dict(model_args or {})
    refuse_unknown("emu3", arguments, OPTIONS)
    for name, value in arguments.items():
        if type(value) is not type(OPTIONS[name]) or (name == "image_area" and cast("int", value) <= 0):
            raise UserError(f"--model-args {name}={value}", f"expected something like {name}={OPTIONS[name]}")
    model = Emu3Model(rest, device, dtype, device_map)
    model.options = {**OPTIONS, **arguments}
    model.asked = {**model.asked, **arguments}
    return model


class Emu3Model(TransformersDrawing):
    """Draws rows of codes, 720 x 720 pixels by default, against a negative prompt."""

    kind, example, guidance = "emu3", "emu3:Emu3-community/Emu3-Gen-hf", GUIDANCE
    options: JsonView = OPTIONS

    def _class(self) -> type[PreTrainedModel]:
        from transformers import Emu3ForConditionalGeneration

        return Emu3ForConditionalGeneration

    def _prepare(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        processor.tokenizer.padding_side = "left"
        if not model.vocabulary_mapping.image_tokens:
            raise ValueError("its config has no vocabulary_map with visual tokens")

    def _own(self, decoding: Decoding) -> JsonObject:
        return {**super()._own(decoding), **self.options}

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        import torch
        from transformers import LogitsProcessorList

        model, processor = self._load()
        texts = [prompt + self.options["positive_prompt"] for prompt in prompts]
        inputs = processor(
            text=[*texts, *([self.options["negative_prompt"]] * len(prompts))],
            return_for_image_generation=True,
            ratio=self.options["ratio"],
            image_area=self.options["image_area"],
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        height, width = (int(side) for side in inputs.pop("image_sizes")[0])
        prompt_length = inputs["input_ids"].shape[1]
        sampling = GuidedSampling(seeds, self._guidance(decoding), decoding)
        grid = Grid.of(model, processor, height, width, prompt_length, sampling)
        with torch.inference_mode():
            tokens = model.generate(
                **inputs,
                max_new_tokens=grid.length,
                min_new_tokens=grid.length,
                do_sample=False,
                num_beams=1,
                logits_processor=LogitsProcessorList([grid]),
            )
            drawn = tokens[: len(prompts), prompt_length:]
            pixels_BCHW = model.decode_image_tokens(image_tokens=drawn, height=height, width=width)
        return images_of(pixels_BCHW.permute(0, 2, 3, 1), processor)


@dataclass(frozen=True)
class Grid:
    """A logits processor that lets only an image through: codes where codes belong, the closing tokens where they do.

    Both halves get the same logits, so that the unconditional rows go on with the codes that the conditional ones took.
    """

    codes: torch.Tensor
    """Token ids of the K image codes."""
    line: int
    closing: tuple[int, ...]
    height: int
    width: int
    asked: int
    """Tokens of the prompt."""
    sampling: GuidedSampling

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        height: int,
        width: int,
        asked: int,
        sampling: GuidedSampling,
    ) -> Grid:
        import torch

        tokenizer, mapping = processor.tokenizer, model.vocabulary_mapping
        ends = (tokenizer.eof_token_id, tokenizer.eoi_token_id, tokenizer.eos_token_id)
        codes = torch.tensor(mapping.image_tokens, device=model.device)
        return cls(codes, mapping.eol_token_id, ends, height, width, asked, sampling)

    @property
    def length(self) -> int:
        """Tokens of an image."""
        return self.height * (self.width + 1) + len(self.closing)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        import torch

        at = input_ids.shape[1] - self.asked
        row, column = divmod(at, self.width + 1)
        only_2BV = torch.full_like(scores, float("-inf"), dtype=torch.float32)
        if row >= self.height:
            only_2BV[:, self.closing[at - self.height * (self.width + 1)]] = 0
        elif column == self.width:
            only_2BV[:, self.line] = 0
        else:
            only_2BV[:, self.codes] = self.sampling(None, scores[:, self.codes]).repeat(2, 1)
        return only_2BV
