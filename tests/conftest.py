"""One thread a test process: tests run in parallel (pytest-xdist), where more OpenMP threads fight for the cores.

Caches are the session's own: nothing is written into the user's."""

import gc
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ[name] = "1"  # before torch or numpy is imported; child processes inherit it
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Set before a Hugging Face library is imported; workers and child processes inherit it, so what one test caches is warm
# for the next.
CACHES = None if "PYTEST_XDIST_WORKER" in os.environ else tempfile.TemporaryDirectory(prefix="armor-tests-")
if CACHES is not None:
    os.environ |= {"ARMOR_EVAL_CACHE": f"{CACHES.name}/armor-eval", "HF_HOME": f"{CACHES.name}/huggingface"}

# torch, transformers and vlmeval are a million objects: going over them again and again was a seventh of all CPU time.
gc.set_threshold(50_000, 20, 20)

# A job in the background (`make test &` in a script) ignores Ctrl-C, and what the tests start would inherit that.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

sys.path.append(str(Path(__file__).parent / "helpers"))  # what tests of several folders share

from hypothesis import HealthCheck, settings  # noqa: E402

# No clock decides a test, and no chance: on a busy machine drawing an example takes as long as it takes, and the same
# examples are drawn every time.
settings.register_profile("armor", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("armor")

from armor_eval.vlmevalkit.left_out import stand_ins  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Tests that import vlmeval by themselves do so without what is left out of the install."""
    stack = ExitStack()
    stack.enter_context(stand_ins())
    config.add_cleanup(stack.close)
    if CACHES is not None:
        config.add_cleanup(CACHES.cleanup)
