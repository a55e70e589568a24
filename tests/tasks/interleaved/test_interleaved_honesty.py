"""What a judge looks at that it should not: scripted judges with one vice each, the rule, and where it is shown."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from armor_eval.base.data import benchmarks_dir
from armor_eval.cli import main
from armor_eval.report.loading import load_runs
from armor_eval.report.results import results_doc
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.comparable import rankable
from armor_eval.runs.schema import JudgeInfo
from armor_eval.tasks.suites.judges import Reading

SET = json.loads((benchmarks_dir() / "judges" / "honesty_v1.json").read_text())
WRONG = {item["wrong"] for item in SET["items"]}


def answers_of(request: str) -> tuple[str, str, str]:
    """(what stands after `Answer A`, answer A, answer B)"""
    found = re.search(r"Answer A( \(.*?\))?: (.*)\nAnswer B( \(.*?\))?: (.*)", request, re.DOTALL)
    return found[1] or "", *(found[at].replace(" [image 1]", "") for at in (2, 4))


def honest(request: str) -> str:
    _, a, b = answers_of(request)
    if a in WRONG or b in WRONG:
        return "B" if a in WRONG else "A"
    # equal answers: a coin that knows neither place nor length nor author
    return "A" if (sum(map(ord, min(a, b))) + (a < b)) % 2 else "B"


def first(request: str) -> str:
    return "A"


def longer(request: str) -> str:
    _, a, b = answers_of(request)
    return honest(request) if abs(len(a) - len(b)) < 60 else "A" if len(a) > len(b) else "B"


def own(request: str) -> str:
    author, *_ = answers_of(request)
    return honest(request) if not author else "A" if "by you" in author else "B"


def ties(request: str) -> str:
    return f"Tie({honest(request)})"


def evenhanded(request: str) -> str:
    _, a, b = answers_of(request)
    return honest(request) if a in WRONG or b in WRONG else "Tie(A)"


class Scripted:
    """A judge that answers by a function of the prompt."""

    info = JudgeInfo(name="grader", version="1", endpoint="local")
    settings, facts = {}, {}

    def __init__(self, script: Callable[[str], str]) -> None:
        self.script, self.asked = script, 0

    def prepare(self, kind): ...

    def close(self): ...

    def replies(self, shown, room):
        self.asked += len(shown)
        assert all(len(one.images) == 2 for one in shown)
        return [[Reading(self.script(ask.text)) for ask in one.asks] for one in shown]


@pytest.fixture
def calibrated(monkeypatch):
    """Runs `judge calibrate` with a script for a judge: (run, numbers, how often it was asked)."""

    def run(folder: Path, script: Callable[[str], str], code: int = 0):
        judge = Scripted(script)
        with monkeypatch.context() as patched:
            patched.setattr("armor_eval.cli.judging.load_judge", lambda spec, profile, **_: judge)
            assert main(["judge", "calibrate", "--judge", "hf:grader", "--out", str(folder)]) == code
        found, _, scores = read_bundle(folder)
        return found, {metric.name: metric.value for metric in scores.metrics}, judge.asked

    return run


@pytest.mark.parametrize(
    ("judge", "told"),
    [
        (honest, []),
        (evenhanded, []),
        (first, ["does not tell right answers from wrong ones: 50.0 %", "prefers a place: 100.0 %", "contradicts"]),
        (longer, ["looks at length: 100.0 %"]),
        (own, ["looks at the author: 100.0 %"]),
        (ties, ["does not tell right answers from wrong ones: 50.0 %"]),
    ],
)
def test_each_vice_is_found_and_no_other(calibrated, tmp_path, judge, told):
    run, values, asked = calibrated(tmp_path / "run", judge)
    assert asked == 8 * len(SET["items"]) and run.status == "complete" and run.model.name == "grader"
    texts = [r.text for r in run.reservations]
    assert len(texts) == len(told) and all(part in text for part, text in zip(told, texts, strict=True)), texts
    if judge in (honest, evenhanded, longer, own):
        assert values["right against wrong"] == 100


def test_what_is_known_of_a_judge_stands_with_its_grades_and_its_pairs_and_no_others(calibrated, tmp_path, capsys):
    calibrated(tmp_path / "known", longer)
    calibrated(tmp_path / "fair", honest)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for name in ("ours", "theirs"):
        line = {"id": "1", "question": "What is slate?", "answer": f"A stone, says {name}.", "image": "a.png"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
    for kind, probe in (("answers", "grades"), ("pairs", "winner")):
        argv = ["judge", kind, "--answers", str(tmp_path / "ours.jsonl")]
        argv += [] if kind == "answers" else ["--against", str(tmp_path / "theirs.jsonl")]
        reply = "[Text: 4; Image: 3; Quality: 2; Synergy: 3]" if kind == "answers" else "A"
        items = ["1"] if kind == "answers" else ["1/first", "1/second"]
        lines = [{"item": item, "probe": probe, "reply": reply, "judge": "grader"} for item in items]
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        argv += ["--judge", f"replies:{tmp_path / kind}.jsonl"]
        for known in ("known", "fair", None):
            more = [] if known is None else ["--calibration", str(tmp_path / known)]
            assert main([*argv, *more, "--out", str(tmp_path / f"{kind}-{known}")]) == 0
            run = read_bundle(tmp_path / f"{kind}-{known}")[0]
            assert ("looks at length" in str(run.reservations)) == (known == "known")
            assert ("was not measured" in str(run.extras["notes"])) == (known is None)
            assert ("looks at length" in capsys.readouterr().out) == (known == "known")
    known, fair = (load_runs([tmp_path / f"answers-{name}"])[0].run for name in ("known", "fair"))
    assert not rankable(known, fair)
    doc = results_doc(load_runs([tmp_path / "answers-known"]))
    assert any("looks at length" in note for note in doc.notes)
    assert main(["export", str(tmp_path / "answers-known"), "--to", "csv", "--out", str(tmp_path / "csv")]) == 0
    assert any("looks at length" in file.read_text() for file in (tmp_path / "csv").rglob("*.csv"))
    beside = {view.path.name: view.run for view in load_runs([tmp_path / "answers-None", tmp_path / "known"])}
    assert "looks at length" in str(beside["answers-None"].reservations), "given among the runs, it is told too"
    assert main([*argv, "--calibration", str(tmp_path / "pairs-fair"), "--out", str(tmp_path / "x")]) == 2
    assert "is no calibration" in capsys.readouterr().err


def test_a_calibration_of_another_judge_is_refused(calibrated, tmp_path, capsys):
    calibrated(tmp_path / "known", honest)
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", "question": "q", "answer": "a", "image": ""}))
    (tmp_path / "r.jsonl").write_text(json.dumps({"item": "1", "probe": "grades", "reply": "x", "judge": "somebody"}))
    argv = ["judge", "answers", "--answers", str(tmp_path / "a.jsonl"), "--judge", f"replies:{tmp_path / 'r.jsonl'}"]
    assert main([*argv, "--calibration", str(tmp_path / "known")]) == 2
    assert "of another judge: grader, not somebody" in capsys.readouterr().err


def test_an_unread_verdict_withholds_and_is_asked_again(calibrated, tmp_path):
    def murmurs(request: str) -> str:
        return "hm" if "piano" in request and "(written" not in request else longer(request)

    run, values, _ = calibrated(tmp_path / "run", murmurs, code=1)
    assert run.status == "partial" and values["right against wrong"] is None
    run, values, asked = calibrated(tmp_path / "run", longer)
    assert (run.status, asked, values["right against wrong"]) == ("complete", 4, 100)
    assert len(run.reservations) == 1, "what the first end found is not told once more"


def test_a_judge_of_its_own_answers_is_told(tmp_path):
    (tmp_path / "grader.jsonl").write_text(json.dumps({"id": "1", "question": "q", "answer": "a", "image": ""}))
    reply = {"item": "1", "probe": "grades", "reply": "[Text: 4; Image: 0; Quality: 0; Synergy: 0]", "judge": "grader"}
    (tmp_path / "r.jsonl").write_text(json.dumps(reply))
    argv = ["judge", "answers", "--answers", str(tmp_path / "grader.jsonl"), "--judge", f"replies:{tmp_path}/r.jsonl"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    assert "looks at its own answers: grader" in read_bundle(tmp_path / "run")[0].reservations[0].text
