"""The contracts on imports hold, and the core reaches a guest profile through the registry alone."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from paths import ROOT

from armor_eval import profiles
from armor_eval.models.mock import MockModel
from armor_model.base.errors import UserError


def test_the_import_contracts_hold() -> None:
    """In a process of its own: the linter switches off every logger that is there."""
    pytest.importorskip("importlinter")
    child = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", child], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_module_of_the_door_to_vlmevalkit_stands_in_a_layer() -> None:
    """The package is in two layers, so its modules are named one by one; none is excepted."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = settings["tool"]["importlinter"]["contracts"][0]
    named = {name.strip() for line in layers["layers"] for name in line.split(":")}
    modules = {path.stem for path in (ROOT / "armor_eval" / "vlmevalkit").glob("*.py")} - {"__init__"}
    assert {f"armor_eval.vlmevalkit.{name}" for name in modules} <= named and "ignore_imports" not in layers


def test_three_files_of_the_core_name_the_guest_at_most() -> None:
    """Help texts, sentences and comments apart: the literal that code would branch on."""
    naming = set()
    for package in ("armor_eval", "armor_model"):
        for file in (ROOT / package).rglob("*.py"):
            if "shapes" in file.relative_to(ROOT).parts:
                continue
            tree = ast.parse(file.read_text(encoding="utf-8"))
            if any(isinstance(node, ast.Constant) and node.value == "shapes" for node in ast.walk(tree)):
                naming.add(str(file.relative_to(ROOT)))
    assert {"armor_eval/profiles.py", "armor_eval/runs/schema.py"} <= naming
    assert len(naming) <= 3, naming


def test_a_profile_is_chosen_by_name_or_by_the_model() -> None:
    assert profiles.choose_profile(None, None).name == profiles.choose_profile(None, "armor-nano").name == "shapes"
    assert profiles.choose_profile(None, "hf:a/b").name == "official"
    assert profiles.choose_profile("official", None).guest is None
    with pytest.raises(UserError, match="did you mean shapes"):
        profiles.choose_profile("shape", None)
    with pytest.raises(ValueError, match="published data"):
        profiles.profile_of("official").part("modality")


def test_another_guest_is_measured_without_a_change_of_the_core(tmp_path: Path, monkeypatch) -> None:
    """A second user of the seam: a package of two modules, made here, with a request and a reader of its own."""
    from PIL import Image

    from armor_eval.engine import Settings, evaluate
    from armor_eval.tasks.modality.judging import Reading
    from armor_eval.tasks.modality.task import ModalityTask

    line = (
        '{"id": "a", "kind": "ti2ti", "messages": [{"role": "user", "content": "<image>\\nthis, brighter"}],'
        ' "images": ["dark"], "expect": {"text": true, "image": true}, "content": {"brighter": true}}'
    )
    modality, reader = ModuleType("greys.modality"), ModuleType("greys.reader")
    modality.jsonl = lambda: line
    reader.NAME = "grey reader"
    reader.render = lambda name: Image.new("RGB", (8, 8), name and "black")
    reader.read = lambda image, content, text: Reading(content["brighter"], None, f"{image.size[0]} pixels wide")
    for module in (ModuleType("greys"), modality, reader):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = profiles.ProfileSpec("shapes", label=" (greys)", guest="greys")
    done = evaluate(ModalityTask(spec), MockModel(), tmp_path / "run", Settings(spec.name, ["armor-eval"]))
    (item,) = [m for m in done.scores.metrics if m.name == "picture shows it"]
    assert done.run.scorer.name.endswith("grey reader") and item.value == 100.0
