"""`--help` of every command of all three programs imports nothing that computes: no numpy, scipy, torch or harness.

Held by what is imported, never by a clock: how long it takes is a row of `make bench` (tests/perf/test_perf_start.py).
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "pandas", "transformers", "vlmeval", "mmdet", "matplotlib", "PIL", "jinja2")
CHILD = """
import contextlib, importlib, io, sys
from typer.main import get_command

def commands(group, path=()):
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))

program = sys.argv[1]
module = importlib.import_module(f"{program}.cli")
if program == "armor_eval":
    every = []
    for name in module.COMMANDS:
        selected = module.build_app(name).commands[name]
        every += [(name, *path) for path in commands(selected)]
else:
    every = list(commands(get_command(module.app)))
for path in every:
    shown, sys.argv = io.StringIO(), [program, *path, "--help"]
    with contextlib.redirect_stdout(shown):
        try:
            code = module.main()
        except SystemExit as end:
            code = end.code
    assert not code and "Usage" in shown.getvalue(), path
    loaded = [m for m in HEAVY if m in sys.modules]
    assert not loaded, (path, loaded)
print("clean", len(every))
"""


@pytest.mark.parametrize(("program", "at_least"), [("armor_eval", 14), ("armor_model", 6), ("trainer", 6)])
def test_help_of_every_command_computes_nothing(program: str, at_least: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"HEAVY = {HEAVY!r}\n{CHILD}", program], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout.startswith("clean"), done.stderr
    assert int(done.stdout.split()[1]) >= at_least, "the walk over the commands found too few of them"
