"""Ctrl-C in a real terminal and SIGTERM, once, twice, three times quickly: one line, 130 and 143, nothing half done."""

from __future__ import annotations

import signal
import sys

import pytest
from terminal import CTRL_C, Terminal

ENTER = b"\n"
CLEANS_UP = """
import sys, time
from armor_model.base import interrupts
from armor_model.base.cli import run_app

interrupts.PATIENCE_SECONDS = 600.0

def app(**_):
    try:
        print("running", flush=True)
        time.sleep(600)
    finally:
        print("cleaning", flush=True)
        sys.stdin.readline()
        print("cleaned up", flush=True)

sys.exit(run_app(app, "prog", ["go", "a b"], kept=", nothing is lost"))
"""
"""It cleans up until Enter: whoever presses again does so in the middle of that, however busy the machine is."""
LINE = "prog: interrupted, nothing is lost - continue with: prog go 'a b'"


@pytest.mark.parametrize("presses", [1, 2, 3])
def test_ctrl_c_in_a_terminal(presses):
    terminal = Terminal([sys.executable, "-c", CLEANS_UP])
    terminal.until("running")
    terminal.press(CTRL_C)
    terminal.until("cleaning")
    for _ in range(presses - 1):
        terminal.press(CTRL_C)
    terminal.press(ENTER)
    code, shown = terminal.end()
    assert code == 130 and shown.count(LINE) == 1 and "Traceback" not in shown, shown
    assert "cleaned up" in shown


def test_sigterm_twice():
    terminal = Terminal([sys.executable, "-c", CLEANS_UP])
    terminal.until("running")
    terminal.process.send_signal(signal.SIGTERM)
    terminal.until("cleaning")
    terminal.process.send_signal(signal.SIGTERM)
    terminal.press(ENTER)
    code, shown = terminal.end()
    assert code == 143 and shown.count(LINE) == 1 and "cleaned up" in shown, shown


def test_a_later_press_ends_what_hangs():
    terminal = Terminal([sys.executable, "-c", CLEANS_UP.replace("SECONDS = 600.0", "SECONDS = 0.0")])
    terminal.until("running")
    terminal.press(CTRL_C)
    terminal.until("cleaning")
    terminal.press(CTRL_C)
    code, shown = terminal.end()
    assert code == 130 and shown.count(LINE) == 1 and "cleaned up" not in shown, shown


def test_an_error_of_the_cleaning_up_does_not_hide_the_interrupt():
    fails = CLEANS_UP.replace("sys.stdin.readline()", "raise OSError(5, 'gone')")
    terminal = Terminal([sys.executable, "-c", fails])
    terminal.until("running")
    terminal.press(CTRL_C)
    code, shown = terminal.end()
    assert code == 130 and LINE in shown and "Traceback" not in shown, shown


def test_what_the_shell_ignores_stays_ignored_and_handlers_come_back():
    from armor_model.base.interrupts import Interrupts

    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.getsignal(signal.SIGTERM)
    try:
        with Interrupts("x"):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before[1]
        assert signal.getsignal(signal.SIGTERM) == before[1]
    finally:
        signal.signal(signal.SIGINT, before[0])
