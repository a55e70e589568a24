"""Conversation records (the paper's JSON form) to tokenised examples, through the model's own processor.

    {"id": ..., "type": "t2i", "conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": "<image>"}]}

`<image>` in a human turn is a picture to look at, in a gpt turn one to draw, given as its codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.batches import Example
from trainer.errors import DataError

IMAGE = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def to_messages(record: dict[str, Any], seen: Sequence[Any], drawn: Sequence[Tensor]) -> list[dict[str, Any]]:
    """The record as chat messages. seen: pictures (PIL or paths) of the human turns in order; drawn: codes (h, w) or
    (n,) of the gpt turns. Raises DataError where roles or the number of pictures are off."""
    name = record.get("id", "?")
    asked, shown = iter(seen), iter(drawn)
    messages = []
    for turn in record["conversations"]:
        role = ROLES.get(turn.get("from"))
        if role is None:
            raise DataError(f"record {name}: unknown role {turn.get('from')!r}; known: {', '.join(ROLES)}")
        parts: list[dict[str, Any]] = []
        for i, piece in enumerate(turn["value"].split(IMAGE)):
            if i:
                try:
                    if role == "assistant":
                        parts.append({"type": "image", "codes": torch.as_tensor(next(shown)).flatten()})
                    else:
                        parts.append({"type": "image", "image": next(asked)})
                except StopIteration:
                    raise DataError(f"record {name}: more {IMAGE} in {turn['from']} turns than pictures") from None
            if piece.strip("\n"):
                parts.append({"type": "text", "text": piece.strip("\n")})
        messages.append({"role": role, "content": parts})
    if next(asked, None) is not None or next(shown, None) is not None:
        raise DataError(f"record {name}: more pictures than {IMAGE}")
    return messages


def encode(processor: Any, kind: str, messages: list[dict[str, Any]]) -> Example:
    """One conversation as an Example: every assistant turn supervised, both heads' labels already shifted."""
    row = processor.encode_one(messages)
    return Example(
        kind,
        torch.tensor(row.ids),
        torch.tensor(row.labels("t")),
        torch.tensor(row.labels("v")),
        torch.cat(row.tiles) if row.tiles else None,
        _prompt_span(processor, messages, row.ids) if kind == "t2i" and len(messages) == 2 else None,
    )


def _prompt_span(processor: Any, messages: list[dict[str, Any]], ids: list[int]) -> tuple[int, int] | None:
    """Where the request's words stand: what an empty request in the same template lacks. Conversations with earlier
    turns have context left when the last request is emptied, so they are never asked about."""
    bare = processor.encode_one([{"role": "user", "content": ""}], add_generation_prompt=True).ids
    full = processor.encode_one(messages[:1], add_generation_prompt=True).ids
    start = next((i for i, (a, b) in enumerate(zip(full, bare, strict=False)) if a != b), len(bare))
    cut = len(full) - len(bare)
    return (start, start + cut) if cut > 0 and full == ids[: len(full)] else None
