"""Judges: one forward pass with a shared prefix is what asking alone is; servers; tokenizers that cannot serve."""

from __future__ import annotations

import math

import pytest
from PIL import Image
from scripted_server import ScriptedServer
from suite_world import dpg_suite, geneval2_suite, write_images

from armor_eval.cli import main
from armor_eval.models.hf_first import ALONE, SHARED
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Ask, Shown, first_ids, load_judge
from armor_model.base.errors import RunFailed, UserError

YES = ("Yes", "yes", " yes", " Yes")


def shown(
    sample: int = 0, texts: tuple[str, ...] = ("Is it a fern?", "Teal?", "Are there any mugs behind the kite?")
) -> Shown:
    probes = tuple(Probe(str(k), text, YES) for k, text in enumerate(texts))
    image = Image.linear_gradient("L").rotate(90 * sample).resize((64, 48)).convert("RGB")
    return Shown(
        SuiteItem("x", "a fern", probes), sample, (image,), tuple(Ask(p, f"{p.text} One word.") for p in probes)
    )


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("qwen2_vl", SHARED),
        pytest.param("internvl", SHARED, marks=pytest.mark.slow),
        pytest.param("blip", ALONE, marks=pytest.mark.slow),
        ("git", "one padded batch (NotShared"),
    ],
)
def test_probes_of_an_image_together_are_probes_alone(tiny_vlm, kind, way):
    judge = load_judge(f"hf:{tiny_vlm(kind)}", "official", device="cpu")
    judge.prepare("vqa_prob")
    assert judge.facts["probes of an image"].startswith(way)
    images = [shown(k) for k in range(2)]
    together = judge.probabilities(images)
    alone = [
        judge.probabilities([Shown(one.item, one.sample, one.images, (ask,))])[0][0]
        for one in images
        for ask in one.asks
    ]
    flat = [reading for readings in together for reading in readings]
    assert [r.log_p for r in flat] == pytest.approx([r.log_p for r in alone], abs=2e-3)
    assert [r.text for r in flat] == [r.text for r in alone]
    assert together[0][0].log_p != together[1][0].log_p, "the image is seen"
    assert len({r.log_p for r in together[0]}) == 3, "the question is read"
    judge.close()


def test_an_image_is_encoded_once(tiny_vlm):
    judge = load_judge(f"hf:{tiny_vlm('qwen2_vl')}", "official", device="cpu")
    judge.prepare("vqa_prob")
    tower = judge._first._model.model.visual
    calls: list[int] = []
    tower.register_forward_hook(lambda *_: calls.append(1))
    judge.probabilities([shown(0), shown(1)])
    assert len(calls) == 3, "of the first image one question is asked alone too"
    judge.probabilities([shown(0), shown(1)])
    assert len(calls) == 5


def test_a_shared_pass_that_is_wrong_on_a_real_image_is_given_up(tiny_vlm, monkeypatch):
    judge = load_judge(f"hf:{tiny_vlm('qwen2_vl')}", "official", device="cpu")
    judge.prepare("vqa_prob")
    (right,) = judge.probabilities([shown()])
    judge._first._proven = False
    real = judge._first._shared
    monkeypatch.setattr(judge._first, "_shared", lambda questions: real(questions).roll(1, -1))
    (again,) = judge.probabilities([shown()])
    assert judge.facts["probes of an image"].startswith("one padded batch (NotShared: they differ by")
    assert [r.log_p for r in again] == pytest.approx([r.log_p for r in right], abs=2e-3)


class Tokenizer:
    """`first` before every text, as a tokenizer whose template puts BOS there."""

    all_special_ids = (1,)

    def __init__(self, first: list[int]) -> None:
        self._first = first

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": [*self._first, *(100 + ord(c) for c in text.strip())]}


@pytest.mark.parametrize("first", [[1], [7]], ids=["bos", "another token"])
def test_a_tokenizer_that_begins_every_text_alike_is_refused(first):
    with pytest.raises(UserError, match="begins 'Yes' with a token that is no part of it"):
        first_ids(Tokenizer(first), YES, "hf:x")


def test_forms_of_one_token_count_once():
    assert first_ids(Tokenizer([]), YES, "hf:x") == [100 + ord("Y"), 100 + ord("y")]


