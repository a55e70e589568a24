"""The embedded world's twin of GenEval 2: the same layout of a file, and prompts of combinations never trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from armor_eval.tasks.suites import geneval2
from armor_eval.tasks.suites.declare import Suite
from armor_eval.tasks.suites.items import SuiteData


def read(files: Sequence[Path], suite: Suite) -> SuiteData:
    """GenEval 2's fields; a line's `held_out` makes a group of its own beside its atomicity."""
    data = geneval2.read(files, suite)
    held = [json.loads(line).get("held_out", False) for line in files[0].read_text(encoding="utf-8").splitlines()]
    items = [
        replace(item, group=f"{item.group}, held out") if out else item
        for item, out in zip(data.items, held, strict=True)
    ]
    return replace(data, items=items)
