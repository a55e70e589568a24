"""The embedded world's twin of GenEval 2: the same layout of a file, and prompts of combinations never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from armor_eval.tasks.suites import geneval2
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import SuiteData
from armor_eval.tasks.suites.rows import json_of, text_of


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """GenEval 2's fields; a line's `held_out` makes a group of its own beside its atomicity."""
    data = geneval2.read(files, suite)
    lines = text_of(str(files[0]), files[0].read_bytes()).splitlines()
    held = [json_of(line, str(files[0])).get("held_out", False) for line in lines]
    items = [
        replace(item, group=f"{item.group}, held out") if out else item
        for item, out in zip(data.items, held, strict=True)
    ]
    return replace(data, items=items)
