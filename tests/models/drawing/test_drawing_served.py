"""`openai:URL#NAME` draws and responds: both routes, all three forms of a chat answer, what a server refuses."""

import io
import json

import numpy as np
import pytest
from drawing_server import DrawingServer, drawn
from PIL import Image

from armor_eval.models import registry
from armor_eval.models.base import Decoding, DrawsImages, RespondsFreely
from armor_model.base.errors import UserError

PROMPTS, SEEDS = ["a cow", "a bench"], [3, 4]


@pytest.fixture
def server():
    with DrawingServer() as running:
        yield running


@pytest.fixture
def model(server):
    opened = []

    def load(name, **args):
        opened.append(registry.load(f"openai:{server.url}#{name}", "official", model_args={"first_wait": 0.01, **args}))
        return opened[-1]

    yield load
    for one in opened:
        one.close()


def opened(raw):
    return Image.open(io.BytesIO(raw)).convert("RGB")


def test_images_are_generated_one_request_each_with_its_seed(server, model):
    adapter = model("draws", size="24x16", num_inference_steps=5)
    assert isinstance(adapter, DrawsImages) and isinstance(adapter, RespondsFreely)
    images = adapter.draw(PROMPTS, SEEDS, Decoding())
    for image, prompt, seed in zip(images, PROMPTS, SEEDS, strict=True):
        assert image.tobytes() == opened(drawn(prompt, seed, (24, 16))).tobytes()
    assert server.paths == ["/v1/images/generations"] * 2
    asked = sorted(server.bodies, key=lambda body: body["seed"])
    assert asked[0] == {
        "model": "draws",
        "prompt": "a cow",
        "n": 1,
        "response_format": "b64_json",
        "seed": 3,
        "size": "24x16",
        "num_inference_steps": 5,
    }
    told = adapter.settings(Decoding())
    assert told["route"] == "images" and told["size"] == "24x16" and told["num_inference_steps"] == 5
    assert adapter.served["images"] == {"PNG": 2}


def test_what_a_server_refuses_to_be_told_is_left_out_and_recorded(server, model):
    adapter = model("strict")
    assert not any(isinstance(one, Exception) for one in adapter.draw(PROMPTS, SEEDS, Decoding()))
    assert set(adapter.served["adapted"]) == {"response_format", "seed"}
    assert not {"seed", "response_format"} & server.bodies[-1].keys()


def test_a_prompt_written_anew_and_a_jpeg_are_counted(model):
    adapter = model("rewriter")
    adapter.draw(PROMPTS, SEEDS, Decoding())
    assert adapter.served["images"] == {"PNG": 2, "prompts written anew by the server": 2}
    adapter = model("jpeg")
    adapter.draw(PROMPTS, SEEDS, Decoding())
    assert adapter.served["images"] == {"JPEG": 2}


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        ("cut", {}, "cannot be decoded"),
        ("stubborn", {"size": "32x32"}, "16x12 pixels, 32x32 were asked for"),
        ("twice", {}, "2 images"),
        ("none", {}, "0 images"),
        ("linker", {}, "never fetched"),
    ],
)
def test_what_is_no_image_is_an_error_of_its_row(name, args, why, server, model):
    images = model(name, **args).draw(PROMPTS, SEEDS, Decoding())
    assert all(isinstance(one, Exception) and why in str(one) for one in images), images
    assert server.fetched == []


def test_a_moderated_prompt_is_the_only_one_lost(server, model):
    images = model("moderated").draw(["a cow", "a bad cow", "a bench"], [1, 2, 3], Decoding())
    assert [isinstance(one, Exception) for one in images] == [False, True, False]
    assert "safety system" in str(images[1]) and len(server.bodies) == 3


def test_a_server_without_the_service_is_one_line_that_names_the_other(model):
    with pytest.raises(UserError) as error:
        model("chat-only").draw(PROMPTS, SEEDS, Decoding())
    assert "route=chat" in error.value.line()


