"""Makes the area's helper module importable and gives every test data and folders of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tsv_folder(tmp_path_factory) -> Path:
    from harness_data import write_all

    return write_all(tmp_path_factory.mktemp("tsv"))