def test_a_suite_is_judged_by_a_model_end_to_end(tiny_vlm, tmp_path):
    suite = geneval2_suite(tmp_path)
    judge = f"hf:{tiny_vlm('qwen2_vl')}"
    command = [
        "draw",
        "--suite",
        str(suite),
        "--model",
        "mock",
        "--judge",
        judge,
        "--device",
        "cpu",
        "--judge-dtype",
        "float32",
    ]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    run, items, _ = read_bundle(tmp_path / "out" / "mine")
    assert all(0 < probe["value"] < 1 for item in items for probe in item.extras["probes"])
    assert run.judge.endpoint == "local" and run.judge.version and run.scorer.settings["precision"] == "float32"
    assert run.extras["judge"]["probes of an image"] == SHARED and run.extras["judge"]["dtype"] == "float32"
    assert [r.kind for r in run.reservations] == ["judge"]


def reply_with(tokens: dict[str, float]):
    top = [{"token": token, "logprob": math.log(p)} for token, p in tokens.items()]
    choice = {"finish_reason": "length", "message": {"content": next(iter(tokens))}}
    return 200, {"choices": [{**choice, "logprobs": {"content": [{"top_logprobs": top}]}}]}


def test_a_servers_log_probabilities(tmp_path):
    with ScriptedServer(lambda asked: reply_with({"No": 0.5, "Yes": 0.3, " yes": 0.1, "Yesterday": 0.05})) as server:
        judge = load_judge(f"openai:{server.url}#m", "official")
        judge.prepare("vqa_prob")
        (readings,) = judge.probabilities([shown()])
        judge.close()
    assert [math.exp(r.log_p) for r in readings] == pytest.approx([0.4] * 3) and readings[0].text == "No"
    body = server.asked[-1].body
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"], body["temperature"]) == (True, 20, 1, 0)
    content = body["messages"][-1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert "top 20 tokens" in judge.facts["probabilities"]


def test_a_server_without_log_probabilities_is_refused_before_anything_is_drawn(tmp_path, capsys):
    suite = geneval2_suite(tmp_path)
    with ScriptedServer(lambda asked: (200, {"choices": [{"message": {"content": "Yes"}}]})) as server:
        command = ["draw", "--suite", str(suite), "--model", "mock", "--judge", f"openai:{server.url}#m"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "gives no first-token probabilities" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.png"))


def test_chat_answers_of_a_server_and_one_that_refuses_an_image(tmp_path):
    def script(asked):
        refuse = "b0" in str(asked.text) or "photo" in asked.text
        if refuse:
            return 400, {"error": {"message": "no such image"}}
        return 200, {"choices": [{"finish_reason": "stop", "message": {"content": "Yes."}}]}

    suite = dpg_suite(tmp_path)
    grids = write_images(tmp_path / "grids", ["a0", "b0"], (64, 64))
    with ScriptedServer(script) as server:
        command = [
            "draw",
            "--suite",
            str(suite),
            "--images",
            str(grids),
            "--resolution",
            "32",
            "--out",
            str(tmp_path / "out"),
        ]
        assert main([*command, "--judge", f"openai:{server.url}#vlm"]) == 1
        assert {asked.text for asked in server.asked} >= {"a mug? Answer yes or no."}
    run, items, scores = read_bundle(tmp_path / "out" / "dpg-vqa-vlm")
    assert scores.withheld == "4 of 8 images have no score" and run.benchmark == "dpg-vqa:vlm"
    assert {item.status for item in items if item.cluster == "b0"} == {"error"}


def test_a_judge_that_fails_on_every_first_image_ends_the_run_before_the_rest_is_drawn(tmp_path, capsys):
    suite = geneval2_suite(tmp_path)
    first_token = reply_with({"Yes": 0.9})

    def script(asked):
        return first_token if asked.text == "Say yes." else (400, {"error": {"message": "images are not supported"}})

    with ScriptedServer(script) as server:
        command = ["draw", "--suite", str(suite), "--model", "mock", "--judge", f"openai:{server.url}#m"]
        assert main([*command, "--batch-size", "2", "--out", str(tmp_path / "out")]) == 1
    assert "the judge failed on the first 2 images" in capsys.readouterr().err
    assert len(list((tmp_path / "out").rglob("images/*.png"))) == 2


def test_a_judge_that_is_gone_stops_the_run_and_keeps_what_was_judged():
    from armor_eval.models.endpoint import Endpoint, Patience
    from armor_eval.tasks.suites.judges.served import ServedJudge

    judge = ServedJudge(Endpoint("http://127.0.0.1:9/v1", "m", Patience(dead_after=0.1, first_wait=0.05, attempts=2)))
    with pytest.raises(RunFailed, match="the judge is gone"):
        judge.replies([shown()], 4)
    judge.close()