@pytest.mark.parametrize("name", ["images", "list", "both", "text", "bare"])
def test_a_chat_answer_of_each_form_draws(name, server, model):
    adapter = model(name, route="chat")
    images = adapter.draw(PROMPTS, SEEDS, Decoding())
    for image, prompt, seed in zip(images, PROMPTS, SEEDS, strict=True):
        assert image.tobytes() == opened(drawn(prompt, seed)).tobytes()
    assert server.bodies[0]["modalities"] == ["text", "image"] and "max_tokens" not in server.bodies[0]
    assert adapter.settings(Decoding())["modalities"] == "text+image"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("words", "I cannot draw this"),
        ("refusal", "I will not"),
        ("two", "2 images"),
        ("linker", "never fetched"),
        ("markdown", "never fetched"),
    ],
)
def test_a_chat_answer_without_one_image_is_an_error(name, why, server, model):
    images = model(name, route="chat").draw(PROMPTS, SEEDS, Decoding())
    assert all(isinstance(one, Exception) and why in str(one) for one in images), images
    assert server.fetched == []


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("images", ["Here it is.", None]),
        ("list", ["First", None, "then"]),
        ("both", [None]),
        ("text", ["Look:", None, "nice"]),
        ("bare", [None]),
        ("words", ["I cannot draw this."]),
        ("refusal", ["I will not."]),
        ("two", [None, None]),
    ],
)
def test_text_and_images_of_a_free_answer_keep_their_order(name, order, server, model):
    shown = Image.new("RGB", (2, 2), "red")
    asked = [{"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": "a cow"}]}]
    (reply,) = model(name).respond([asked], [3], Decoding(max_new_tokens=9))
    assert [part if isinstance(part, str) else None for part in reply] == order
    sent = server.bodies[0]
    assert sent["seed"] == 3 and sent["max_tokens"] == 9 and sent["modalities"] == ["text", "image"]
    kinds = [part["type"] for part in sent["messages"][0]["content"]]
    assert kinds == ["image_url", "text"]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"route": "fax"}, "route"),
        ({"size": "big"}, "WIDTHxHEIGHT"),
        ({"sise": "1x1"}, "did you mean size"),
        ({"route": "chat", "size": "16x16"}, "no field 'size'"),
        ({"modalities": "smell"}, "modalities=smell"),
    ],
)
def test_arguments_that_cannot_be_honoured_are_one_line(args, why, model):
    with pytest.raises(UserError) as error:
        model("draws", **args)
    assert why in error.value.line()


def test_guidance_is_refused_not_swallowed(model):
    with pytest.raises(UserError, match="--guidance 3"):
        model("draws").settings(Decoding(guidance=3))


def test_geneval_measures_a_server_and_records_what_it_did(server, tmp_path, monkeypatch):
    from armor_eval.cli import main

    monkeypatch.chdir(tmp_path)
    spec = f"openai:{server.url}#strict"
    assert (
        main(["geneval", "--profile", "shapes", "--model", spec, "--limit", "2", "--samples", "1", "--out", "r"]) == 0
    )
    run = json.loads((tmp_path / "r" / "geneval" / "run.json").read_text())
    assert run["extras"]["drawing"]["route"] == "images" and run["extras"]["image_sizes"] == {"16x12": 2}
    assert set(run["extras"]["served"]["adapted"]) == {"response_format", "seed"}
    assert run["decoding"]["guidance"] is None and run["reservations"] == []
    assert json.loads((tmp_path / "r" / "geneval" / "scores.json").read_text())["blank"] == 0


def test_modality_measures_a_server(server, tmp_path, monkeypatch):
    from armor_eval.cli import main

    monkeypatch.chdir(tmp_path)
    wants = {
        "id": "1",
        "kind": "t2ti",
        "messages": [{"role": "user", "content": "Draw and tell of a cow."}],
        "expect": {"text": True, "image": True},
    }
    (tmp_path / "asked.jsonl").write_text(json.dumps(wants) + "\n")
    spec = f"openai:{server.url}#list"
    assert main(["modality", "--model", spec, "--prompts", "asked.jsonl", "--out", "m"]) == 0
    item = json.loads((tmp_path / "m" / "modality" / "items.jsonl").read_text())
    assert item["parsed"] == "both" and item["score"] == 1.0 and len(item["output_images"]) == 1
    stored = Image.open(tmp_path / "m" / "modality" / item["output_images"][0])
    assert np.asarray(stored).shape == (12, 16, 3)
    assert json.loads((tmp_path / "m" / "modality" / "scores.json").read_text())["blank"] == 0
