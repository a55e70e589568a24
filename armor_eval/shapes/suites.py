"""Files of the shapes world's own suites, made on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from armor_eval.shapes import editing
from armor_model.base.errors import unknown_name

WRITERS: dict[str, Callable[[Path], Path]] = {"shapes-edit": editing.write}
"""Suite -> what writes its files into a folder below the one given, and returns that."""


def folder(suite: str, root: Path) -> Path:
    """The folder that holds the suite's files."""
    if suite not in WRITERS:
        raise unknown_name("suite of the shapes world", suite, WRITERS)
    return WRITERS[suite](root)
