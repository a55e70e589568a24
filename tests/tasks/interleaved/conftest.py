import numpy as np
import pytest


@pytest.fixture
def numpy_rng():
    return np.random.default_rng(5)
