"""What runs record of drawing: settings, blank images, options; and that runs of before are still comparable."""

import json
import math

import pytest
from paths import HELPERS
from PIL import Image

from armor_eval.cli import main
from armor_eval.compare.sources import differences
from armor_eval.models.base import Decoding
from armor_eval.models.drawing import DrawingModel
from armor_eval.report.loading import load_runs
from armor_eval.report.page import _run_row
from armor_eval.runs.bundle import Bundle
from armor_eval.runs.schema import ModelInfo, Run
from armor_model.base.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def geneval(spec, out):
    return main(
        ["geneval", "--profile", "shapes", "--model", str(spec), "--limit", "6", "--samples", "1", "--out", out]
    )


def test_black_images_are_counted_in_every_result_and_reserved(folder, capsys):
    import tiny_drawers

    assert geneval(f"diffusers:{tiny_drawers.spoiled(-1.0, folder / 'black')}", "r") == 0
    shown = capsys.readouterr().out
    assert "blank: 6" in shown and "6 of 6 images are of one single colour" in shown
    run = json.loads((folder / "r" / "geneval" / "run.json").read_text())
    assert run["reservations"] == [{"kind": "blank", "text": "6 of 6 images are of one single colour"}]
    assert json.loads((folder / "r" / "geneval" / "scores.json").read_text())["blank"] == 6
    drawing = run["extras"]["drawing"]
    assert drawing["num_inference_steps"] == 50 and drawing["guidance"] == 7.5 and drawing["dtype"] == "float32"
    assert drawing["scheduler"] == "PNDMScheduler" and run["extras"]["image_sizes"] == {"16x16": 6}
    (view,) = load_runs([folder / "r"])
    assert "blank: 6" in _run_row(view)["counts"]


def test_what_is_not_finite_is_never_scored(folder, capsys):
    import tiny_drawers

    assert geneval(f"diffusers:{tiny_drawers.spoiled(math.nan, folder / 'nan')}", "r") == 1
    assert "not finite" in capsys.readouterr().err
    assert not (folder / "r" / "geneval" / "scores.json").exists()


def test_options_of_a_command_reach_the_pipeline_and_its_record(folder, tiny):
    command = [
        "geneval",
        "--profile",
        "shapes",
        "--model",
        f"diffusers:{tiny('SD1.5')}",
        "--limit",
        "6",
        "--samples",
        "1",
    ]
    options = ["--dtype", "bfloat16", "--guidance", "1", "--model-args", "steps=2,size=24x32,negative_prompt=grey"]
    assert main([*command, *options, "--out", "r"]) == 0
    run = json.loads((folder / "r" / "geneval" / "run.json").read_text())
    drawing = run["extras"]["drawing"]
    assert (drawing["dtype"], drawing["guidance"], drawing["num_inference_steps"]) == ("bfloat16", 1.0, 2)
    assert drawing["negative_prompt"] == "grey" and run["extras"]["image_sizes"] == {"24x32": 6}
    assert run["decoding"]["guidance"] == 1.0 and run["protocol"]["guidance"] == "1"
    assert main([*command, "--guidance", "1", "--model-args", "steps=3", "--out", "r"]) == 2  # another run's folder


def test_an_option_without_effect_stops_the_command_before_anything_is_drawn(folder, capsys):
    assert main(["geneval", "--profile", "shapes", "--model", "mock", "--guidance", "3", "--out", "r"]) == 2
    assert "--guidance 3" in capsys.readouterr().err
    assert main(["modality", "--profile", "shapes", "--model", "mock", "--image-temperature", "0", "--out", "m"]) == 2
    assert "--image-temperature 0" in capsys.readouterr().err
    (folder / "img").mkdir()
    command = ["geneval", "--profile", "shapes", "--images", "img", "--guidance", "3"]
    assert main([*command, "--out", "i"]) == 2
    assert "leave --guidance out" in capsys.readouterr().err
    assert not any((folder / name).exists() for name in "rmi")


class Speaker(DrawingModel):
    """Answers every request with a text and two images, one of them blank."""

    def __init__(self):
        self.info = ModelInfo(spec="speaker", name="speaker", fingerprint="speaker")

    def _own(self, decoding):
        return {"guidance": None}

    def _draw(self, prompts, seeds, decoding):
        return [Image.new("RGB", (2, 2))] * len(prompts)

    def respond(self, conversations, seeds, decoding):
        speck = Image.new("RGB", (2, 2))
        speck.putpixel((0, 0), (1, 2, 3))
        return [["look", speck, Image.new("RGB", (2, 2), (seed % 256, 0, 0))] for seed in seeds]

    def close(self):
        pass


def test_modality_counts_blank_images_too(folder):
    from armor_eval.cli.common import remarks
    from armor_eval.engine import Settings, evaluate
    from armor_eval.profiles import profile_of
    from armor_eval.tasks.modality.task import ModalityTask

    asked = {"id": "1", "kind": "t2ti", "messages": [{"role": "user", "content": "Draw."}]}
    lines = [{**asked, "id": str(i), "expect": {"text": True, "image": True}} for i in range(3)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = ModalityTask(profile_of("official"), prompts=folder / "asked.jsonl")
    done = evaluate(task, Speaker(), folder / "m", Settings("official", ["test"], Decoding()))
    assert done.scores.blank == 3
    assert {"blank: 3", "3 of 6 images are of one single colour"} <= set(remarks(done))
    assert done.run.extras["drawing"] == {"guidance": None}


def runs(**changes):
    """A GenEval run of before labels (armor-nano's first release), and the same with changes."""
    old = json.loads((HELPERS / "geneval_run_of_before_labels.json").read_text())
    return Run.model_validate(old), Run.model_validate({**old, **changes})


def test_runs_of_before_compare_with_an_unset_guidance_alone():
    old, _ = runs()
    assert old.decoding["guidance"] == 1.0 and "drawing" not in old.extras
    drawn = {**old.extras, "drawing": {"guidance": 1.0}}
    _, unset = runs(decoding={**old.decoding, "guidance": None}, extras=drawn)
    _, asked = runs(extras=drawn)
    assert differences(old, unset, [])[0] == []
    lines = differences(old, asked, [])[0]
    assert [line.partition(" differs: guidance")[0] for line in lines] == ["protocol", "decoding"]


@pytest.mark.parametrize("other", [{"asked": {"num_inference_steps": 3}}, {}])
def test_a_run_goes_on_under_the_same_options_alone(other, tmp_path):
    options = {"drawing": {"asked": {"num_inference_steps": 2}, "num_inference_steps": 2}}
    _, begun = runs(status="running", extras=options)
    with Bundle.open(tmp_path / "r", begun):
        pass
    with Bundle.open(tmp_path / "r", begun):
        pass
    with pytest.raises(UserError, match="options of the model"):
        Bundle.open(tmp_path / "r", begun.model_copy(update={"extras": {"drawing": other}}))


def test_a_run_of_before_goes_on(tmp_path):
    old, now = runs(status="running")
    with Bundle.open(tmp_path / "r", now):
        pass
    now = now.model_copy(
        update={"decoding": {**old.decoding, "guidance": None}, "extras": {**old.extras, "drawing": {"guidance": 1.0}}}
    )
    with Bundle.open(tmp_path / "r", now) as bundle:
        assert bundle.run.status == "running"
