"""The modality benchmark: judging, agreement of text and picture, scores, resuming, other people's prompts."""

import json
from pathlib import Path

import pytest
from PIL import Image

from armor_eval.cli import main
from armor_eval.engine import Finished, Settings, evaluate
from armor_eval.models.base import Decoding
from armor_eval.models.mock import MockModel
from armor_eval.profiles import profile_of
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import Metric
from armor_eval.shapes.reader import agrees_with, read, things_named
from armor_eval.tasks.modality import LINE
from armor_eval.tasks.modality.judging import judge
from armor_eval.tasks.modality.records import Expect, Message, Record, choose, own_records, read_records
from armor_eval.tasks.modality.task import ModalityTask, findings
from armor_model.base.errors import UserError
from trainer.shapes.world import Scene, render

SCENE = Scene.parse("red circle@0; blue square@3")


def record(kind: str = "t2ti", text: bool = True, image: bool = True, **more: object) -> Record:
    return Record(
        id="r",
        kind=kind,
        messages=[Message(role="user", content="draw")],
        expect=Expect(text=text, image=image),
        **more,
    )


@pytest.mark.parametrize(
    ("parts", "given"),
    [(["hi"], "text"), ([render(SCENE)], "image"), (["hi", render(SCENE)], "both"), ([], "none"), (["  "], "none")],
)
def test_an_answer_is_right_when_it_is_exactly_what_was_wanted(parts: list, given: str) -> None:
    for text, image, wants in ((True, False, "text"), (False, True, "image"), (True, True, "both")):
        found = judge(record(text=text, image=image), parts, read)
        assert (found.given, found.right) == (given, given == wants)


def test_images_are_held_against_the_request() -> None:
    things = {
        "phrase": "a red circle and a blue square",
        "things": [["red", "circle", 1], ["blue", "square", 1]],
        "relation": None,
    }
    assert judge(record(content=things), [render(SCENE)], read).reading.shown is True
    other = Scene.parse("red circle@0; green square@3")
    assert judge(record(content=things), [render(other)], read).reading.shown is False
    assert judge(record(content={"scene": str(SCENE)}), [render(SCENE)], read).reading.shown is True
    assert judge(record(content={"scene": str(SCENE)}), [Image.new("RGB", (32, 32))], read).reading.shown is False
    assert judge(record(), ["text only"], read).reading.shown is None
    assert judge(record(content=things), [render(SCENE)], None).reading.shown is None


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        ("a red circle at the top left and a blue square.", True),
        ("a circle is round.", True),
        ("two squares", True),
        ("a blue circle.", False),
        ("a red circle and a triangle.", False),
        ("hello there.", False),
    ],
)
def test_text_and_image_agree_when_every_shape_told_is_there(text: str, agrees: bool) -> None:
    assert agrees_with(text, SCENE) is agrees


def test_things_are_read_with_their_own_colour_only() -> None:
    assert things_named("a red circle, a square and two blue crosses") == {
        ("red", "circle"),
        (None, "square"),
        ("blue", "cross"),
    }


def test_the_embedded_requests_cover_the_kinds_negations_and_later_turns() -> None:
    records, sha = own_records(profile_of("shapes"))
    assert len(records) == 400 and len(sha) == 64
    assert {r.kind for r in records} == {"t2t", "ti2t", "t2i", "t2ti", "ti2ti"}
    assert sum(r.form == "negation" for r in records) > 50 and sum(r.turns > 1 for r in records) == 80

    def chosen(seed: int) -> tuple[list, object]:
        return choose(records, 3, seed, lambda record: record.kind)

    kept, subset = chosen(0)
    assert [sum(r.kind == k for r in kept) for k in ("t2t", "ti2ti")] == [3, 3]
    assert (subset.items, subset.of_items) == (15, 400)
    assert chosen(0)[0] == kept != chosen(1)[0]


def run_modality(model: object, out: Path) -> Finished:
    settings = Settings("shapes", ["armor-eval", "modality"], Decoding(max_new_tokens=16), batch_size=4)
    return evaluate(ModalityTask(profile_of("shapes"), limit=6), model, out, settings)


def test_a_run_is_a_bundle_with_a_confusion_matrix_that_adds_up(tmp_path: Path) -> None:
    done = run_modality(MockModel(), tmp_path / "m")
    run, items, scores = read_bundle(tmp_path / "m")
    assert run.status == "complete" and run.subset.items == 30 and len(items) == 30
    table = run.extras["confusion"]
    assert [sum(row) for row in table["counts"]] == [6] * 5
    primary = next(m for m in scores.metrics if m.primary)
    assert primary.value == pytest.approx(100 * sum(i.score for i in items) / 30)
    assert {"t2t", "ti2ti", "negations"} <= {m.name for m in scores.metrics}
    assert "claims" not in run.extras, "a subset carries no verdict"
    assert done.scores == scores


