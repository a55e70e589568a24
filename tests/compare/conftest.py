"""A pair of runs to compare."""

from __future__ import annotations

import pytest
from stats_runs import write_bundle


@pytest.fixture
def pair(tmp_path):
    def make(base, candidate, left=None, right=None):
        a = write_bundle(tmp_path / "base", base, **(left or {}))
        b = write_bundle(tmp_path / "candidate", candidate, **{"fingerprint": "g", **(right or {})})
        return a, b

    return make
