"""What a command costs before it does anything, as a ratio to a bare interpreter that imports Typer.

python -m pytest -m perf tests/perf/test_perf_start.py -s
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.perf
SIZE = "no model"

TURNS = 5
BARE = "import typer"
HELP = """
import contextlib, io
from armor_eval.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main([{command!r}, "--help"])
"""


def cpu_seconds(code: str) -> float:
    """CPU-seconds of a process of its own, interpreter included; the least of some turns."""
    timed = f"{code}\nimport time\nprint(time.process_time())"
    turns = [
        subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True) for _ in range(TURNS)
    ]
    return min(float(turn.stdout) for turn in turns)


@pytest.mark.parametrize("command", ["understanding", "geneval", "compare", "power", "baseline"])
def test_help_costs_little_more_than_typer(command: str, bench_row) -> None:
    bare, ours = cpu_seconds(BARE), cpu_seconds(HELP.format(command=command))
    bench_row(f"{command} --help / import typer", ours / bare, "x", "< 4", cpu_seconds=ours, bare=bare)
    assert ours / bare < 4
