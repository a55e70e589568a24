"""Our loop against lmms-eval's on the same checkpoint and questions, with identical answers, where ARMOR_LMMS_PYTHON
names the Python of an environment that has lmms-eval beside this project. Its pins and ours exclude each other, so that
environment is one of its own, with a .pth file that names this project's site-packages:

lmms/bin/pip install lmms-eval==0.7.3
lmms/bin/pip uninstall antlr4-python3-runtime math-verify latex2sympy2    # older than what VLMEvalKit needs
ARMOR_LMMS_PYTHON=lmms/bin/python python -m pytest -m perf tests/perf/test_perf_lmms.py -s
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from test_perf_understanding import LARGE

pytestmark = pytest.mark.perf


@pytest.mark.parametrize(
    ("fixture", "units", "turns", "size"), [("checkpoint", 60, 4, "armor-nano"), ("large", 2, 4, LARGE)]
)
def test_a_whole_run_against_lmms_evals(fixture, units, turns, size, request, bench_row):
    """From the loaded model and data to scores: ours by VLMEvalKit's official rules, theirs by its first letter;
    so one row is without our scoring. 16 is our default for published data, one at a time is theirs, and all that their
    class for this model allows; for the rows of batches it was given some."""
    python = os.environ.get("ARMOR_LMMS_PYTHON")
    if not python:
        pytest.skip("ARMOR_LMMS_PYTHON names no Python that has lmms-eval")
    script = Path(__file__).with_name("lmms_turns.py")
    words = ["--model", str(request.getfixturevalue(fixture)), "--units", str(units), "--turns", str(turns)]
    done = subprocess.run(
        [python, str(script), *words],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    told = json.loads(done.stdout)
    cost, answers = told["cost"], told["answers"]
    assert len(set(answers["ours at 1"].values())) > 1
    assert all(answers[side] == answers["ours at 1"] for side in answers)
    for ours, theirs, how in (
        ("ours at 1", "theirs at 1", "one at a time"),
        ("ours at 16", "theirs at 16", "batches of 16"),
        ("ours at 16, not scored", "theirs at 16", "batches of 16, ours not scored"),
        ("ours at 16", "theirs at 1", "both at their default"),
    ):
        pairs = sorted(t / o for o, t in zip(cost[ours]["cpu"], cost[theirs]["cpu"], strict=True))
        n = len(answers[ours])
        bench_row(
            f"a run of MMB, {how}, against lmms-eval, CPU-seconds",
            min(cost[theirs]["cpu"]) / min(cost[ours]["cpu"]),
            "x",
            items=n,
            size=size,
            turns=turns,
            lowest=pairs[0],
            highest=pairs[-1],
            wall=min(cost[theirs]["wall"]) / min(cost[ours]["wall"]),
            ours_cpu_ms=1000 * min(cost[ours]["cpu"]) / n,
            theirs_cpu_ms=1000 * min(cost[theirs]["cpu"]) / n,
            versions=told["versions"],
        )
