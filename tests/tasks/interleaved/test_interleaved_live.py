"""A model is asked and its answers are judged, in one command that resumes; OpenING's layout; runs as answers."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from scripted_server import Asked, ScriptedServer, chat, refusal

from armor_eval.cli import main
from armor_eval.engine import Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.profiles import profile_of
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.interleaved.answers import Answer, asked, read_answers
from armor_eval.tasks.modality.records import read_records
from armor_eval.tasks.modality.task import ModalityTask

GRADES = "[Text: 4; Image: 3; Quality: 2; Synergy: 3]"


def tasks(folder: Path, count: int = 10) -> Path:
    Image.new("RGB", (9, 9), (0, 90, 0)).save(folder / "moss.png")
    lines = [{"id": f"q{n}", "question": f"What is peat, for the {n}th time? Draw it."} for n in range(count)]
    lines[0] |= {"question": "What grows on <image>? Draw it with a wall.", "given": "moss.png"}
    (folder / "peat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "peat.jsonl"


def test_asked_and_judged_in_one_command_and_only_what_failed_again(tmp_path, monkeypatch):
    """The model fails on one request, the judge on two answers, once by a refusal and once by grades out of range: the
    mean is withheld. The same command asks the model that one again, the judge those three, and ends whole."""
    healthy = False

    def judge(request: Asked):
        said = "" if healthy else request.text
        if "the 2th time" in said:
            return refusal(400, "too long")
        return chat(GRADES.replace("4", "9") if "the 3th time" in said else GRADES)

    asked_of_the_model = []
    image = Image.new("RGB", (8, 8), (200, 9, 9))

    def answer(conversation):
        number = re.search(r"the (\d)th", str(conversation))
        if not healthy and number and number[1] == "4":
            return RuntimeError("out of ink")
        return [["words"], [image], ["words", image]][int(number[1]) % 3 if number else 0]

    def counted(self, conversations, seeds, decoding):
        asked_of_the_model.extend(conversations)
        return [answer(one) for one in conversations]

    monkeypatch.setattr(MockModel, "respond", counted)
    with ScriptedServer(judge) as server:
        argv = ["interleaved", "--model", "mock", "--tasks", str(tasks(tmp_path)), "--out", str(tmp_path / "o")]
        argv += ["--judge", f"openai:{server.url}#grader", "--judge-json", '{"chat_template_kwargs": {"x": 1}}']
        assert main(argv) == 1
        assert server.asked[-1].body["chat_template_kwargs"] == {"x": 1}
        folder = tmp_path / "o" / "interleaved-peat-armor-rubric-v1-grader"
        run, items, scores = read_bundle(folder)
        assert {i.id for i in items if i.status == "judge_failed"} == {"q2", "q3"}
        assert scores.metrics[0].value is None and "3 of 10" in scores.withheld
        assert "the first, q2: judge: " in run.status_reason and "too long" in run.status_reason
        asked_run = read_bundle(tmp_path / "o" / "interleaved-peat")[0]
        assert asked_run.status_reason == "1 of 10 requests failed; the first, q4: RuntimeError: out of ink"
        before, healthy = len(server.asked), True
        assert main(argv) == 0
        again = [request.text for request in server.asked[before:]]
    assert sorted(re.search(r"the (.)th time", text)[1] for text in again) == ["2", "3", "4"]
    assert len(asked_of_the_model) == 11, "the other answers were there"
    run, items, scores = read_bundle(folder)
    assert (run.status, run.model.name, run.judge.name, run.profile) == ("complete", "mock", "grader", "official")
    given = run.extras["given"]
    assert given == {"text": 4, "image": 3, "both": 3}, "a model that only talks, and one that only draws, are counted"
    by_form = {i.parsed: i.extras["numbers"] for i in items}
    assert by_form["text"] == {"text": 4, "image": 0, "quality": 0, "synergy": 0, "mean": 1}
    assert by_form["image"] == {"text": 0, "image": 3, "quality": 2, "synergy": 0, "mean": 1.25}
    assert by_form["both"] == {"text": 4, "image": 3, "quality": 2, "synergy": 3, "mean": 3}


def test_the_judge_sees_the_questions_images_first(tmp_path):
    with ScriptedServer(lambda request: chat(GRADES)) as server:
        argv = ["interleaved", "--model", "mock", "--tasks", str(tasks(tmp_path, 1)), "--out", str(tmp_path / "o")]
        assert main([*argv, "--judge", f"openai:{server.url}#grader"]) == 0
        content = server.asked[-1].body["messages"][-1]["content"]
    assert "What grows on [given 1]? Draw it" in content[-1]["text"]
    item = read_bundle(tmp_path / "o" / "interleaved-peat-armor-rubric-v1-grader")[1][0]
    assert sum(part["type"] == "image_url" for part in content) == len(item.images) + len(item.output_images)
    assert len(item.images) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rubric", "synjudge"], "give --judge too"),
        (["--calibration", "gone"], "give --judge too"),
        (["--prompt", "p.txt"], "give --judge too"),
        (["--judge-dtype", "float32"], "give --judge too"),
        (["--judge", "hf:x", "--rubric", "synjudge"], "give --prompt"),
        (["--judge", "hf:x", "--calibration", "gone"], "no run.json"),
        (["--judge", "hf:x", "--prompt", "p.txt"], "has its own words"),
    ],
)
def test_what_a_judge_lacks_is_said_before_a_model_is_asked(tmp_path, capsys, words, says):
    asked = ["interleaved", "--tasks", str(tasks(tmp_path, 1)), "--out", str(tmp_path / "o"), "--model", "mock"]
    assert main([*asked, *words]) == 2 and says in capsys.readouterr().err
    aside = [
        "modality",
        "side-by-side",
        "--model",
        "mock",
        "--profile",
        "shapes",
        "--out-file",
        str(tmp_path / "s.html"),
    ]
    assert main([*aside, *words]) == 2 and says in capsys.readouterr().err
    assert not (tmp_path / "o").exists() and not (tmp_path / "s-runs").exists()


class Storyteller(MockModel):
    """Text between images, and one request that fails."""

    def respond(self, conversations, seeds, decoding):
        image = Image.new("RGB", (8, 8), (9, 9, 200))
        return [RuntimeError("out of ink") if "2th" in str(one) else ["a", image, "b", image] for one in conversations]


def test_a_run_is_a_file_of_answers_and_a_failed_request_no_answer(tmp_path):
    task = ModalityTask(profile_of("official"), prompts=tasks(tmp_path, 4))
    evaluate(task, Storyteller(), tmp_path / "run", Settings("official", ["x"], Decoding()))
    read = read_answers(tmp_path / "run")
    one = next(row for row in read.rows if row.id == "q1")
    assert (one.answer, len(one.image), one.text) == ("a <image> b <image>", 2, "a   b")
    assert asked("R", one).endswith("Answer: a [image 1] b [image 2]")
    assert [row.failed for row in read.rows if row.id == "q2"] == ["RuntimeError: out of ink"]
    lines = [{"item": f"q{n}", "probe": "grades", "reply": GRADES} for n in range(4)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = ["judge", "answers", "--answers", str(tmp_path / "run"), "--judge", f"replies:{tmp_path / 'r.jsonl'}"]
    assert main([*argv, "--out", str(tmp_path / "judged")]) == 1
    run, items, _ = read_bundle(tmp_path / "judged")
    assert {i.id: i.status for i in items}["q2"] == "error" and run.model.fingerprint == MockModel().info.fingerprint
    assert main([*argv[:2], "--answers", str(tmp_path / "judged"), *argv[4:]]) == 2, "grades are no answers"


def test_marks_are_no_text():
    assert Answer(id="1", question="q", answer=" <image> ", image=["a"]).text == ""


UID = "0301096"
STEPS = [{"text": "First the pegs.", "image": "./images/X/96-o-1.jpg"}, {"text": "Then the rope.", "image": None}]


def opening(folder: Path) -> tuple[Path, Path]:
    """(questions, a model's folder), in OpenING's layout with invented content."""
    (folder / "images" / "X").mkdir(parents=True)
    Image.new("RGB", (8, 8), (90, 60, 0)).save(folder / "images" / "X" / "96-i-1.jpg")
    ask = [{"text": "Tell how a tent is put up. <BEGIN> Here is <image> a bag.", "image": "./images/X/96-i-1.jpg"}]
    line = {"total_uid": UID, "meta_task_name": "How-to", "conversations": [{"input": ask}, {"output": STEPS}]}
    (folder / "test.jsonl").write_text(json.dumps(line))
    model = folder / "Ours_output"
    model.mkdir()
    Image.new("RGB", (8, 8), (0, 60, 90)).save(model / f"{UID}-o-1.jpg")
    own = [{"text": "Spread it out.", "image": f"./anywhere/{UID}-o-1.jpg"}, {"text": "Done.", "image": None}]
    (model / f"{UID}.json").write_text(json.dumps({**line, "conversations": [{"input": ask}, {"output": own}]}))
    return folder / "test.jsonl", model


def test_openings_questions_and_answers(tmp_path, capsys):
    questions, model = opening(tmp_path)
    [record], _ = read_records(questions)
    assert record.messages[0].content == "Tell how a tent is put up. Here is <image> a bag."
    assert (record.id, record.kind, record.wants) == (UID, "How-to", "both")
    read = read_answers(model, data=questions)
    [one] = read.rows
    assert (one.answer, one.image) == ("Spread it out. <image> Done.", [f"{UID}-o-1.jpg"]) and read.name == "Ours"
    seven = dict(zip(("Correctness", "Image-Text Coherency", "Multi-step Consistency"), (10, 9, 8), strict=True))
    seven |= {"Content Quality": 7, "Human Preference Alignment": 6, "Completeness": 5, "Content Richness": 4}
    reply = {"item": UID, "probe": "grades", "reply": json.dumps(seven)}
    (tmp_path / "r.jsonl").write_text(json.dumps(reply))
    argv = ["judge", "answers", "--answers", str(model), "--rubric", "opening-scores"]
    argv += ["--judge", f"replies:{tmp_path / 'r.jsonl'}", "--out", str(tmp_path / "run")]
    assert main(argv) == 2 and "--data" in capsys.readouterr().err
    assert main([*argv, "--data", str(questions)]) == 0
    run, _, scores = read_bundle(tmp_path / "run")
    values = {m.name: m.value for m in scores.metrics}
    assert values["mean"] == 7 and values["richness"] == 4 and len(values) == 8
    assert "not known to be the published ones" in run.reservations[0].text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"total_uid": "1", "conversations": [{"input": [], "output": []}]}, "total_uid"),
        ({"total_uid": UID, "conversations": []}, "conversations"),
        ({"id": "1", "question": ""}, "question"),
        ({"id": "1", "question": "q", "given": "../x.png"}, "outside"),
        ({"id": "1", "question": "q", "given": "gone.png"}, "no image gone.png"),
    ],
)
def test_mistakes_in_a_file_of_questions_are_one_line(tmp_path, capsys, line, says):
    (tmp_path / "q.jsonl").write_text(json.dumps(line))
    assert main(["interleaved", "--model", "mock", "--tasks", str(tmp_path / "q.jsonl")]) == 2
    error = capsys.readouterr().err
    assert says in error and "q.jsonl line 1" in error and "Traceback" not in error


def test_uevals_questions_are_asked_and_judged_line_by_line(tmp_path):
    """Texts meet their line, images do not: the mock's six answers have a text rate of 1 where they have a text, and
    an image rate of 0 in any case, unasked where there is no image."""
    question = {"task_type": "life", "question_type": "open", "text_rubrics": ["Names it."]}
    question |= {"image_rubrics": ["Shows."]}
    rows = [{"id": n, "prompt": f"Show knot {n}, and explain.", **question} for n in range(6)]
    (tmp_path / "u.json").write_text(json.dumps(rows))

    def judge(request: Asked):
        return chat(json.dumps({"criteria_met": "Names it." in request.text and "Answer: null" not in request.text}))

    with ScriptedServer(judge) as s:
        argv = ["interleaved", "--model", "mock", "--tasks", str(tmp_path / "u.json"), "--out", str(tmp_path / "o")]
        assert main([*argv, "--rubric", "ueval-official", "--judge", f"openai:{s.url}#grader"]) == 0
        asked_about_images = sum("Shows." in request.text for request in s.asked)
    run, items, scores = read_bundle(tmp_path / "o" / "interleaved-u-ueval-official-grader")
    values = {m.name: m.value for m in scores.metrics}
    texts, images = (sum(item.parsed in (half, "both") for item in items) for half in ("text", "image"))
    assert values["text"] == pytest.approx(100 * texts / 6) and values["image"] == 0 and asked_about_images == images
    assert set(values) == {"mean of tasks", "text", "image", "life"}, "a task that no question is of is no row"
    assert values["mean of tasks"] == values["life"] == pytest.approx(values["text"] / 2)
    assert run.benchmark == "ueval-official" and run.model.name == "mock"


def test_a_judge_against_the_exact_comparison_of_the_same_answers(tmp_path, capsys):
    """The twin is the truth: a judge that gives every text 4 and every image 3 agrees where the text is right and where
    the image is wrong. Of the mock's answers none is right, so that its sensitivity cannot be told."""
    twin = tmp_path / "o" / "interleaved"
    argv = ["interleaved", "--model", "mock", "--limit", "3", "--out", str(tmp_path / "o")]
    with ScriptedServer(lambda request: chat(GRADES)) as server:
        assert main([*argv, "--judge", f"openai:{server.url}#grader"]) == 0
        assert main(["judge", "calibrate", "--judge", f"openai:{server.url}#grader", "--against", str(twin)]) == 2
    assert "judge its answers (" in capsys.readouterr().err
    graded = tmp_path / "o" / "interleaved-armor-rubric-v1-grader"
    assert main(["judge", "calibrate", "--judge", str(graded), "--against", str(twin), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        main(["judge", "calibrate", "--judge", str(graded), "--against", str(twin), "--out", str(tmp_path / "x")]) == 2
    )
    assert "is not asked again" in capsys.readouterr().err
    rows = {row["task"]: row for row in found["rows"]}
    answers = {item.id: item for item in read_bundle(graded)[1]}
    talks = sum(item.parsed in ("text", "both") for item in answers.values())
    assert (found["judge"], found["truth"]) == ("grader", "exact comparison (interleaved)")
    assert set(rows) == {"all", "text", "image", "synergy"} and rows["image"]["pairs"] == len(answers) == 12
    assert rows["image"]["agreement"]["value"] == 100 and rows["image"]["sensitivity"] is None
    assert rows["text"]["agreement"]["value"] == pytest.approx(100 * (12 - talks) / 12)
