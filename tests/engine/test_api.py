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
        ([], {}, "no task"),
        (["POPE", "modality"], {"decoding": Decoding(guidance=2.0)}, "cannot honour"),
        (["POPE"], {"decoding": Decoding(guidance=2.0)}, "guidance"),
        (["POPE"], {"decoding": Decoding(seed=2)}, "seed"),
        (["modality"], {"data": "x"}, "data"),
        (["modality"], {"judge": "openai:http://localhost:1#j"}, "judge"),
        (["POPE"], {"data": "nowhere"}, "neither a folder nor a file"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_anything_runs(tmp_path: Path, tasks, how, why) -> None:
    with pytest.raises(UserError, match=why):
        armor_eval.evaluate("mock:A", tasks, tmp_path, **{"profile": "shapes", **how})
    assert list(tmp_path.iterdir()) == []


def test_runs_come_in_the_order_that_was_asked_for(tmp_path: Path) -> None:
    asked = ["POPE", "modality", "MME-P", "MME", "MMB"]
    runs = armor_eval.evaluate("mock:A", asked, tmp_path, profile="shapes", limit=4)
    assert [one.run.benchmark for one in runs] == asked
    assert runs[2].run.started >= runs[3].run.started, "MME's answers serve MME-P"


class OnlyAnswers:
    """A model that can answer and nothing else."""

    def __init__(self) -> None:
        self._model, self.asked = MockModel("A"), 0
        self.info = self._model.info

    def answer(self, questions, decoding):
        self.asked += len(questions)
        return self._model.answer(questions, decoding)

    def close(self) -> None: ...


def test_a_model_that_lacks_what_a_later_task_needs_is_asked_nothing(tmp_path: Path) -> None:
    model = OnlyAnswers()
    with pytest.raises(UserError, match="cannot answer with text and images"):
        armor_eval.evaluate(model, ["POPE", "modality"], tmp_path, profile="shapes", limit=4)
    assert model.asked == 0 and list(tmp_path.iterdir()) == []


def test_settings_that_are_given_lie_over_the_profiles_own(tmp_path: Path) -> None:
    how = {"profile": "shapes", "limit": 4, "seed": 3}
    asked = ["POPE", "modality"]
    model = MockModel("A")
    model.honours = frozenset({"image_top_k"})
    runs = armor_eval.evaluate(model, asked, tmp_path, decoding=Decoding(temperature=0.5, image_top_k=9), **how)
    pope, modality = (one.run.decoding for one in runs)
    assert (pope["max_new_tokens"], pope["temperature"], pope["image_top_k"], pope["seed"]) == (64, 0.5, 0, 3)
    assert (modality["max_new_tokens"], modality["image_top_k"]) == (64, 9)
    [greedy] = armor_eval.evaluate("mock:A", "MMB", tmp_path, **how)
    assert greedy.run.decoding["seed"] == 0, "as the command line has it: nothing is drawn"


def test_judges_that_were_opened_are_closed(tmp_path: Path, monkeypatch) -> None:
    from armor_eval import api

    closed = []

    def opened(*args):
        judges = make(*args)
        for name, judge in judges.items():
            monkeypatch.setattr(judge, "close", lambda name=name: closed.append(name))
        return judges

    make = api.make_judges
    monkeypatch.setattr(api, "make_judges", opened)
    armor_eval.evaluate("mock:A", ["MMVet"], tmp_path, profile="shapes", limit=6)
    assert closed == ["MMVet"]


def test_repeats_are_summed_up_on_the_terminal_and_in_json(tmp_path: Path, capsys) -> None:
    import json

    from armor_eval.cli import main

    words = [
        "understanding",
        "--bench",
        "POPE",
        "--limit",
        "4",
        "--temperature",
        "1",
        "--max-new-tokens",
        "8",
        "--repeats",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    values = [next(m["value"] for m in one["scores"]["metrics"] if m["primary"]) for one in told["runs"]]
    spread = between(values)
    assert told["repeats"] == [
        {
            "benchmark": "POPE",
            "unit": "%",
            "values": values,
            "mean": pytest.approx(spread.mean),
            "sd": pytest.approx(spread.sd),
            "ci95": pytest.approx(list(spread.ci95)),
            "ci95_over_both": told["repeats"][0]["ci95_over_both"],
        }
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["POPE@0", "POPE@1"]
    assert main(words) == 0 and "SD between seeds" in capsys.readouterr().out
    assert main([*words[:5], "--repeats", "2"]) == 2
    assert capsys.readouterr().err.count("\n") <= 2


def test_the_pages_example_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    """docs/api.md's training loop, as it stands there."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/api.md", "exec"), {})
    assert re.search(r"step 2: POPE \d+\.\d", capsys.readouterr().out)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'vlmeval', 'mmdet', 'pandas'}"
    code = f"import armor_eval, sys; armor_eval.evaluate; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
