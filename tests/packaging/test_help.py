"""`--help` of every command of all three programs imports nothing that computes: no numpy, scipy, torch or harness."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "pandas", "transformers", "vlmeval", "mmdet", "matplotlib", "PIL", "jinja2", "rich")
CHILD = """
import contextlib, io, sys, time
from armor_eval.cli import COMMANDS, main
sub = {"baseline": ["save", "list", "show"]}
for name in COMMANDS:
    for more in [[], *([word] for word in sub.get(name, []))]:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([name, *more, "--help"]) == 0, name
        loaded = [m for m in HEAVY if m in sys.modules]
        assert not loaded, (name, more, loaded)
print("clean", time.process_time())
"""


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{code}"], capture_output=True, text=True, timeout=300
    )


def test_help_of_every_command_computes_nothing():
    done = run(CHILD)
    assert done.returncode == 0 and done.stdout.startswith("clean"), done.stderr


@pytest.mark.parametrize("command", ["compare", "power", "baseline"])
def test_help_of_the_gate_takes_under_a_third_of_a_second(command):
    code = (
        "import contextlib, io, sys, time\nfrom armor_eval.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()):\n    main([{command!r}, '--help'])\n"
        "print(time.process_time())"
    )
    # CPU seconds from the interpreter's start, the best of three: what it takes on a machine that does nothing else.
    assert min(float(run(code).stdout) for _ in range(3)) < 0.3
