"""Measures an arm: validation losses, short answers and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from armor_eval.ablations.base import Base
from armor_model.base.hashing import sha256_text
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL import Image

    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor
    from trainer.batches import Example

DRAW_TEMPERATURE = 0.5
"""Of the visual head, as on armor-nano's card."""


@dataclass(frozen=True)
class ShortQuestion:
    """One understanding question, equal in every arm."""

    id: str
    text: str
    gold: str
    image: Image.Image


@dataclass(frozen=True)
class DrawingRequest:
    """One drawing request, equal in every arm."""

    id: str
    prompt: str
    seed: int
    record: JsonObject | None = None
    """GenEval's metadata; None for a prompt of one's own, which no judge can read."""

    @property
    def cluster(self) -> str:
        """Images of one prompt are resampled together."""
        return sha256_text(self.prompt)[:12]


def own_prompts(prompts: Sequence[str], seed: int) -> list[DrawingRequest]:
    """Requests that are drawn for the eye only."""
    return [DrawingRequest(f"prompt-{i:02d}-00", text, 1000 * seed + i) for i, text in enumerate(prompts)]


def answer(model: ArmorModel, processor: ArmorProcessor, questions: Sequence[ShortQuestion]) -> list[str]:
    """Greedy short answers, drawing masked."""
    from armor_model.generation import GenerationSettings, generate

    rows = []
    for q in questions:
        content = [{"type": "image", "image": q.image}, {"type": "text", "text": q.text}]
        rows.append([{"role": "user", "content": content}])
    settings = GenerationSettings(max_new_tokens=6, allow_images=False)
    return [r.text for r in generate(model, processor, rows, settings)]


def right(said: str, gold: str) -> bool:
    """Whether an answer is the gold one, apart from case, spaces and a full stop."""
    return said.strip().strip(".").strip().lower() == gold.strip().strip(".").lower()


def draw_all(model: ArmorModel, processor: ArmorProcessor, requests: Sequence[DrawingRequest]) -> list[Image.Image]:
    """An image a request."""
    from armor_model.generation import GenerationSettings, draw

    settings = GenerationSettings(image_temperature=DRAW_TEMPERATURE)
    return draw(model, processor, [r.prompt for r in requests], settings, [r.seed for r in requests])


class ImageJudge(Protocol):
    """Judges drawings."""

    settings: JsonObject
    """For the record."""

    def read(self, requests: Sequence[DrawingRequest], images: Sequence[object]) -> tuple[list[bool], list[str]]:
        """(whether each image shows what was asked for, what is missing), in order."""
        ...


class Validation:
    """Mean losses on held-back conversations: as the loss is printed, and with the softmax over image tokens only."""

    def __init__(self, base: Base, examples: Sequence[Example], batch_size: int = 64) -> None:
        from trainer.batches import collate

        ordered = sorted(examples, key=len)
        pad = base.model.config.text_config.pad_token_id or 0
        parts = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
        self.batches = [collate(part, pad, base.model.config.imgbos_id) for part in parts]

    def __call__(self, model: ArmorModel) -> dict[str, float]:
        """`image` and `text` as printed, `image_renormalised`: nats a token."""
        import torch

        sums = dict.fromkeys(("image", "image_renormalised", "text"), 0.0)
        counts = {"image": 0, "text": 0}
        device = next(model.parameters()).device
        with torch.no_grad():
            for batch in self.batches:
                batch = batch.to(device)
                out = model(
                    batch.input_ids,
                    batch.attention_mask,
                    batch.pixels,
                    batch.text_labels,
                    batch.image_labels,
                    position_ids=batch.position_ids,
                )
                if out.image_loss is not None:
                    sums["image"] += float(out.image_loss) * out.image_tokens
                    sums["image_renormalised"] += float(out.image_loss_image_tokens) * out.image_tokens
                    counts["image"] += out.image_tokens
                if out.text_loss is not None:
                    sums["text"] += float(out.text_loss) * out.text_tokens
                    counts["text"] += out.text_tokens
        return {name: value / max(1, counts[name.split("_")[0]]) for name, value in sums.items()}
