"""Prefix cache: what the decoder computed for a conversation serves its next turn, and others that begin alike.

Two prompts share what their tokens and the pixels of their images have in common from the first token on. Nothing is
known of conversations: what re-enters as other tokens (an image that is encoded anew to other codes) is computed anew.

Legend: S slots, n tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from armor_model.generation.state import Request, Row

MOST_BYTES = 1 << 30
"""That a cache holds by default: some 7,000 tokens of an 8B model in bf16."""


@dataclass(eq=False)
class Prefix:
    """A finished row: its tokens and all that was kept for their slots."""

    marks: np.ndarray
    """Of its n tokens, see `marks_of`."""
    stores: list[Tensor]
    """(n, ...) each, in the order of `Batch.slot_views`."""
    adapted: int
    """Tokens that the adapter has read."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(store.numel() * store.element_size() for store in self.stores)


class PrefixCache:
    """Finished rows of one model, the least used ones given up first.

    Args:
        most_bytes: held at most, on the model's device.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes = most_bytes
        self.reused = 0
        """Tokens that were not computed again."""
        self._kept: list[Prefix] = []

    def longest(self, marks: np.ndarray, stores: int) -> tuple[Prefix | None, int]:
        """The prefix that shares most tokens with a prompt, and how many. `stores`: how many tensors the prompt's row
        needs: what was computed without the adapter cannot serve a row that may draw."""
        fit = [prefix for prefix in self._kept if len(prefix.stores) >= stores]
        found = max(fit, key=lambda prefix: common(prefix.marks, marks), default=None)
        if found is None:
            return None, 0
        self._kept.remove(found)
        self._kept.append(found)
        return found, common(found.marks, marks)

    def shared(self, rows: list[Row], n: int, slot: int, stores: int) -> dict[int, tuple[Prefix | int, int]]:
        """For those of the rows from n on that have half of their prompt or more in common with a finished row, or with
        one that is prefilled before them: which, and how many tokens. Rows stand longest first, so that a dialogue's
        last turn serves the earlier ones. All prompts end at `slot`."""
        found: dict[int, tuple[Prefix | int, int]] = {}
        for i in range(n, len(rows)):
            if (marks := rows[i].marks) is None:
                continue
            source: Prefix | int | None
            source, length = self.longest(marks, stores)
            for other, row in enumerate(rows[:i]):
                if other not in found and row.marks is not None and (alike := common(row.marks, marks)) > length:
                    source, length = other, alike
            length = min(length, slot - rows[i].start - 1)  # the last token's hidden state is wanted
            if source is not None and 2 * length >= len(marks):
                found[i] = source, length
                self.reused += length
        return found

    def keep(self, prefix: Prefix) -> None:
        """Hold on to a finished row; shorter ones that it continues go."""
        self._kept = [
            old
            for old in self._kept
            if len(old.stores) > len(prefix.stores) or common(old.marks, prefix.marks) < len(old.marks)
        ]
        if prefix.bytes <= self.most_bytes:
            self._kept.append(prefix)
        while sum(each.bytes for each in self._kept) > self.most_bytes:
            self._kept.pop(0)


def common(a: np.ndarray, b: np.ndarray) -> int:
    """How many marks two prompts have in common from the first on."""
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


def marks_of(request: Request, image_token_id: int) -> np.ndarray:
    """What tells one prompt's tokens from another's: their ids; for an image's placeholders a number below 0 that its
    pixels make. So a common beginning never ends within an image."""
    marks = np.array(request.ids, dtype=np.int64)
    if request.tiles:
        marks[marks == image_token_id] = np.repeat([_pixel_mark(tiles) for tiles in request.tiles], request.shown)
    return marks


def images_within(request: Request, image_token_id: int, known: int) -> int:
    """How many of a request's images lie in its first `known` tokens."""
    placeholders = request.ids[:known].count(image_token_id)
    return int(np.searchsorted(np.cumsum(request.shown), placeholders, side="right")) if request.tiles else 0


def _pixel_mark(tiles: Tensor) -> int:
    data = tiles.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    digest = hashlib.sha256(f"{tuple(tiles.shape)} {tiles.dtype}".encode())
    digest.update(data)
    return -1 - (int.from_bytes(digest.digest()[:8], "big") >> 1)
