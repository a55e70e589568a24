"""Helpers of this folder are imported by name; one thread keeps the numbers the same on every machine."""

import multiprocessing
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def forkserver():
    """Fresh processes that have the heavy imports done already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_worker", "train_helpers", "trainer.loop", "armor_model.modeling"])
    return context
