"""Bad input over every reader: one line (ArmorError) or a counted item comes out, never a traceback.

The slow one writes reports/torture/readers.md: 10,000 inputs in all, the same ones every time.
"""

from __future__ import annotations

import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

sys.path.append(str(Path(__file__).parent))

from bad_inputs import bad_inputs, encoded
from paths import ROOT
from readers import Reader, readers

from armor_model.base.errors import ArmorError

TOTAL = 10_000
quick = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}


def outcome(reader: Reader, raw: bytes, folder: Path) -> str:
    """`read` or `refused`; whatever else the reader raises is a failure."""
    path = folder / reader.file
    path.write_bytes(raw)
    try:
        reader.read(path)
    except ArmorError as error:
        assert error.line().isprintable() and len(error.line().splitlines()) == 1
        return "refused"
    return "read"


def made(reader: Reader, folder: Path) -> Path:
    """A folder with what lies beside the reader's file."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / reader.file).parent.mkdir(parents=True)
    reader.beside((folder / reader.file).parent)
    return folder


def torture(reader: Reader, folder: Path, n: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    made(reader, folder)

    @settings(max_examples=n, phases=[Phase.generate], **quick)
    @given(raw=bad_inputs(reader.kind, reader.example))
    def one(raw: bytes) -> None:
        seen[outcome(reader, raw, folder)] += 1

    one()
    return seen


def each_reader(act: Callable[[Reader], Any]) -> dict[str, Any]:
    """Name -> what came out; every reader is tried, and all that fail are named."""
    found, failed = {}, []
    for reader in readers().values():
        try:
            found[reader.name] = act(reader)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            failed.append(
                f"{reader.name}: {type(error).__name__}: {str(error)[:200]} ({frame.filename}:{frame.lineno})"
            )
    assert not failed, "\n".join(failed)
    return found


def test_the_well_formed_examples_are_read(tmp_path):
    def read(reader: Reader) -> None:
        path = made(reader, tmp_path / "x") / reader.file
        path.write_bytes(encoded(reader.kind, reader.example))
        reader.read(path)

    each_reader(read)


def test_bad_input_in_small(tmp_path):
    each_reader(lambda reader: torture(reader, tmp_path / "x", 6))


@pytest.mark.slow
def test_ten_thousand_bad_inputs(tmp_path):
    each = -(-TOTAL // len(readers()))
    found = each_reader(lambda reader: torture(reader, tmp_path / "x", each))
    lines = ["| reader | format | n | read or counted | refused in one line |", "|---|---|---|---|---|"]
    for name, seen in found.items():
        kind = readers()[name].kind
        lines.append(f"| {name} | {kind} | {seen.total()} | {seen['read']} | {seen['refused']} |")
    assert sum(seen.total() for seen in found.values()) >= TOTAL
    (ROOT / "reports/torture/readers.md").write_text("\n".join(lines) + "\n")
