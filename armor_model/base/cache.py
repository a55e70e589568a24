"""Where fetched and derived files are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$ARMOR_EVAL_CACHE`, else `armor-eval` under the user's cache folder: all of it is safe to delete."""
    named = os.environ.get("ARMOR_EVAL_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "armor-eval"
    return base.expanduser()