class Stumbling(MockModel):
    """Fails on whole batches that hold a request about negation, as a model would that runs out of memory."""

    def respond(self, conversations, seeds, decoding):
        if any("not" in str(c) for c in conversations):
            raise RuntimeError("out of memory")
        return super().respond(conversations, seeds, decoding)


def test_one_failing_request_does_not_take_its_batch_along_and_is_never_scored(tmp_path: Path) -> None:
    run_modality(Stumbling(), tmp_path / "m")
    run, items, scores = read_bundle(tmp_path / "m")
    bad = [i for i in items if i.status == "error"]
    assert bad and all(i.score is None and "out of memory" in i.reason for i in bad)
    assert all("not" in i.prompt for i in bad)
    assert run.status == "partial" and scores.metrics[0].n == 30 - len(bad)
    again = run_modality(MockModel(), tmp_path / "m")
    assert again.run.status == "complete" and again.scores.metrics[0].n == 30


def test_an_interrupted_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    class Killed(MockModel):
        calls = 0

        def respond(self, conversations, seeds, decoding):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().respond(conversations, seeds, decoding)

    with pytest.raises(KeyboardInterrupt):
        run_modality(Killed(), tmp_path / "a")
    assert len(read_bundle(tmp_path / "a")[1]) == 8
    run_modality(MockModel(), tmp_path / "a")
    run_modality(MockModel(), tmp_path / "b")
    kept = [[(i.id, i.output, i.output_images, i.score) for i in read_bundle(tmp_path / k)[1]] for k in "ab"]
    assert kept[0] == kept[1]


def test_verdicts_follow_the_interval() -> None:
    def metric(name: str, value: float, low: float, high: float) -> Metric:
        return Metric(name=name, value=value, unit="%", n=80, clusters=20, ci95=(low, high))

    found = findings([metric("accuracy", 95, 92, 97), metric("ti2ti", 40, 30, 49)])
    assert found["answers-in-the-right-modality"]["verdict"] == "supported"
    assert found["ti2ti-unintended"]["verdict"] == "contradicted"
    assert findings([metric("accuracy", 91, 88, 94)])["answers-in-the-right-modality"]["verdict"] == "undecided"


def test_other_prompts_come_from_a_file_and_mistakes_are_one_line(tmp_path: Path, capsys) -> None:
    line = {
        "id": "a",
        "kind": "t2i",
        "messages": [{"role": "user", "content": "Paint a fox."}],
        "expect": {"text": False, "image": True},
    }
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(line) + "\n")
    argv = [
        "modality",
        "--model",
        "mock",
        "--profile",
        "official",
        "--prompts",
        str(file),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(argv) == 0
    run, items, _ = read_bundle(tmp_path / "o" / "modality")
    assert (run.profile, run.data.name, len(items)) == ("official", "p.jsonl", 1)
    assert "shown" in items[0].extras and items[0].extras["shown"] is None
    for bad, said in (
        ("{", "line 1"),
        (json.dumps({**line, "images": ["x.png"]}), "0 <image> in the messages, 1 images"),
        (json.dumps(line) + "\n" + json.dumps(line), "occurs twice"),
        (json.dumps({**line, "expect": {"text": False, "image": False}}), "must want something"),
        ("", "holds no requests"),
    ):
        file.write_text(bad)
        with pytest.raises(UserError, match=said):
            read_records(file)
    capsys.readouterr()
    assert main(["modality", "--model", "mock", "--profile", "official"]) == 2
    assert f"--prompts FILE.jsonl with lines like {LINE}" in capsys.readouterr().err
    file.write_text("{}")
    with pytest.raises(UserError, match="id Field required") as error:
        read_records(file)
    assert LINE in error.value.line()
    file.write_text(LINE)
    assert read_records(file)[0][0].wants == "image"


def test_an_image_that_cannot_be_decoded_costs_its_request(tmp_path: Path) -> None:
    asked = {
        "kind": "ti2t",
        "messages": [{"role": "user", "content": "<image>\\nWhat is it?"}],
        "expect": {"text": True, "image": False},
    }
    (tmp_path / "bad.png").write_bytes(b"no image")
    render(SCENE).save(tmp_path / "good.png")
    lines = [{**asked, "id": name, "images": [f"{name}.png"]} for name in ("bad", "good")]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    argv = ["modality", "--model", "mock", "--profile", "official", "--prompts", str(tmp_path / "p.jsonl")]
    assert main([*argv, "--out", str(tmp_path / "o")]) == 1
    status = {item.id: item.status for item in read_bundle(tmp_path / "o" / "modality")[1]}
    assert status == {"bad": "error", "good": "ok"}
