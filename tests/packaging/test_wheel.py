"""A plain `pip install` must carry the data and the checkpoint along, and run from an empty directory."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked files, so that neither build/ nor stray files leak into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).is_file():
            continue
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        folder,
        source,
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def _isolated(site: Path) -> dict[str, str]:
    """The environment in which only `site` can provide our packages."""
    return {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """The wheel installed without dependencies over the packages that are here already."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel]
    subprocess.run(command, check=True)
    return folder


def test_the_wheel_holds_declared_data_and_the_checkpoint(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("armor_eval/benchmarks/") and name.endswith(".toml") for name in names)
    assert "armor_model/pretrained/armor-nano/model.safetensors" in names
    assert not any(name.startswith(("benchmarks/", "tests/", "reports/")) for name in names)
    assert wheel.stat().st_size < 40e6


def test_installed_packages_run_from_an_empty_directory(site, tmp_path):
    where = (
        "import armor_eval, armor_model, trainer; print(armor_eval.__file__, armor_model.__file__, trainer.__file__)"
    )
    options = {"cwd": tmp_path, "env": _isolated(site), "check": True, "capture_output": True, "text": True}
    found = subprocess.run([sys.executable, "-c", where], **options).stdout.split()
    assert all(Path(path).is_relative_to(site) for path in found)
    listed = subprocess.run([sys.executable, "-m", "armor_eval", "list", "--json"], **options).stdout
    assert "MMB" in json.dumps(json.loads(listed))


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(site, tmp_path):
    options = {"cwd": tmp_path, "env": _isolated(site), "check": True}
    subprocess.run([sys.executable, "-m", "armor_eval", "demo", "--out", "bundle"], **options)
    assert list(tmp_path.glob("bundle/**/scores.json"))


@pytest.mark.slow
def test_the_wheel_installs_from_nothing_and_runs_the_demo(wheel, tmp_path):
    """Twenty minutes where packages come over the network, about three where they are at hand."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = tmp_path / "clean" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "setuptools<81", "wheel"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel], check=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    subprocess.run([python.with_name("armor-eval"), "demo"], cwd=empty, check=True)
