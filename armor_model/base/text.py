"""Text of models, servers and files as people may see it: what a screen would obey instead of showing is named."""

from __future__ import annotations

import html
import re

_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and newline: a terminal's commands
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # Unicode's bidirectional formatting characters (UAX 9, table 1)
    "\u2028\u2029\ud800-\udfff]"  # separators that end a line in some places only, half a surrogate pair
)


def visible(text: str) -> str:
    """The text with each mark that reorders, hides or overwrites what is shown named: `[U+202E]`."""
    return text if text.isascii() and text.isprintable() else _OBEYED.sub(_name, text)


def _name(mark: re.Match[str]) -> str:
    at = mark.start()
    return "\r" if mark.string[at : at + 2] == "\r\n" else f"[U+{ord(mark[0]):04X}]"


def escape(text: str, quote: bool = True) -> str:
    """The visible text for HTML."""
    return html.escape(visible(text), quote)
