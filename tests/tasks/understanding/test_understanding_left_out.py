"""VLMEvalKit is imported without the GPL packages that the install leaves out."""

import importlib.util
import subprocess
import sys

import pytest

from armor_eval.vlmevalkit import left_out
from armor_model.base.errors import UserError

HIDDEN = """
import sys
from importlib.machinery import PathFinder

class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name in ("Levenshtein", "distance", "Polygon") else super().find_spec(name, path, target)

sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from armor_eval.vlmevalkit.importing import quiet_vlmeval
with quiet_vlmeval():
    from vlmeval.dataset.utils.chartx_eval import Levenshtein
    from vlmeval.dataset.utils.yorn import YOrN_Extraction
print(type(Levenshtein).__name__, YOrN_Extraction("Yes."), "Levenshtein" in sys.modules)
"""


def test_what_is_absent_can_be_imported_and_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "LEFT_OUT", {"no_such_module": "No-Such"})
    with left_out.stand_ins():
        from no_such_module import anything

        assert importlib.util.find_spec("no_such_module")
    with pytest.raises(UserError, match=r"No-Such \(GPL\)"):
        anything("a", "b")
    assert importlib.util.find_spec("no_such_module") is None


def test_what_is_installed_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "LEFT_OUT", {"this": "This"})
    monkeypatch.delitem(sys.modules, "this", raising=False)
    with left_out.stand_ins():
        assert "this" not in sys.modules


@pytest.mark.slow
def test_vlmevalkit_is_imported_without_them() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["StandIn", "Yes", "False"]
