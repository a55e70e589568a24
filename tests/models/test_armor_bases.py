"""An ARMOR on another base is asked as VLMEvalKit asks that base, and the run says so."""

import numpy as np
import pytest
import torch
from PIL import Image

from armor_eval.cli import main
from armor_eval.models import registry
from armor_eval.models.armor import ArmorAdapter
from armor_eval.models.base import Decoding, Question
from armor_eval.runs.bundle import read_bundle
from armor_model import ArmorProcessor, build_word_tokenizer, new_model, preset, save
from armor_model.bases import BASES
from trainer.shapes.world import render

ROW = {"index": 1, "question": "what is there ?", "hint": "look", "A": "a circle", "B": "a square", "answer": "A"}
WORDS = "what is there ? a circle square hint : question options choices answer with letter the . select correct from"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    def write(base):
        folder = tmp_path_factory.mktemp(base)
        tokenizer = build_word_tokenizer([*WORDS.split(), "above", "options", "please"], base=base)
        model = new_model(preset(f"tiny-{base}", vocab_size=len(tokenizer)))
        save(model, ArmorProcessor.for_config(tokenizer, model.config), folder)
        return folder

    return write


def question(dataset="MMBench_DEV_EN", **fields):
    return Question("1", [Image.new("RGB", (40, 30), "red"), "our words"], dataset, fields=fields or ROW)


SHOWN = {
    "qwen3_vl": "<image>Hint: look\nQuestion: what is there ?\nOptions:\nA. a circle\nB. a square\n"
    "Please select the correct answer from the options above. \n<|im_end|>\n<|im_start|>assistant\n",
    "qwen2_5_vl": "<image>Hint: look\nQuestion: what is there ?\nOptions:\nA. a circle\nB. a square\n"
    "Please select the correct answer from the options above. \n<|im_end|>\n<|im_start|>assistant\n",
    "smolvlm": "<|im_start|>User:<image>Question: what is there ?\nHint: look\nChoices:\nA. a circle\nB. a square\n"
    "Answer with a letter.<end_of_utterance>\nAssistant: Answer:",
    "idefics3": "<|begin_of_text|>User:<image>Question: what is there ?\nHint: look\nChoices:\nA. a circle\n"
    "B. a square\nAnswer with a letter.<end_of_utterance>\nAssistant: Answer:",
}


FORMS = {
    "qwen2_5_vl": "<|im_start|>user\n<image>QUESTION<|im_end|>\n<|im_start|>assistant\n",
    "qwen3_vl": "<|im_start|>user\n<image>QUESTION<|im_end|>\n<|im_start|>assistant\n",
    "smolvlm": "<|im_start|>User:<image>QUESTION<end_of_utterance>\nAssistant:",
    "idefics3": "<|begin_of_text|>User:<image>QUESTION<end_of_utterance>\nAssistant:",
}


@pytest.mark.parametrize("base", SHOWN)
def test_a_base_is_asked_in_its_own_words(folder_of, base, monkeypatch):
    seen, real = [], ArmorProcessor.encode_one

    def spy(self, conversation, add_generation_prompt=False, max_tiles=None):
        seen.append(self.render(conversation, add_generation_prompt))
        return real(self, conversation, add_generation_prompt, max_tiles)

    monkeypatch.setattr(ArmorProcessor, "encode_one", spy)
    folder = folder_of(base)
    adapter = registry.load(str(folder), "official")
    said = adapter.prepare()
    assert (said["base"], said["words"], adapter.protocol) == (base, f"vlmeval:{base}", f"vlmeval:{base}")
    assert said["prompt_form"] == FORMS[base] and said["pixels"]
    [answer] = adapter.answer([question()], Decoding(max_new_tokens=2))
    assert answer.error is None and seen[0].endswith(SHOWN[base])
    assert torch.is_grad_enabled()  # VLMEvalKit's models turn gradients off for the whole process
    unknown = adapter.answer([question("A_BENCHMARK_OF_ONES_OWN")], Decoding(max_new_tokens=2))
    assert unknown[0].error is None and any("our words" in shown for shown in seen)
    shapes = registry.load(str(folder), "shapes")  # there each model is asked in the words it has learned
    assert shapes.protocol is None and shapes.prepare()["words"] == "internvl"


def test_a_run_records_how_its_base_was_asked(folder_of, tmp_path, capsys):
    folder = folder_of("idefics3")
    argv = ["understanding", "--bench", "POPE", "--profile", "shapes", "--limit", "2", "--model", str(folder)]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    run, items, _ = read_bundle(tmp_path / "POPE")
    asked = registry.load(str(folder), "shapes").prepare()
    assert run.extras["model"] == asked and asked["base"] == "idefics3" and len(items) == 2
    assert FORMS["idefics3"].replace("\n", "\\n") in capsys.readouterr().out


def test_vlmevalkits_own_run_asks_alike(folder_of, monkeypatch, tmp_path):
    """`armor-eval vlmeval`: the words are VLMEvalKit's before they reach the adapter."""
    from armor_eval.vlmevalkit.model import ArmorVLM

    folder = folder_of("smolvlm")
    asked = []
    monkeypatch.setattr(ArmorProcessor, "encode_one", _rendering(asked))
    model = ArmorVLM(str(folder), max_new_tokens=2)
    assert not model.use_custom_prompt("MMBench_DEV_EN")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    text = "Hint: look\nQuestion: what is there ?\nOptions:\nA. a circle\nB. a square\n"
    text += "Please select the correct answer from the options above. \n"
    message = [{"type": "image", "value": str(tmp_path / "red.png")}, {"type": "text", "value": text}]
    model.generate_inner(message, "MMBench_DEV_EN")
    assert asked[0].endswith(SHOWN["smolvlm"])


def _rendering(asked):
    real = ArmorProcessor.encode_one

    def spy(self, conversation, add_generation_prompt=False, max_tiles=None):
        asked.append(self.render(conversation, add_generation_prompt))
        return real(self, conversation, add_generation_prompt, max_tiles)

    return spy


@pytest.mark.parametrize("base", BASES)
def test_a_lesson_is_asked_in_the_tokens_it_was_taught_in(base):
    """The shapes world: the harness's tokens of a multiple choice are those that training read up to the answer."""
    from trainer.data.records import encode, to_messages
    from trainer.shapes.lessons import CHOICE, sample_lesson
    from trainer.shapes.recipe import build, default_recipe

    model, processor = build(default_recipe(0, base))
    adapter = ArmorAdapter.of(model, processor)
    lesson = sample_lesson(np.random.default_rng(5), CHOICE, 3)
    image, asked = render(lesson["images"][0]), lesson["conversations"][0]["value"].removeprefix("<image>\n")
    taught = encode(processor, lesson["type"], to_messages(lesson, [image], [])).input_ids.tolist()
    [shown] = adapter.encode([Question("1", [image, asked])], Decoding())
    assert taught[: len(shown.ids)] == list(shown.ids) and len(taught) - len(shown.ids) in (2, 3)
    assert processor.tokenizer.decode(taught[len(shown.ids)]).strip() == lesson["conversations"][1]["value"]
