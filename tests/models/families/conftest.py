"""Tiny checkpoints of real classes, each built once a session."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Function model type -> folder of its tiny checkpoint."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from tiny import build

    root = tmp_path_factory.mktemp("families")

    def made(kind: str) -> Path:
        folder = root / kind
        if not (folder / "config.json").is_file():
            build(kind, folder)
        return folder

    return made


@pytest.fixture
def copied(tiny_model, tmp_path):
    """Function model type -> a copy of its folder that a test may change."""
    import shutil

    def made(kind: str) -> Path:
        return Path(shutil.copytree(tiny_model(kind), tmp_path / kind))

    return made
