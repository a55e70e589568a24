"""Which colour an object has: CLIP as GenEval asks it.

Shape legend: n crops, K colours, E CLIP width, H x W image pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from armor_eval.profiles import profile_of
from armor_eval.tasks.geneval.prompts import Vocabulary
from armor_eval.tasks.geneval.weights import locate
from armor_model.base.errors import UserError, reason_of

if TYPE_CHECKING:
    from open_clip import CLIP
    from PIL import Image
    from torch import Tensor, nn

BACKGROUND = "#999"
TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
CLIP_MODEL = "ViT-L-14-quickgelu"
"""`ViT-L-14` with OpenAI's weights would be built with GELU since open_clip 2.29, and only warn."""


@dataclass(frozen=True)
class Crop:
    """One object whose colour is asked."""

    image: np.ndarray
    """RGB uint8 [H, W, 3]."""
    mask: np.ndarray
    """bool [H, W]."""
    box: Sequence[float]
    """x1, y1, x2, y2, score."""
    name: str
    """Its class."""


@dataclass(frozen=True)
class ColorAnswer:
    color: str
    margin: float
    """Lead over the second colour: softmax probability (CLIP), share of the object's pixels (pixel statistics)."""


class ColorJudge(Protocol):
    @property
    def settings(self) -> Mapping[str, object]: ...

    def name(self, crops: Sequence[Crop]) -> list[ColorAnswer]: ...


def composite_crop(crop: Crop) -> Image.Image:
    """The official crop: the image over #999 through the object's mask, cut to its box. Returns a PIL image."""
    from PIL import Image

    left, top, right, bottom = crop.box[:4]
    image, mask = Image.fromarray(crop.image), Image.fromarray(crop.mask)
    blank = Image.new("RGB", image.size, color=BACKGROUND)
    return Image.composite(*(whole.crop((left, top, right, bottom)) for whole in (image, blank, mask)))


Clip: TypeAlias = "tuple[CLIP, Callable[..., Tensor], Callable[..., Tensor]]"
"""The model, its tokenizer and its image transform."""


class ClipColors:
    """GenEval's zero-shot colours: crops of many images in one pass, a text classifier cached for each class."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        settings: dict[str, object],
        device: str,
        load: Callable[[], Clip],
        batch: int = 64,
    ) -> None:
        """`load` gives the model, its tokenizer and its image transform; it is called once a colour is asked."""
        self.colors = vocabulary.colors
        self.settings = {"colors": CLIP_MODEL, "background": BACKGROUND, **settings}
        self.batch, self.device = batch, device
        self._load, self._one_pass = load, threading.Lock()
        self._classifiers: dict[str, object] = {}

    @cached_property
    def _parts(self) -> Clip:
        model, tokenizer, transform = self._load()
        return model.to(self.device).eval(), tokenizer, transform

    def classifier(self, name: str) -> Tensor:
        """Unit text features, [E, K]: three templates a colour, normalised, averaged, normalised."""
        import torch
        import torch.nn.functional as F

        if name not in self._classifiers:
            model, tokenizer, _ = self._parts
            texts = [t.format(color=c, name=name) for c in self.colors for t in TEMPLATES]
            with torch.inference_mode():
                features = F.normalize(model.encode_text(tokenizer(texts).to(self.device)), dim=-1)
                mean = features.unflatten(0, (len(self.colors), len(TEMPLATES))).mean(1)
                self._classifiers[name] = F.normalize(mean, dim=-1).T
        return self._classifiers[name]

    def name(self, crops: Sequence[Crop]) -> list[ColorAnswer]:
        import torch
        import torch.nn.functional as F

        answers: list[ColorAnswer] = []
        with self._one_pass:
            model, _, transform = self._parts
        for start in range(0, len(crops), self.batch):
            part = crops[start : start + self.batch]
            pixels = torch.stack([transform(composite_crop(crop)) for crop in part]).to(self.device)
            with self._one_pass, torch.inference_mode():
                features = F.normalize(model.encode_image(pixels), dim=-1)
                for crop, feature in zip(part, features, strict=True):
                    chances = (100.0 * feature @ self.classifier(crop.name)).softmax(-1)
                    top = chances.topk(2).values
                    answers.append(ColorAnswer(self.colors[int(chances.argmax())], float(top[0] - top[1])))
        return answers


def load_colors(vocabulary: Vocabulary, *, weights: Path | None, download: bool, device: str) -> ColorJudge:
    """CLIP from its file, read on first use, or the judge that a guest brings; UserError where no file is at hand."""
    profile = profile_of(vocabulary.profile)
    if profile.guest is not None:
        if weights is not None:
            raise UserError(f"colours of the profile {profile.name} need no weights", "leave --clip-weights out")
        return profile.part("colors").PixelColors(vocabulary)
    file = locate("clip", weights, download)
    return ClipColors(vocabulary, {"colors_weights_sha256": file.sha256}, device, lambda: read_clip(file.path))


def read_clip(weights: Path) -> Clip:
    """The model in open_clip with QuickGELU, from its TorchScript archive or from safetensors; tokenizer, transform."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import open_clip

    model = open_clip.create_model(CLIP_MODEL, pretrained=None)
    _fill(model, weights)
    transform = open_clip.image_transform(
        model.visual.image_size, is_train=False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    return model, open_clip.get_tokenizer("ViT-L-14"), transform


def _fill(model: nn.Module, weights: Path) -> None:
    import pickle

    import torch

    try:
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            try:
                state = torch.jit.load(weights, map_location="cpu").state_dict()
            except RuntimeError:  # a plain checkpoint, not TorchScript
                state = torch.load(weights, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{weights} cannot be read as CLIP weights: {reason_of(error)}") from None
    state = state.get("state_dict", state)
    state = {name: v.float() for name, v in state.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    own = model.state_dict()
    wrong = [n for n, v in own.items() if v.is_floating_point() and n != "attn_mask"]
    wrong = [name for name in wrong if name not in state or state[name].shape != own[name].shape]
    if wrong:
        raise UserError(
            f"{weights} is not CLIP ViT-L/14: {len(wrong)} parameters missing or misshapen, e.g. {wrong[0]}"
        )
    model.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
