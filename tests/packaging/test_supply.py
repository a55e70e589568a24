"""Pins, hashes and the page of licences say the same packages; no pin is a pre-release; no address is among them."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from paths import ROOT

SPEC = importlib.util.spec_from_file_location("supply", ROOT / "tools" / "supply.py")
supply = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(supply)
PINS = supply.pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
FILES = {file.name: file.read_text(encoding="utf-8") for file in (supply.BUILD, supply.ALL)}
HASHED = supply.pinned(FILES["all.txt"]) | supply.pinned(FILES["build.txt"])


def test_hashed_packages_are_the_pinned_ones() -> None:
    assert {name: version for name, version in HASHED.items() if PINS.get(name) != version} == {}
    assert not [name for name in HASHED if supply.exempt(name) or name in supply.LEFT_OUT]


@pytest.mark.parametrize("name", FILES)
def test_each_package_has_hashes_and_no_address(name: str) -> None:
    text = re.sub(r"^#.*\n", "", FILES[name], flags=re.MULTILINE)
    blocks = [block for block in re.split(r"^(?=\S)", text, flags=re.MULTILINE) if block]
    assert len(blocks) == len(supply.pinned(text)) > 2
    assert [b for b in blocks if not re.fullmatch(r"[^\\]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", b)] == []
    assert not re.search(r"://|index-url|find-links", text)


def test_what_the_project_asks_for_is_there() -> None:
    """A dependency added to pyproject.toml without `make requirements` would be missing after `make setup`."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        version = (PINS if supply.exempt(name) else HASHED)[name]
        assert wanted.specifier.contains(version), f"{line}, and {version} is pinned: make requirements"


def test_no_pin_is_a_pre_release() -> None:
    assert len(PINS) > 200
    assert {name: version for name, version in PINS.items() if Version(version).is_prerelease} == {}


def test_the_page_of_licences_is_of_these_packages() -> None:
    _, page = supply.LICENCES.read_text("utf-8").split("## Installed\n", 1)
    rows = re.findall(r"^\| ([\w-]+) \| ([^| ]*\d[^| ]*) \| ([^|]+) \|$", page, re.MULTILINE)
    assert {name: version for name, version, _ in rows} == supply.installed(), "make licences"
    strong = [(name, licence) for name, _, licence in rows if re.search(r"(?<!L)GPL|Affero", licence)]
    assert [name for name, licence in strong if "Lesser" not in licence] == []


def test_the_bill_of_materials_names_all(tmp_path) -> None:
    command = [sys.executable, ROOT / "tools" / "supply.py", "sbom", "--out", tmp_path / "sbom.json"]
    subprocess.run(command, check=True)
    bom = json.loads((tmp_path / "sbom.json").read_text())
    assert {c["name"]: c["version"] for c in bom["components"]} == supply.installed()
    assert bom["bomFormat"] == "CycloneDX" and bom["metadata"]["component"]["name"] == "armor-eval"
