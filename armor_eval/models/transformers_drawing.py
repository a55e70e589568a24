"""Base of the models that transformers loads and that draw code by code (Janus, Emu3)."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from armor_eval.models.base import Decoding
from armor_eval.models.drawing import IMAGE_OPTIONS, SAMPLING, DrawingModel, device_of, image_from, locate
from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin


class TransformersDrawing(DrawingModel):
    """Loads on first use."""

    honours = frozenset(IMAGE_OPTIONS)
    kind: str
    example: str
    """A checkpoint of the kind, converted for transformers."""
    guidance: float
    """The model's own classifier-free guidance."""

    def __init__(self, rest: str, device: str | None, dtype: str | None, device_map: str | None) -> None:
        self._folder, self.info = locate(self.kind, rest, None if dtype == "auto" else dtype)
        self._check_type()
        self._device, self._dtype, self._device_map = device, dtype, device_map
        self.asked = {"dtype": dtype} if dtype else {}
        self._loaded: tuple[PreTrainedModel, ProcessorMixin] | None = None

    def _check_type(self) -> None:
        """UserError where the folder holds another model: transformers would build one of this kind at full size."""
        try:
            config = json_of((self._folder / "config.json").read_text())
            model_type = config["model_type"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{self.info.name} has no config.json of transformers", f"expected {self.example}"
            ) from None
        if model_type != self.kind:
            raise UserError(f"{self.info.name} is no {self.kind} model but {model_type!r}", f"expected {self.example}")

    @abstractmethod
    def _class(self) -> type[PreTrainedModel]:
        """The model's class in transformers."""

    @abstractmethod
    def _prepare(self, model: PreTrainedModel, processor: ProcessorMixin) -> None:
        """Complete what a checkpoint may lack. ValueError where it cannot be done without."""

    def _torch_dtype(self) -> str:
        import torch

        if self._dtype is not None:
            return self._dtype
        cuda = (self._device_map or device_of(self._device).startswith("cuda")) and torch.cuda.is_available()
        return "bfloat16" if cuda else "float32"

    def _guidance(self, decoding: Decoding) -> float:
        return self.guidance if decoding.guidance is None else decoding.guidance

    def _own(self, decoding: Decoding) -> JsonObject:
        used = {name: getattr(decoding, name) for name in SAMPLING}
        return {"dtype": self._torch_dtype(), "guidance": self._guidance(decoding), **used}

    def _load(self) -> tuple[PreTrainedModel, ProcessorMixin]:
        if self._loaded is None:
            from armor_model.base.runtime import prepare_torchvision

            prepare_torchvision()
            import torch
            from transformers import AutoProcessor

            name = self._torch_dtype()
            arguments: JsonObject = {"trust_remote_code": False}
            arguments["dtype"] = name if name == "auto" else getattr(torch, name)
            if self._device_map:
                arguments["device_map"] = self._device_map
            try:
                model = self._class().from_pretrained(self._folder, **arguments).eval()
                processor = AutoProcessor.from_pretrained(self._folder, trust_remote_code=False)
                self._prepare(model, processor)
            except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError) as error:
                first = " ".join(str(error).split())[:200]
                raise UserError(f"{self.info.name} is no {self.kind} model for transformers: {first}") from None
            self._loaded = (model if self._device_map else model.to(device_of(self._device))), processor
        return self._loaded

    def close(self) -> None:
        self._loaded = None


def images_of(pixels_BHWC: torch.Tensor, processor: ProcessorMixin) -> list[Image.Image | Exception]:
    """Images of pixels that are normalised by the image processor's mean and standard deviation; values are cut off to
    whole ones, as in the authors' own programs."""
    of = processor.image_processor
    mean_C, std_C = (np.array(values, np.float32) for values in (of.image_mean, of.image_std))
    return [image_from((pixels_HWC * std_C + mean_C) * 255) for pixels_HWC in pixels_BHWC.float().cpu().numpy()]
