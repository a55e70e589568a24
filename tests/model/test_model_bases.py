"""Base models: the protocol is what InternVL gives, nothing heavy is imported, and a second base needs no branch."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from paths import ROOT
from toy_base import Toy

from armor_model import ArmorForConditionalGeneration, preset
from armor_model.base.errors import UserError
from armor_model.bases import BASES, BaseModel, bases_of, find_base


@pytest.mark.parametrize("name", BASES)
def test_a_base_has_every_member_of_the_protocol(name):
    base = find_base(name)
    assert base.name == name and all(base in bases_of({"model_type": kind}) for kind in base.model_types)
    for member in (*BaseModel.__annotations__, *(m for m in vars(BaseModel) if not m.startswith("_"))):
        assert hasattr(base, member), member
        if inspect.isfunction(asked := getattr(BaseModel, member, None)):
            wanted, given = (list(inspect.signature(f).parameters) for f in (asked, getattr(type(base), member)))
            assert wanted == given, member


def test_a_base_without_a_member_cannot_be_made():
    """The Protocol's own bodies would answer None, somewhere in the middle of tokenising."""
    members = {name: value for name, value in vars(Toy).items() if name != "shape"}
    with pytest.raises(TypeError, match="abstract method"):
        type("Half", (BaseModel,), members)()


def test_unknown_bases_are_named():
    with pytest.raises(UserError, match="did you mean internvl"):
        find_base("internvi")
    with pytest.raises(UserError, match="model_type is 'llava' - known: internvl, internvl_chat"):
        bases_of({"model_type": "llava"})


def test_bases_import_nothing_heavy():
    code = "import sys; from armor_model.bases import *; find_base('internvl'); import armor_model.presets; " + (
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'PIL', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_positions_and_features_come_from_the_base():
    """Another base's positions and features reach rotary embedding and placeholders: the model asks nobody else."""

    class Shifted(type(find_base("internvl"))):
        def positions(self, counts_BT):
            return counts_BT + 7 * (counts_BT > 3)

        def image_features(self, core, images):
            return [features * 0 for features in super().image_features(core, images)]

    torch.manual_seed(0)
    model = ArmorForConditionalGeneration(preset("tiny", vocab_size=32)).eval()
    ids, pixels = torch.tensor([[5, 6, *[3] * 16, 7, 8]]), [torch.randn(1, 3, 32, 32)]
    with torch.no_grad():
        before = model.backbone(model.embed(ids, pixels))
        rotary = model.rotary(before, torch.arange(20)[None])
        model.base = Shifted()
        assert not model.embed(ids, pixels)[:, 2:18].any() and model.embed(ids, pixels)[:, 1].any()
        shifted = model.rotary(before, torch.arange(20)[None])
    assert torch.equal(rotary[0][:, :4], shifted[0][:, :4]) and torch.equal(rotary[0][:, 11:], shifted[0][:, 4:13])


def test_every_block_is_one_that_sharding_wraps():
    model = ArmorForConditionalGeneration(preset("tiny", vocab_size=32))
    inside = {id(p) for block in model.blocks for p in block.parameters()}
    parts = model.parts()
    assert {id(p) for p in parts["adapter"]} - inside == {id(p) for p in model.adapter_norm.parameters()}
    assert (
        len(model.blocks) == 2 + 2 + 2 and sum(id(p) in inside for p in parts["decoder"]) == len(parts["decoder"]) - 1
    )


@pytest.mark.slow
def test_a_third_person_adds_a_base(tmp_path):
    """docs/add-a-base.md: its steps, in their order, with its one file."""
    text = (ROOT / "docs" / "add-a-base.md").read_text()
    steps = re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S)
    file = Path(__file__).parent / "toy_base.py"
    assert len(steps) == 5 and len(file.read_text().splitlines()) <= 200
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(file.parent)))}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(steps)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
