"""What a command costs before it does anything, as a ratio to a bare interpreter that imports Typer, or torch and
transformers.

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


RUN = """
import contextlib, io
from armor_eval.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main({words!r})
"""


def test_commands_without_a_model_against_importing_torch_and_transformers(bench_row, tmp_path) -> None:
    asked = ["understanding", "--bench", "MMB", "--limit", "1", "--out", str(tmp_path / "r")]
    finished = RUN.format(words=asked)
    turns = {
        "bare": "import torch, transformers",
        "list": RUN.format(words=["list"]),
        "doctor": RUN.format(words=["doctor"]),
        "one question of MMB": RUN.format(words=[*asked[:-1], str(tmp_path / "each")]).replace(
            "main(", f"import shutil; shutil.rmtree({str(tmp_path / 'each')!r}, ignore_errors=True); main("
        ),
        "a finished run shown again": finished,
    }
    cpu_seconds(finished)
    cost = {name: cpu_seconds(code) for name, code in turns.items()}
    for name in list(turns)[1:]:
        ratio = cost[name] / cost["bare"]
        target = {"one question of MMB": "< 3.6", "a finished run shown again": "< 0.6"}.get(name, "< 0.5")
        bench_row(f"{name} / import torch and transformers, CPU-seconds", ratio, "x", target, cpu_seconds=cost[name])
        assert ratio < float(target[2:])
