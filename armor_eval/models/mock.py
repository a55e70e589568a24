"""A seeded stand-in for a model, without weights: for tests and baselines, never a result of its own.

`mock` answers by a hash of the question; `mock:A` always says A; `mock:fail3` fails on every third question;
`mock:slow0.05` takes that many seconds a question.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.models.drawing import DrawingModel
from armor_eval.runs.schema import ModelInfo, Profile
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject

_FAIL = re.compile(r"fail(\d+)")
_SLOW = re.compile(r"slow([\d.]+)")


class MockModel(DrawingModel):
    """Implements all three protocols; equal input gives equal output, in any batch."""

    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern
        spec = f"mock:{pattern}" if pattern else "mock"
        self.info = ModelInfo(spec=spec, name=spec, fingerprint=sha256_text(f"mock-1:{pattern}"), parameters=0)
        fail, slow = _FAIL.fullmatch(pattern), _SLOW.fullmatch(pattern)
        self._fail_every = int(fail[1]) if fail else 0
        self._seconds = float(slow[1]) if slow else 0.0
        self._constant = pattern if pattern and not fail and not slow else None

    def answer(self, questions: Sequence[Question], decoding: Decoding) -> list[Answer]:
        return [self._answer_one(q, decoding) for q in questions]

    def _answer_one(self, question: Question, decoding: Decoding) -> Answer:
        if self._seconds:
            time.sleep(self._seconds)
        draw = _number(*(_content(part) for part in question.parts), decoding.seed)
        if self._fail_every and draw % self._fail_every == 0:
            return Answer(error="the mock was told to fail here")
        if self._constant is not None:
            return Answer(text=self._constant)
        text = " ".join(part for part in question.parts if isinstance(part, str))
        letters = re.findall(r"^([A-Z])\. ", text, flags=re.MULTILINE)
        choices = letters or ["Yes", "No"]
        return Answer(text=choices[draw % len(choices)], extras={"imgbos": 0})

    def _own(self, decoding: Decoding) -> JsonObject:
        return {"guidance": None}

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Image.Image | Exception]:
        return [_image(_number(prompt, seed)) for prompt, seed in zip(prompts, seeds, strict=True)]

    def respond(
        self, conversations: Sequence[list[JsonObject]], seeds: Sequence[int], decoding: Decoding
    ) -> list[list[str | Image.Image]]:
        replies: list[list[str | Image.Image]] = []
        for conversation, seed in zip(conversations, seeds, strict=True):
            parts = [part for m in conversation for part in (m["role"], *_message_parts(m["content"]))]
            number = _number(*parts, seed)
            forms: tuple[list[str | Image.Image], ...] = (
                [f"text {number % 97}"],
                [_image(number)],
                [f"text {number % 97}", _image(number)],
            )
            replies.append(forms[number % 3])
        return replies

    def close(self) -> None:
        """Nothing is held."""


def load(rest: str, profile: Profile) -> MockModel:
    if rest.startswith("slow") and not _SLOW.fullmatch(rest):
        raise UserError(f"mock:{rest} is no mock: expected mock:slowSECONDS")
    return MockModel(rest)


def _content(part: object) -> str:
    if isinstance(part, Image.Image):
        return hashlib.sha256(part.tobytes()).hexdigest()
    return part.name if isinstance(part, Path) else str(part)


def _message_parts(content: str | list[JsonObject]) -> list[str]:
    """A message's texts and images by content: an image's repr holds its address in memory."""
    if isinstance(content, str):
        return [content]
    return [_content(part["text"] if part["type"] == "text" else part["image"]) for part in content]


def _number(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256("\x00".join(map(str, parts)).encode()).digest()[:8], "big")


def _image(number: int, size: int = 32) -> Image.Image:
    generator = np.random.default_rng(number)
    quarters = generator.integers(0, 256, size=(2, 2, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(quarters, np.ones((size // 2, size // 2, 1), dtype=np.uint8)))
