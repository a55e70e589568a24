"""`armor_eval.evaluate`: what notebooks and training loops call, and the command line with them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

import armor_eval
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.stats.repeats import between
from armor_model.base.errors import UserError


def primary(one) -> float:
    return next(m.value for m in one.scores.metrics if m.primary)


def test_tasks_by_name_and_the_second_call_reads(tmp_path: Path) -> None:
    first = armor_eval.evaluate("mock:B", ["MMB", "POPE"], tmp_path, profile="shapes", limit=5)
    assert [one.path for one in first] == [tmp_path / "MMB", tmp_path / "POPE"]
    assert all(one.run.status == "complete" and one.run.command == ["armor_eval.evaluate"] for one in first)
    again = armor_eval.evaluate(MockModel("B"), ["MMB"], tmp_path, profile="shapes", limit=5)
    assert again[0].run.started == first[0].run.started and primary(again[0]) == primary(first[0])


def test_it_is_what_the_command_line_measures(tmp_path: Path, capsys) -> None:
    from armor_eval.cli import main

    [one] = armor_eval.evaluate("mock:A", ["MMB"], tmp_path / "api", profile="shapes", limit=5)
    words = ["understanding", "--bench", "MMB", "--model", "mock:A", "--profile", "shapes", "--limit", "5"]
    assert main([*words, "--out", str(tmp_path / "cli")]) == 0
    capsys.readouterr()
    items = [(tmp_path / way / "MMB" / "scores.json").read_text() for way in ("api", "cli")]
    assert items[0] == items[1] and one.run.decoding["max_new_tokens"] == 64


def test_repeats_draw_other_seeds_of_the_same_questions(tmp_path: Path) -> None:
    settings = Decoding(max_new_tokens=8, temperature=1.0)
    runs = armor_eval.evaluate("armor-nano", ["POPE"], tmp_path, limit=4, seed=3, repeats=2, decoding=settings)
    assert [one.path.name for one in runs] == ["POPE@3", "POPE@4"]
    assert [one.run.decoding["seed"] for one in runs] == [3, 4] and runs[0].run.subset == runs[1].run.subset
    spread = between([1.0, 2.0, 4.0])
    assert (spread.mean, spread.sd) == (pytest.approx(7 / 3), pytest.approx(1.527525))
    assert spread.ci95 == (pytest.approx(-1.4612, abs=1e-4), pytest.approx(6.1279, abs=1e-4))


@pytest.mark.parametrize(
    ("tasks", "how", "why"),
    [
        (["POPE"], {"repeats": 2}, "greedily"),
        (["POPE"], {"repeats": 0}, "at least 1"),
        (["POPES"], {}, "did you mean POPE"),
        (["MMVet"], {"profile": "official"}, "judge"),
        (["modality"], {"profile": "official"}, "no public benchmark"),
        (["POPE"], {"model_options": {"dtype": "float32"}}, "dtype"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_runs(tmp_path: Path, tasks, how, why) -> None:
    with pytest.raises(UserError, match=why):
        armor_eval.evaluate("mock:A", tasks, tmp_path, **{"profile": "shapes", **how})
    assert list(tmp_path.iterdir()) == []


def test_the_pages_example_runs(tmp_path: Path) -> None:
    """docs/api.md's training loop, as it stands there."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                          env={**__import__("os").environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 2: POPE \d+\.\d", done.stdout), done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'vlmeval', 'mmdet', 'pandas'}"
    code = f"import armor_eval, sys; armor_eval.evaluate; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
