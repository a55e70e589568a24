"""Tokenised examples, and batches of them: padded rows, or several examples packed into one row.

Shapes: B rows, T positions. Labels are already shifted: `text_labels[t]` is what the text head
must say at position t, `image_labels[t]` what the visual head must say, -100 where a head is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from armor_model.losses import IGNORE

SEGMENTS = ("before_image", "after_image", "image_1", "image_2", "image_3", "image_4+")
"""Of an answer: its text before the first image, between and after images, and its images in order."""
TURNS = ("turn_1", "turn_2", "turn_3", "turn_4+")
"""Answers of a conversation in order."""

DROPPED = ("t2i",)
"""Types whose request may be emptied: the answer is an image only, so nothing else loses its condition."""


class Sizes(NamedTuple):
    """What deals conversations out to micro-batches and processes, without reading them."""

    lengths: np.ndarray
    """(N,) positions."""
    requests: np.ndarray
    """(N,) positions that emptying the request takes away; 0 where it is never emptied."""
    droppable: np.ndarray
    """(N,) whether condition dropout asks about it."""


@dataclass(frozen=True)
class Example:
    """One conversation as the model reads it."""

    kind: str
    """t2t, ti2t, t2i, t2ti or ti2ti."""
    input_ids: Tensor
    """(T,) global token ids."""
    text_labels: Tensor
    """(T,) global token ids or -100."""
    image_labels: Tensor
    """(T,) global token ids or -100."""
    pixels: Sequence[Tensor] | Callable[[], Sequence[Tensor]] | None = None
    """The user's images in order, as the processor cuts them, or what opens them when a batch is made; None without
    images."""
    prompt_span: tuple[int, int] | None = None
    """Positions of the user's words, which condition dropout cuts out; None where the type is never dropped."""

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def request(self) -> int:
        """Positions that `without_prompt` takes away."""
        return self.prompt_span[1] - self.prompt_span[0] if self.prompt_span and self.pixels is None else 0

    def without_prompt(self) -> Example:
        """The same answer to an empty request, and only its image supervised: the unconditional branch of guidance.

        An empty request is no reason to draw, so the text head is not asked: it must not learn to answer nothing
        with an image.
        """
        if self.prompt_span is None or self.pixels is not None:
            return self
        start, end = self.prompt_span
        keep = torch.cat([torch.arange(start), torch.arange(end, len(self))])
        return Example(
            self.kind, self.input_ids[keep], torch.full_like(self.text_labels[keep], IGNORE), self.image_labels[keep]
        )


@dataclass
class Batch:
    """What one forward pass reads."""

    input_ids: Tensor
    """(B, T)"""
    attention_mask: Tensor
    """(B, T) of 0 and 1, or (B, 1, T, T) bool where rows are packed: True = may look."""
    text_labels: Tensor
    """(B, T)"""
    image_labels: Tensor
    """(B, T)"""
    position_ids: Tensor | None
    """(B, T) restarting at each example of a packed row; None for the plain count."""
    pixels: list[Tensor] | None
    """Each image to look at, in reading order."""
    kinds: Tensor
    """(B, T) index into `kind_names` of the example that a position belongs to, -1 on padding."""
    kind_names: tuple[str, ...]
    segments: Tensor
    """(B, T) index into SEGMENTS of what a position has to say; nothing where neither head is asked."""
    turns: Tensor
    """(B, T) likewise into TURNS."""
    images: int
    """Images to be drawn in this batch."""

    @property
    def tokens(self) -> int:
        """Positions that are no padding."""
        return int((self.kinds >= 0).sum())

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Batch(**{**moved, "pixels": self.pixels and [image.to(device) for image in self.pixels]})


