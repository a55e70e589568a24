"""Tiny checkpoints of real classes, as in tests/models/families."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "models" / "families"))


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """Function model type -> folder of its tiny random checkpoint."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from tiny import build

    root = tmp_path_factory.mktemp("vlms")

    def made(kind: str) -> Path:
        if not (root / kind / "config.json").is_file():
            build(kind, root / kind)
        return root / kind

    return made
