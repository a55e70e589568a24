"""Graded answers: rubrics' replies, zero rules, worked means, failed replies, the command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.interleaved.answers import Answer, asked
from armor_eval.tasks.interleaved.rubrics import RUBRICS

SYN, OWN = RUBRICS["synjudge"], RUBRICS["armor-rubric-v1"]


@pytest.mark.parametrize(
    ("reply", "grades"),
    [
        # an obedient reply to the published prompt, which both published local judges fail to read
        (
            "[Text Response Quality: 5; Image Response Quality: 4; Image Aesthetic Quality: 3; Text-Image Synergy: 4]",
            [5, 4, 3, 4],
        ),
        (
            "text response quality: 5; image response quality: 4; image aesthetic quality: 3; "
            "text-image consistency: 4\n",
            [5, 4, 3, 4],
        ),
        (
            "Sure!\n```\n**Text Response Quality**: 5\nImage Response Quality = 4\nImage Aesthetic Quality: 3/5\n"
            "Text-Image Synergy: 4\n```",
            [5, 4, 3, 4],
        ),
        (
            "[Text Response Quality: 9; Image Response Quality: 4; Image Aesthetic Quality: 3; Text-Image Synergy: 4]",
            None,
        ),
        (
            "[Text Response Quality: 4.5; Image Response Quality: 4; Image Aesthetic Quality: 3; "
            "Text-Image Synergy: 4]",
            None,
        ),
        (
            "[Text Response Quality: -1; Image Response Quality: 4; Image Aesthetic Quality: 3; Text-Image Synergy: 4]",
            None,
        ),
        ("[Text Response Quality: 5; Image Response Quality: 4; Image Aesthetic Quality: 3]", None),
        (
            "[Text Response Quality: 5; Text Response Quality: 4; Image Response Quality: 4; "
            "Image Aesthetic Quality: 3; Text-Image Synergy: 4]",
            None,
        ),
        ("null", None),
        ("I can not grade this.", None),
    ],
)
def test_synjudges_replies_are_read_case_blind_under_both_names_or_not_at_all(reply, grades):
    found = SYN.read(reply)
    assert (found and [found[name] for name in ("text", "image", "quality", "synergy")]) == grades


def test_our_own_rubric_reads_what_it_asks_for_and_names_itself():
    line = OWN.words.splitlines()[-1]
    assert OWN.read(line.replace("N", "3")) == dict.fromkeys(("text", "image", "quality", "synergy"), 3)
    assert OWN.read(line) is None and OWN.name == "armor-rubric-v1" and OWN.sha256 is None


@pytest.mark.parametrize(
    ("text", "images", "zero"),
    [
        ("a", ["i"], set()),
        ("a", [], {"image", "quality", "synergy"}),
        ("", ["i"], {"text", "synergy"}),
        ("", [], {"text", "image", "quality", "synergy"}),
    ],
)
def test_what_is_missing_is_zero_before_anybody_is_asked(text, images, zero):
    assert OWN.zero(text, images) == SYN.zero(text, images) == dict.fromkeys(zero, 0)


def test_the_prompt_says_where_each_image_stands():
    answer = Answer(id="1", question="Q", answer="one <image> two <image> three", image=["a", "b", "c"])
    told = asked("RUBRIC\n", answer)
    assert told == "RUBRIC\n\nQuestion: Q\nAnswer: one [image 1] two [image 2] three [image 3]"
    assert asked("R", Answer(id="1", question="Q", answer=None, image="")).endswith("Answer: null\nImage: null")


def _answers(folder: Path) -> Path:
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "a.png")
    lines = [
        {"id": "both", "question": "What is a buoy? Draw it.", "answer": "A float.", "image": "a.png"},
        {"id": "talks", "question": "What is a mole?", "answer": "A wall in the sea.", "image": ""},
        {"id": "draws", "question": "Draw a pier.", "answer": None, "image": ["a.png", "a.png"]},
        {"id": "silent", "question": "Draw a dock.", "answer": "", "image": None},
    ]
    (folder / "answers.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "answers.jsonl"


def _replies(folder: Path, **replies: str) -> Path:
    path = folder / "replies.jsonl"
    lines = [{"item": id, "probe": "grades", "reply": reply, "judge": "someone"} for id, reply in replies.items()]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def own(*grades: int) -> str:
    return "[Text: {}; Image: {}; Quality: {}; Synergy: {}]".format(*grades)


def test_means_by_hand(tmp_path, capsys):
    """Grades by rule: both (5, 4, 3, 4); talks (4, 0, 0, 0), its reply's 3 for an image being overruled; draws
    (0, 2, 3, 0); silent all 0, unasked. Text (5+4+0+0)/4 = 2.25, image (4+0+2+0)/4 = 1.5, quality (3+0+3+0)/4 = 1.5,
    synergy 4/4 = 1; their mean (2.25+1.5+1.5+1)/4 = 1.5625."""
    replies = _replies(tmp_path, both=own(5, 4, 3, 4), talks=own(4, 3, 0, 0), draws=own(0, 2, 3, 5))
    argv = ["judge", "answers", "--answers", str(_answers(tmp_path)), "--judge", f"replies:{replies}"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    run, items, scores = read_bundle(tmp_path / "run")
    assert {m.name: m.value for m in scores.metrics} == {
        "mean": 1.5625,
        "text": 2.25,
        "image": 1.5,
        "quality": 1.5,
        "synergy": 1.0,
    }
    assert run.extras["given"] == {"both": 1, "text": 1, "image": 1, "none": 1}
    assert (run.benchmark, run.judge.name, run.reservations) == ("armor-rubric-v1", "someone", [])
    assert len(items) == 4 and "answers of: both 1, image 1, none 1, text 1" in capsys.readouterr().out


def test_a_failed_reply_is_never_a_grade(tmp_path, capsys):
    """One good (5, 4, 3, 4) and one failure: the published script averages -1 in and says 1.5; ours has the mean of
    the graded ones by dimension, and withholds the headline."""
    replies = _replies(tmp_path, both=own(5, 4, 3, 4), talks="null", draws=own(0, 2, 3, 9))
    argv = ["judge", "answers", "--answers", str(_answers(tmp_path)), "--judge", f"replies:{replies}"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 1
    run, items, scores = read_bundle(tmp_path / "run")
    assert {i.id: i.status for i in items} == {
        "both": "ok",
        "talks": "judge_failed",
        "draws": "judge_failed",
        "silent": "ok",
    }
    assert scores.metrics[0].value is None and "2 of 4" in scores.withheld and run.status == "partial"
    assert scores.metrics[1].value == 2.5, "text, (5 + 0) / 2"


def test_words_of_others_come_from_a_file_and_are_named_where_they_are_not_the_published_ones(tmp_path, capsys):
    replies = _replies(
        tmp_path,
        both="Text Response Quality: 5; Image Response Quality: 4; Image Aesthetic Quality: 3; Text-Image Synergy: 4",
    )
    answers = tmp_path / "answers.jsonl"
    _answers(tmp_path)
    answers.write_text(answers.read_text().splitlines()[0])
    argv = ["judge", "answers", "--answers", str(answers), "--judge", f"replies:{replies}", "--rubric", "synjudge"]
    assert main(argv) == 2 and "--prompt" in capsys.readouterr().err
    (tmp_path / "mine.txt").write_text("Grade it.")
    assert main([*argv, "--prompt", str(tmp_path / "mine.txt"), "--out", str(tmp_path / "run")]) == 0
    run, _, scores = read_bundle(tmp_path / "run")
    assert scores.metrics[0].value == 4 and "not known to be the published ones" in run.reservations[0].text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "1", "question": "q", "answer": "a", "image": "../../x.png"}', "outside"),
        ('{"id": "1", "answer": "a"}', "question"),
        ("nonsense", "not JSON"),
        ("", "no answers"),
        ('{"id": "1", "question": "q"}\n{"id": 1, "question": "q"}', "twice"),
    ],
)
def test_mistakes_in_a_file_of_answers_are_one_line(tmp_path, capsys, line, says):
    (tmp_path / "answers.jsonl").write_text(line)
    replies = _replies(tmp_path, x=own(1, 1, 1, 1))
    argv = ["judge", "answers", "--answers", str(tmp_path / "answers.jsonl"), "--judge", f"replies:{replies}"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error


def test_a_missing_image_costs_its_answer_only(tmp_path):
    answers = _answers(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    replies = _replies(tmp_path, talks=own(4, 0, 0, 0))
    argv = [
        "judge",
        "answers",
        "--answers",
        str(answers),
        "--judge",
        f"replies:{replies}",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main(argv) == 1
    assert {i.id: i.status for i in read_bundle(tmp_path / "r")[1]} == {
        "both": "error",
        "talks": "ok",
        "draws": "error",
        "silent": "ok",
    }
