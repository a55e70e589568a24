"""The torture in small, every command and every kind of event; the full one is run by hand (torture.py, --kills 50).

And Ctrl-C in a real terminal on the real commands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
COMMANDS = ("understanding", "geneval", "modality", "stage", "tokenize", "build-data", "build")


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("torture")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def inputs(work) -> Path:
    sys.path.append(str(HERE))
    from torture_targets import in_a_child, make_inputs

    in_a_child(lambda: make_inputs(work / "inputs"))
    return work / "inputs"


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_lost_double_or_invented(work, command):
    words = ["--kills", "3", "--faults", "8", "--only", command, "--work", str(work), "--out", str(work / "table")]
    done = subprocess.run([sys.executable, str(HERE / "torture.py"), *words], capture_output=True, text=True)
    rows = json.loads((work / "table" / "torture.json").read_text())
    assert done.returncode == 0, [(row["event"], row["notes"]) for row in rows if row["wrong"]] or done.stderr[-2000:]
    assert {row["event"]: row["n"] for row in rows}["kill -9"] == 3 and len(rows) >= 8


@pytest.mark.parametrize(("command", "presses"), [(c, 1 + i % 3) for i, c in enumerate(COMMANDS)])
def test_ctrl_c_says_how_to_go_on(inputs, tmp_path, command, presses):
    from terminal import CTRL_C, Terminal

    target = {"build": "armor_model", "understanding": "armor_eval", "geneval": "armor_eval", "modality": "armor_eval"}
    from torture_targets import TARGETS

    words = TARGETS[command](inputs).argv(tmp_path / "out")
    slow = "import sys, time, torch; from pathlib import Path; "
    module = f"{target.get(command, 'trainer')}.cli"
    # The command's own work may take less than a press: the program waits where it first makes a folder.
    slow += (
        "made = Path.mkdir; Path.mkdir = lambda *a, **k: (made(*a, **k), print('made', flush=True), time.sleep(9)); "
    )
    terminal = Terminal(
        [sys.executable, "-c", f"{slow}from {module} import main; sys.exit(main(sys.argv[1:]))", *words]
    )
    terminal.until("made")
    for _ in range(presses):
        terminal.press(CTRL_C)
    code, shown = terminal.end()
    flat = "".join(shown.split())
    assert code == 130 and flat.count("continuewith:armor-") == 1 and "Traceback" not in shown, shown
