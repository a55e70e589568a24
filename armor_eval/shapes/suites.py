"""Files of the shapes world's own suites, made on first use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from armor_eval.shapes import editing

WRITERS: dict[str, Callable[[Path], Path]] = {"shapes-edit": editing.write}
"""Suite -> what writes its files into a folder below the one given, and returns that."""


def made(suite: str, root: Path) -> list[Path]:
    """The folder that holds the suite's files; none where they come with the program."""
    return [WRITERS[suite](root)] if suite in WRITERS else []
