"""Our own reading of answers, kept beside the official one: it shows what VLMEvalKit's parser costs a model.

The headline is always the official rule. This one reads "Yes, no doubt" as Yes, "Y" as Yes, "(B) because A is wrong" as
B, and does not read "A dog runs" as option A.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_YES = re.compile(r"(?:yes|y|yeah|yep|true|correct|sure|certainly)\b", re.IGNORECASE)
_NO = re.compile(r"(?:no|n|nope|false|incorrect|not)\b", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{\s*([^{}]*?)\s*\}")
_FINAL = re.compile(r"(?:final\s+)?(?:answer|option|choice)\b\s*(?:is|:|=)*\s*[*_(\[{\"'`]*\s*", re.IGNORECASE)


def read_yes_no(text: str) -> str | None:
    """`Yes`, `No`, or None: the first word decides, then a word that is the only one of its kind."""
    text = _body(text).lstrip(" \t\r\n*_\"'`([{.:-")
    if _YES.match(text):
        return "Yes"
    if _NO.match(text):
        return "No"
    words = set(re.findall(r"[a-z]+", text.lower()))
    if ("yes" in words) != ("no" in words):
        return "Yes" if "yes" in words else "No"
    return None


def read_first_four(text: str) -> str | None:
    """`Yes` or `No` by the rule of MME's own evaluation tool (calculation.py): what the first four characters hold."""
    head = text.lower()[:4]
    return "Yes" if "yes" in head else "No" if "no" in head else None


def read_option(text: str, options: Mapping[str, Any]) -> str | None:
    """The letter of the option that the text chooses, or None where it chooses none or several."""
    body = _body(text).strip()
    letters = "".join(options)
    if not body or not letters:
        return None
    # A letter alone, or set off by a bracket or a point: "B", "(B) because", "B. cat", "**B**".
    head = re.match(rf"[*_\"'`\s]*[(\[{{]?\s*([{letters}])\s*(?:[)\]}}]|[.:,;*_\"'`]|$|\s*\n)", body)
    if head:
        return head[1]
    for said in reversed(list(_FINAL.finditer(body))):
        after = re.match(rf"([{letters}])\b", body[said.end() :])
        if after:
            return after[1]
    bracketed = set(re.findall(rf"[(\[]([{letters}])[)\]]", body))
    if len(bracketed) == 1:
        return bracketed.pop()
    return _by_content(body, options)


def _by_content(body: str, options: Mapping[str, Any]) -> str | None:
    """The only option whose words stand in the text; an option inside another one's words does not count."""
    low = body.lower()
    found = {k: str(v).strip().lower() for k, v in options.items()}
    found = {k: v for k, v in found.items() if v and re.search(rf"(?<!\w){re.escape(v)}(?!\w)", low)}
    longest = [k for k, v in found.items() if not any(v != w and v in w for w in found.values())]
    return longest[0] if len(longest) == 1 else None


def _body(text: str) -> str:
    """Without a model's thinking, and from inside \\boxed{} where there is one."""
    text = text.rsplit("</think>", 1)[-1]
    boxed = _BOXED.findall(text)
    return boxed[-1] if boxed else text
