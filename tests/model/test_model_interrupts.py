"""Ctrl-C in a real terminal and SIGTERM, once, twice, three times quickly: one line, 130 and 143, nothing half done."""

from __future__ import annotations

import signal
import sys

import pytest
from terminal import CTRL_C, Terminal

CLEANS_UP = """
import sys, time
from armor_model.base.cli import run_app

def app(**_):
    try:
        print("running", flush=True)
        time.sleep(60)
    finally:
        time.sleep(0.3)
        print("cleaned up", flush=True)

sys.exit(run_app(app, "prog", ["go", "a b"], kept=", nothing is lost"))
"""
LINE = "prog: interrupted, nothing is lost - continue with: prog go 'a b'"


@pytest.mark.parametrize("presses", [1, 2, 3])
def test_ctrl_c_in_a_terminal(presses):
    terminal = Terminal([sys.executable, "-c", CLEANS_UP])
    terminal.until("running")
    for _ in range(presses):
        terminal.press(CTRL_C)
    code, shown = terminal.end()
    assert code == 130 and shown.count(LINE) == 1 and "Traceback" not in shown, shown
    assert "cleaned up" in shown


def test_sigterm_twice():
    terminal = Terminal([sys.executable, "-c", CLEANS_UP])
    terminal.until("running")
    for _ in range(2):
        terminal.process.send_signal(signal.SIGTERM)
    code, shown = terminal.end()
    assert code == 143 and shown.count(LINE) == 1 and "cleaned up" in shown, shown


def test_a_later_press_ends_what_hangs():
    hangs = CLEANS_UP.replace("time.sleep(0.3)", 'print("hangs", flush=True); time.sleep(60)')
    hangs = hangs.replace(
        "def app", "from armor_model.base import interrupts\ninterrupts.PATIENCE_SECONDS = 0.0\n\ndef app"
    )
    terminal = Terminal([sys.executable, "-c", hangs])
    terminal.until("running")
    terminal.press(CTRL_C)
    terminal.until("hangs")
    terminal.press(CTRL_C)
    code, shown = terminal.end()
    assert code == 130 and shown.count(LINE) == 1 and "cleaned up" not in shown, shown


def test_an_error_of_the_cleaning_up_does_not_hide_the_interrupt():
    fails = CLEANS_UP.replace("time.sleep(0.3)", "raise OSError(5, 'gone')")
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
