"""A request, and its state while it is answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Request:
    """One prompt, as token ids with its tiles."""

    ids: list[int]
    tiles: list[Tensor]
    seed: int


@dataclass
class Row:
    """A request under way. A row that only serves guidance (`owner` is set) follows the codes of its owner."""

    request: int
    start: int
    """Its first slot."""
    u: list[float]
    """One uniform number for each token to be sampled."""
    drawing: bool = False
    token: int = -1
    """Said, but not yet fed."""
    adapted: int = 0
    """Slots before this one are in the adapter's cache."""
    tokens: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    """Of the picture being drawn; a shadow shares its owner's list."""
    pictures: list[list[int]] = field(default_factory=list)
    text_tokens: int = 0
    imgbos_masked: int = 0
    early_ends: int = 0
    adapter_steps: int = 0
    finish: str = ""
    owner: Row | None = None
    shadow: Row | None = None
