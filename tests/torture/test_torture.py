"""The torture in small, every command and every kind of event; the full one is run by hand (torture.py, --kills 50).

And Ctrl-C in a real terminal, and a disk that is really full, on the real commands.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
PROGRAMS = {"build": "armor_model", "understanding": "armor_eval", "geneval": "armor_eval", "modality": "armor_eval"}
"""Module of a command, else trainer."""
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
    from torture_targets import TARGETS

    words = TARGETS[command](inputs).argv(tmp_path / "out")
    slow = "import sys, time, torch; from pathlib import Path; "
    module = f"{PROGRAMS.get(command, 'trainer')}.cli"
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


@pytest.mark.parametrize("command", ["stage", "tokenize", "build-data", "build"])
def test_a_full_file_system_is_one_line_and_with_more_room_the_run_is_the_undisturbed_one(inputs, tmp_path, command):
    """A tmpfs in a mount namespace of its own, of a share of the pages that the undisturbed run leaves, then larger."""
    from torture_targets import TARGETS

    disk, whole = tmp_path / "disk", tmp_path / "whole" / "out"
    disk.mkdir()
    can = subprocess.run(["unshare", "-Urm", "mount", "-t", "tmpfs", "none", str(disk)], capture_output=True)
    if can.returncode:
        pytest.skip(f"no mount namespace here: {can.stderr.decode().strip()}")
    target, program = TARGETS[command](inputs), [sys.executable, "-m", PROGRAMS.get(command, "trainer")]
    subprocess.run([*program, *target.argv(whole)], check=True, capture_output=True)
    pages = sum(-(-path.stat().st_size // 4096) for path in whole.rglob("*") if path.is_file())
    there, typed = target.state(whole), shlex.join([*program, *target.argv(disk / "out")])
    for share in (0.3, 0.85):
        left, done = tmp_path / f"left-{share}", tmp_path / f"done-{share}"
        script = f"""
            mount -t tmpfs -o size={int(share * pages) * 4}k none {disk} && {typed}; code=$?
            cp -r {disk} {left} && mount -o remount,size=64m {disk} && {typed} >/dev/null 2>&1 || exit 99
            cp -r {disk} {done}; exit $code"""
        run = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, timeout=300)
        assert run.returncode == 1, run.stderr
        assert run.stderr.count("no space left") == 1 and "Traceback" not in run.stderr
        kept = target.state(left / "out")
        assert len(set(kept)) == len(kept) and set(kept) <= set(there)
        assert not [path for path in left.rglob(".draft*") if path.parent != left / "out/checkpoints"]
        assert target.same(target.result(done / "out"), target.result(whole))
