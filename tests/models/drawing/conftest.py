"""Makes the area's helper modules importable; tiny checkpoints are made once a session, where a test asks for one."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Family -> the folder of its tiny pipeline."""
    import tiny_drawers

    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tiny_drawers.save(name, root)
        return made[name]

    return folder


@pytest.fixture(scope="session")
def draws(tiny):
    """`draws(family, **model arguments)`: the adapter of a tiny pipeline, on the CPU, two steps."""
    from armor_eval.models import registry

    def load(name: str, *, dtype=None, **args):
        import tiny_drawers

        given = {"steps": 2, **tiny_drawers.PIPELINES[name][1], **args}
        return registry.load(f"diffusers:{tiny(name)}", "official", device="cpu", dtype=dtype, model_args=given)

    return load
