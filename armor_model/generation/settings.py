"""What a caller may set about generation, and what comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from armor_model.base.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class GenerationSettings:
    """How to decode. Validated when built."""

    max_new_tokens: int = 512
    """Most text tokens of an answer; a picture counts as one (its <imgbos>) and is always finished."""
    temperature: float = 0.0
    """Of the text head; 0 takes the most likely token."""
    top_k: int = 0
    """Text tokens kept before sampling; 0 keeps all."""
    top_p: float = 1.0
    """Probability mass kept before sampling."""
    image_temperature: float = 1.0
    """Of the visual head; 0 takes the most likely code."""
    image_top_k: int = 0
    image_top_p: float = 1.0
    guidance: float = 1.0
    """Classifier-free guidance of the visual head: without + guidance * (with - without the prompt); 1 is off."""
    allow_images: bool = True
    """False masks <imgbos>, so that the answer is text; how often it would have won is counted."""
    max_images: int = 4
    """After this many pictures <imgbos> is masked."""
    force_image: bool = False
    """Begin the answer with <imgbos>."""
    stop_after_image: bool = False
    """End the answer after the first picture."""
    free_imgend: bool = False
    """Let the visual head end a picture early (it is then filled up with its last code, and counted)."""

    def __post_init__(self) -> None:
        wrong = {  # not x >= 0 rather than x < 0: a NaN is neither
            "max_new_tokens": self.max_new_tokens < 1,
            "temperature": not 0 <= self.temperature < math.inf,
            "image_temperature": not 0 <= self.image_temperature < math.inf,
            "top_k": self.top_k < 0,
            "image_top_k": self.image_top_k < 0,
            "top_p": not 0 < self.top_p <= 1,
            "image_top_p": not 0 < self.image_top_p <= 1,
            "guidance": not 0 <= self.guidance < math.inf,
            "max_images": self.max_images < 0,
        }
        for name, bad in wrong.items():
            if bad:
                raise UserError(f"{name} cannot be {getattr(self, name)}")
        if self.force_image and (not self.allow_images or self.max_images < 1):
            raise UserError("force_image needs allow_images and max_images of at least 1")

    @property
    def images(self) -> int:
        """Most pictures an answer can hold."""
        return self.max_images if self.allow_images else 0


@dataclass
class Response:
    """One answer: texts and pictures in order."""

    parts: list[str | Image] = field(default_factory=list)
    codes: list[list[int]] = field(default_factory=list)
    """The codes of each picture, row by row."""
    tokens: list[int] = field(default_factory=list)
    """Every token, the closing one included."""
    stats: dict[str, Any] = field(default_factory=dict)
    """`seed`, `text_tokens`, `imgbos` (pictures begun), `imgbos_masked` (times it would have won but was not allowed),
    `early_ends`, `adapter_steps` (positions that the adapter computed), `finish` (`stop`, `length` or `image`)."""
    error: str | None = None
    """Why there is no answer, where the caller asked for errors to be recorded."""

    @property
    def text(self) -> str:
        """The texts, joined by line breaks."""
        return "\n".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Image]:
        return [part for part in self.parts if not isinstance(part, str)]

    def message(self) -> dict[str, Any]:
        """The answer as an assistant message, pictures with their codes, to go on with the conversation."""
        codes = iter(self.codes)
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "image": part, "codes": next(codes)}
            for part in self.parts
        ]
        return {"role": "assistant", "content": content}
