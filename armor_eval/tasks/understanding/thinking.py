"""Thoughts of a reasoning model: found in its output and cut from what is scored; the item keeps the whole output."""

from __future__ import annotations

import re
from typing import Literal

from armor_eval.runs.schema import Item

Thinking = Literal["strip", "keep"]
"""`strip` scores what stands outside of the thoughts, `keep` all that came."""

SCORED_TEXT = "scored_text"
"""The item's extra that holds what was scored, present where it is not the output."""
_MARK = re.compile(r"[<◁]\s*(?P<close>/?)\s*think(?:ing)?\s*[>▷]", re.IGNORECASE)


def strip_thoughts(text: str) -> str:
    """The text without `<think>...</think>` (also `<thinking>`, and Kimi's `◁think▷`), unchanged where there is none.

    A thought that is not closed leaves nothing behind it; one that is closed without having been opened began with the
    text (chat templates of DeepSeek-R1 and Qwen3 write the opening mark into the prompt). Thoughts do not nest: the
    first closing mark ends one.
    """
    pieces: list[str] = []
    inside, at = False, 0
    for mark in _MARK.finditer(text):
        if mark["close"]:
            if not inside:
                pieces.clear()
            inside = False
        elif not inside:
            pieces.append(text[at : mark.start()])
            inside = True
        else:
            continue
        at = mark.end()
    if at == 0 and not inside:
        return text
    if not inside:
        pieces.append(text[at:])
    return "".join(pieces).strip()


def scored_text(item: Item, thinking: Thinking) -> str:
    """What of an item's output is scored. A server's reasoning field (`extras["reasoning"]`) counts as a thought."""
    output = item.output or ""
    if thinking == "strip":
        return strip_thoughts(output)
    reasoning = item.extras.get("reasoning")
    return f"<think>\n{reasoning}\n</think>\n\n{output}" if reasoning else output
