"""A terminal's console whose plain texts cannot steer it."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from armor_model.base.text import visible


class VisibleConsole(Console):
    """Names the marks of every text that is printed as a str; a `Text` is its maker's, who has done so."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)