def collate(examples: Sequence[Example], pad_id: int, image_start_id: int, pack_to: int | None = None) -> Batch:
    """Stack examples into one batch; with `pack_to`, fill rows of that many positions first.

    `image_start_id` is <imgbos>: images to be drawn are counted by it. Padding is on the right, where a causal model
    cannot see it.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    rows = [[e] for e in examples] if pack_to is None else pack(examples, pack_to)
    length = max(sum(len(e) for e in row) for row in rows)
    names = tuple(sorted({e.kind for e in examples}))
    shape = (len(rows), length)
    ids = torch.full(shape, pad_id, dtype=torch.long)
    text, image = torch.full(shape, IGNORE), torch.full(shape, IGNORE)
    kinds, numbers = torch.full(shape, -1), torch.full(shape, -1)
    segments, turns = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    pixels: list[Tensor] = []
    drawn = 0
    for b, row in enumerate(rows):
        at = 0
        for s, e in enumerate(row):
            span = slice(at, at + len(e))
            ids[b, span], text[b, span], image[b, span] = e.input_ids, e.text_labels, e.image_labels
            kinds[b, span], numbers[b, span] = names.index(e.kind), s
            segments[b, span], turns[b, span] = answer_parts(e, image_start_id)
            positions[b, span] = torch.arange(len(e))
            at += len(e)
            drawn += int((e.input_ids == image_start_id).sum())
            if e.pixels is not None:
                pixels += e.pixels() if callable(e.pixels) else e.pixels
    packed = any(len(row) > 1 for row in rows)
    return Batch(
        input_ids=ids,
        attention_mask=packed_mask(numbers) if packed else (numbers >= 0).long(),
        text_labels=text,
        image_labels=image,
        position_ids=positions if packed else None,
        pixels=pixels or None,
        kinds=kinds,
        kind_names=names,
        segments=segments,
        turns=turns,
        images=drawn,
    )


def answer_parts(example: Example, image_start_id: int) -> tuple[Tensor, Tensor]:
    """Indices (T,) into SEGMENTS and into TURNS of an example's supervised positions. An answer is a stretch of them
    without a gap; an image is what follows its <imgbos>."""
    # NumPy: on a few hundred numbers an operation of torch's costs four of its, half of what a batch takes.
    text_T, drawn_T = example.text_labels.numpy(), example.image_labels.numpy() != IGNORE
    asked_T = drawn_T | (text_T != IGNORE)
    begins_T = asked_T.copy()
    begins_T[1:] &= ~asked_T[:-1]
    turn_T = np.maximum(np.cumsum(begins_T) - 1, 0)
    starts_T = text_T == image_start_id
    number_T = np.cumsum(starts_T) - starts_T  # images of all answers up to here
    if begins_T.any():
        number_T -= number_T[begins_T][turn_T]
    segments_T = np.where(drawn_T, 1 + np.clip(number_T, 1, len(SEGMENTS) - 2), np.clip(number_T, 0, 1))
    return torch.from_numpy(segments_T), torch.from_numpy(np.minimum(turn_T, len(TURNS) - 1))


def packed_mask(numbers_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool: a position sees earlier positions of its own example only, padding sees itself.

    A row of the mask without any True would make the softmax 0/0, hence the diagonal.
    """
    length = numbers_BT.shape[1]
    same = numbers_BT[:, :, None] == numbers_BT[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=numbers_BT.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=numbers_BT.device)
    real = (numbers_BT >= 0)[:, :, None]
    return ((same & causal & real) | own)[:, None]


def pack(examples: Sequence[Example], capacity: int) -> list[list[Example]]:
    """First-fit decreasing: few rows of at most `capacity` positions, the same for the same input.

    An example longer than a row is the caller's error: data is screened for length when it is read.
    """
    longest = max(len(e) for e in examples)
    if longest > capacity:
        raise ValueError(f"an example of {longest} positions does not fit into a packed row of {capacity}")
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i]), i))
    rows: list[list[Example]] = []
    room: list[int] = []
    for i in order:
        size = len(examples[i])
        at = next((r for r, left in enumerate(room) if left >= size), None)
        if at is None:
            rows.append([])
            room.append(capacity)
            at = len(rows) - 1
        rows[at].append(examples[i])
        room[at] -= size
    return rows
