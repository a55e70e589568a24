"""UEval: both protocols' arithmetic by hand, replies on lines, what each line is shown, the command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.interleaved.ueval import Rates, rates, read_met
from armor_eval.tasks.suites.judges import recorded

QUESTIONS = [
    {
        "id": 1,
        "prompt": "How is a reef knot tied? Show it.",
        "task_type": "life",
        "question_type": "open",
        "text_rubrics": ["Names the first crossing.", "Names the second crossing."],
        "image_rubrics": ["A picture of each step."],
    },
    {
        "id": 2,
        "prompt": "Explain a splice, no picture.",
        "task_type": "life",
        "question_type": "open",
        "text_rubrics": ["Says what it joins."],
        "image_rubrics": [],
    },
    {
        "id": 3,
        "prompt": "Draw the rig of a sloop, and name its parts.",
        "task_type": "diagram",
        "question_type": "closed",
        "text_rubrics": [{"criterion": "Names the jib.", "tags": []}],
        "image_rubrics": ["One mast.", "Two sails."],
    },
]
MET = {
    "1": {"text-0": True, "text-1": False, "image-0": True},
    "2": {"text-0": True},
    "3": {"text-0": "not sure", "image-0": True, "image-1": None},
}
"""None: a reply that cannot be read."""


def test_rates_by_hand():
    assert rates(["met", "not met"], ["met"], "ueval-official") == Rates(0.5, 1.0)
    assert rates(["met"], [], "ueval-official") == Rates(1.0, None)
    assert rates(["met"], [], "ueval-lmms-eval") == Rates(1.0, 0.0)
    assert rates(["met", "unread"], ["unread"], "ueval-official") == Rates(0.5, 0.0)
    assert rates(["met", "unread"], ["unread"], "ueval-lmms-eval") == Rates(1.0, 0.0)


@pytest.mark.parametrize(
    ("reply", "met"),
    [
        ('{"criteria_met": true}', "met"),
        ('```json\n{"explanation": "yes", "criteria_met": "True"}\n```', "met"),
        ('{"criteria_met": "not sure"}', "not met"),
        ('<think>{"criteria_met": true}</think>{"criteria_met": false}', "not met"),
        ('{"criteria_met": 1}', "unread"),
        ("true", "unread"),
        ("", "unread"),
        ('{"criteria_met": ', "unread"),
    ],
)
def test_replies_on_lines(reply, met):
    assert read_met(reply) == met


def run(folder: Path, protocol: str):
    Image.new("RGB", (8, 8), (30, 30, 200)).save(folder / "a.png")
    (folder / "questions.json").write_text(json.dumps(QUESTIONS))
    answers = [
        {"id": str(n), "text_answer": f"text {n}", "image_answer": [] if n == 2 else ["a.png"]} for n in (1, 2, 3)
    ]
    (folder / "model.json").write_text(json.dumps(answers))
    lines = [
        {"item": id, "probe": probe, "reply": "?" if met is None else json.dumps({"criteria_met": met})}
        for id, probes in MET.items()
        for probe, met in probes.items()
    ]
    (folder / "replies.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = ["judge", "answers", "--answers", str(folder / "model.json"), "--data", str(folder / "questions.json")]
    argv += ["--judge", f"replies:{folder / 'replies.jsonl'}", "--rubric", protocol]
    assert main([*argv, "--out", str(folder / protocol)]) == 0
    found, _, scores = read_bundle(folder / protocol)
    assert {m.name: m.n for m in scores.metrics} == {
        "mean of tasks": 3,
        "text": 3,
        "image": 2 if protocol == "ueval-official" else 3,
        "life": 2,
        "diagram": 1,
    }
    return found, {m.name: m.value for m in scores.metrics}


def test_the_official_protocol_by_hand(tmp_path):
    """life: text (1/2 + 1)/2 = .75 over both questions, image 1 over the one that has lines: (.75 + 1)/2 = .875.
    diagram: text 0 (not sure), image 1/2 (unread is not met): .25. Mean of tasks (.875 + .25)/2 = .5625. The text
    column: tasks' text (.75 + 0)/2 = .375; images (1 + .5)/2 = .75."""
    found, values = run(tmp_path, "ueval-official")
    assert values == {"mean of tasks": 56.25, "text": 37.5, "image": 75.0, "life": 87.5, "diagram": 25.0}
    texts = [r.text for r in found.reservations]
    assert any("1 of 7 replies are unread: not met" in text for text in texts)
    assert any("not known to be the published ones" in text for text in texts)


def test_lmms_evals_protocol_by_hand(tmp_path):
    """life: questions (.5 + 1)/2 = .75 and (1 + 0)/2 = .5, the half without lines being 0: .625. diagram: text 0, image
    1/1 (the unread line leaves the denominator): .5. Mean of tasks (.625 + .5)/2 = .5625 - the same by chance: the
    tasks differ."""
    _, values = run(tmp_path, "ueval-lmms-eval")
    assert (values["life"], values["diagram"], values["mean of tasks"]) == (62.5, 50.0, 56.25)
    assert (values["text"], values["image"]) == (37.5, 75.0)


def test_lines_on_images_see_them_and_of_closed_questions_no_text(tmp_path, monkeypatch):
    seen = {}
    answer = recorded.RecordedJudge.replies

    def replies(self, shown, room):
        seen.update({(one.item.id, ask.probe.id): (len(one.images), ask.text) for one in shown for ask in one.asks})
        return answer(self, shown, room)

    monkeypatch.setattr(recorded.RecordedJudge, "replies", replies)
    run(tmp_path, "ueval-official")
    assert seen["1", "text-0"][0] == 0 and "text 1" in seen["1", "text-0"][1]
    assert seen["1", "image-0"][0] == 1 and "text 1" in seen["1", "image-0"][1]
    assert seen["3", "image-0"][0] == 1 and "text 3" not in seen["3", "image-0"][1]
    assert seen["3", "text-0"][1].endswith("Requirement: Names the jib.")


def test_questions_and_answers_must_be_of_the_same_ids(tmp_path, capsys):
    run(tmp_path, "ueval-official")
    (tmp_path / "model.json").write_text(json.dumps([{"id": 1, "text_answer": "x", "image_answer": []}]))
    argv = ["judge", "answers", "--answers", str(tmp_path / "model.json"), "--rubric", "ueval-official"]
    argv += ["--judge", f"replies:{tmp_path / 'replies.jsonl'}"]
    assert main([*argv, "--data", str(tmp_path / "questions.json")]) == 2
    assert "same ids" in capsys.readouterr().err
    assert main(argv) == 2 and "--data" in capsys.readouterr().err
