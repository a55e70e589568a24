"""`--model hf:FOLDER` on tiny checkpoints: forms of asking, decoding, marks, options, failures."""

import base64
import csv
import io
import json
from functools import wraps

import pytest
from probe import images

from armor_eval.cli import main
from armor_eval.models import registry
from armor_eval.models.base import AnswersQuestions, Decoding, DrawsImages, Question
from armor_model.base.errors import UserError

SHORT = Decoding(max_new_tokens=8)
QUESTION = "\nWhat is shown?\nA. a cat\nB. a dog"


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    """Words of a command that asks four questions of POPE's form."""
    folder = tmp_path_factory.mktemp("data")
    buffer = io.BytesIO()
    images()[0].save(buffer, "PNG")
    shown = base64.b64encode(buffer.getvalue()).decode()
    with (folder / "POPE.tsv").open("w", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(["index", "image", "question", "answer", "category"])
        table.writerows(
            [i, shown, f"Is there a thing {i} in the image?", "Yes" if i % 2 else "No", "random"] for i in range(4)
        )
    return ["understanding", "--bench", "POPE", "--data", str(folder), "--any-data", "--max-new-tokens", "2"]


def load(folder, **options):
    return registry.load(f"hf:{folder}", "official", **options)


def ask(model, *texts, image=None):
    shown = image or images()[0]
    return model.answer([Question(str(i), [shown, text]) for i, text in enumerate(texts)], SHORT)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def seen_ids(model, question):
    return model._load_prompter().encode([question])["input_ids"][0].tolist()


# decoding


def test_a_checkpoints_own_decoding_changes_nothing_and_is_recorded(copied, pope, tmp_path, capsys):
    folder = copied("llava")
    plain = ask(load(folder), QUESTION)[0].text
    own = {
        "repetition_penalty": 5.0,
        "num_beams": 3,
        "no_repeat_ngram_size": 1,
        "return_dict_in_generate": True,
        "output_scores": True,
        "do_sample": True,
        "temperature": 3.0,
        "min_new_tokens": 4,
        "max_length": 7,
    }
    rewrite(folder / "generation_config.json", **own)
    model = load(folder)
    assert plain and ask(model, QUESTION)[0].text == plain
    assert model.facts["generation_config_not_used"] == own
    assert main([*pope, "--model", f"hf:{folder}", "--out", str(tmp_path / "run")]) == 0
    recorded = json.loads(next((tmp_path / "run").rglob("run.json")).read_text())["extras"]["model"]
    assert recorded["generation_config_not_used"] == own and recorded["prompt_form"] == "chat template"
    said = next(line for line in capsys.readouterr().out.splitlines() if "generation_config is not used" in line)
    assert "repetition_penalty=5.0" in said and "num_beams=3" in said


def test_every_end_token_ends_an_answer(copied):
    folder = copied("llava")
    model = load(folder)
    _, processor = model._load()
    whole = ask(model, QUESTION)[0]
    assert whole.extras["finish_reason"] == "length"
    inputs = model._load_prompter().encode([Question("0", [images()[0], QUESTION])])
    out = model._load()[0].generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :].tolist()
    third = next(i for i in range(1, 8) if out[i] not in out[:i])
    tokenizer = processor.tokenizer
    rewrite(folder / "generation_config.json", eos_token_id=[out[third]])
    ended = load(folder)
    answer = ask(ended, QUESTION)[0]
    assert answer.extras["finish_reason"] == "stop"
    assert answer.text == tokenizer.decode(out[:third]).strip() or whole.text.startswith(answer.text)
    assert {int(i) for i in ended.facts["end_tokens"]} == {out[third], tokenizer.eos_token_id}


# asking


@pytest.mark.parametrize("mark", ["<image>", "</s>", "<s>", "<pad>", "<unk>", "<<image>image>", "<image><image>"])
def test_marks_in_a_question_are_text(tiny_model, mark):
    model = load(tiny_model("llava"))
    answers = ask(model, QUESTION, f"\nWhat does {mark} mean?")
    assert [a.error for a in answers] == [None, None]
    assert "marks_in_text" not in answers[0].extras and answers[1].extras["marks_in_text"]
    special = set(model._load_prompter().processor.tokenizer.all_special_ids)
    plain = [i for i in seen_ids(model, Question("0", [images()[0], QUESTION])) if i in special]
    marked = [i for i in seen_ids(model, Question("1", [images()[0], f"\nWhat does {mark} mean?"])) if i in special]
    assert marked == plain, "the structure is the same whatever the text says"


def test_text_that_only_looks_like_html_is_left_alone(tiny_model):
    model = load(tiny_model("llava"))
    text = "\nIs 3 < 5 > 2, and <b>bold</b>?"
    ids = seen_ids(model, Question("0", [images()[0], text]))
    assert text.strip() in model._load_prompter().processor.tokenizer.decode(ids)


TEMPLATE = "{% for m in messages %}USER: {{ m['content'] }}{% endfor %} ASSISTANT:"


def test_a_template_that_wants_a_string_gets_one(copied):
    folder = copied("llava")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    model = load(folder)
    text = model._load_prompter().processor.tokenizer.decode(
        [
            i
            for i in seen_ids(model, Question("0", [images()[0], QUESTION]))
            if i != model._load()[0].config.image_token_id
        ]
    )
    assert "USER:" in text and QUESTION in text and "type" not in text and text.rstrip().endswith("ASSISTANT:")
    assert model.prepare()["prompt_form"] == "chat template, as one string"


def test_a_template_that_the_tokenizer_holds_is_used(copied):
    folder = copied("llava")
    template = (folder / "chat_template.jinja").read_text()
    before = seen_ids(load(folder), Question("0", [images()[0], QUESTION]))
    (folder / "chat_template.jinja").unlink()
    rewrite(folder / "tokenizer_config.json", chat_template=template)
    model = load(folder)
    assert seen_ids(model, Question("0", [images()[0], QUESTION])) == before
    assert model.prepare()["prompt_form"].endswith("chat template")


def test_no_template_is_the_plain_form_and_says_so(copied, pope, tmp_path, capsys):
    folder = copied("llava")
    (folder / "chat_template.jinja").unlink()
    assert main([*pope, "--model", f"hf:{folder}", "--out", str(tmp_path / "run")]) == 0
    form = json.loads(next((tmp_path / "run").rglob("run.json")).read_text())["extras"]["model"]["prompt_form"]
    assert form == "no chat template: plain text, <image> in it"
    assert "no chat template" in capsys.readouterr().out


def test_a_model_that_needs_an_image_is_not_asked_blind(tiny_model, pope, tmp_path, capsys):
    words = [*pope, "--blind", "--model", f"hf:{tiny_model('paligemma')}", "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "cannot be asked without an image" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not next((tmp_path / "run").rglob("items.jsonl")).read_text()


def test_a_row_that_fails_costs_that_row(tiny_model):
    model = load(tiny_model("llava"))
    texts = [f"\nQuestion {i}?" for i in range(5)]
    questions = [Question(str(i), [images()[0], text]) for i, text in enumerate(texts)]
    alone = [model.answer([q], SHORT)[0].text for q in questions]
    questions[3] = Question("3", ["no", object(), "image"])
    answers = model.answer(questions, SHORT)
    assert answers[3].error and [a.text for i, a in enumerate(answers) if i != 3] == [*alone[:3], alone[4]]


def test_a_sampled_answer_hangs_on_its_question_and_the_seed_not_on_the_batch(tiny_model):
    model = load(tiny_model("llava"))
    questions = [Question(str(i), [images()[0], QUESTION]) for i in range(4)]  # alike: only seeds tell
    sampled = [SHORT.model_copy(update={"temperature": 1.0, "seed": seed}) for seed in (0, 1)]
    alone = [model.answer([q], sampled[0])[0].text for q in questions]
    together = [a.text for a in model.answer(questions[::-1], sampled[0])][::-1]
    assert together == alone and len(set(alone)) == 4
    assert [a.text for a in model.answer(questions, sampled[1])] != alone


# options


def test_image_arguments_reach_the_processor(tiny_model):
    folder = tiny_model("qwen2_vl")
    question = Question("0", [images()[1].resize((400, 400)), QUESTION])
    many, few = (len(seen_ids(load(folder, model_args=a), question)) for a in ({}, {"max_pixels": 28 * 28 * 16}))
    assert few < many
    one, other = load(folder), load(folder, model_args={"max_pixels": 28 * 28 * 16})
    assert one.info.fingerprint != other.info.fingerprint, "two runs that show other pixels are not one run"


def test_loading_arguments_reach_the_model(tiny_model):
    model = load(tiny_model("llava"), dtype="bfloat16", device="cpu", model_args={"attn_implementation": "eager"})
    facts = model.prepare()
    assert (facts["attention"], facts["dtype"], facts["device"]) == ("eager", "bfloat16", "cpu")
    assert facts["model_args"] == {"attn_implementation": "eager"} and model.info.dtype == "bfloat16"
    spread = load(tiny_model("llava"), device_map="auto").prepare()
    assert spread["device"] == "device_map auto"


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"model_args": {"max_pixel": 5}}, "knows no model argument 'max_pixel'"),
        ({"device": "cpu", "device_map": "auto"}, "--device and --device-map both"),
        ({"model_args": {"load_in_4bit": True}}, "bitsandbytes"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_one_line(tiny_model, options, expected):
    with pytest.raises(UserError, match=expected):
        load(tiny_model("llava"), **options).prepare()


def test_two_revisions_are_one_too_many():
    with pytest.raises(UserError, match="differ"):
        registry.load("hf:owner/name@one", "official", model_args={"revision": "two"})


def test_a_process_takes_its_own_device(tiny_model, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # without its own, the model would go to cuda
    model = load(tiny_model("llava"), own_device="cpu")
    assert ask(model, QUESTION)[0].error is None and model.facts["device"] == "cpu"


# cheap checks first


@pytest.mark.parametrize(
    "spec, does, expected",
    [
        ("hf:owner/name", DrawsImages, "cannot draw"),
        ("diffusers:owner/name", AnswersQuestions, "cannot answer questions"),
        ("janus:owner/name", AnswersQuestions, "cannot answer questions"),
    ],
)
def test_what_a_kind_cannot_do_is_said_before_the_hub_is_asked(spec, does, expected, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=expected):
        registry.load(spec, "official", does=does)


def test_missing_data_is_said_before_the_hub_is_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the hub"))
    assert main(["understanding", "--bench", "MMB", "--data", str(tmp_path), "--model", "hf:owner/name"]) == 2
    assert "MMBench_DEV_EN" in capsys.readouterr().err


def test_a_load_error_is_shown_whole(copied, pope, tmp_path, capsys):
    folder = copied("llava")
    (folder / "model.safetensors").write_bytes(b"no weights" * 20)
    assert main([*pope, "--model", f"hf:{folder}", "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.count("\n") == 0 and f"cannot load hf:{folder}" in said and "header" in said.lower()


# InternVL's own protocol


def test_internvl_is_asked_at_the_tiles_that_armor_is(tiny_model):
    """`max_tiles` and MMMU's doubled first image; what --model-args says goes first."""
    from PIL import Image

    from armor_model.images import tile_grid

    folder = tiny_model("internvl")
    model = load(folder)
    side = model._load_prompter().processor.image_processor.size["height"]
    shown = Image.radial_gradient("L").resize((side * 3, side * 2)).convert("RGB")

    def tiles(model, **how) -> int:
        [(chunk, _)] = model.encode([Question("0", [shown, QUESTION], **how)], SHORT)
        return len(chunk.inputs["pixel_values"])

    def ours(image_side: int, most: int) -> int:
        columns, rows = tile_grid(image_side * 3, image_side * 2, most, side)
        return columns * rows + (columns * rows > 1)

    assert [tiles(model, max_tiles=n) for n in (1, 2, 6, 12)] == [ours(side, n) for n in (1, 2, 6, 12)]
    assert tiles(model, max_tiles=12, upscale_first=True) == ours(2 * side, 12)
    assert tiles(load(folder, model_args={"max_patches": 3}), max_tiles=6) == ours(side, 3)
    assert "tiles" in model.facts


def test_as_many_are_asked_at_once_as_memory_holds(tiny_model, pope, tmp_path, monkeypatch, caplog):
    """`auto` and 16 give the same answers; where memory holds two rows, so does a model that is asked directly."""
    import torch

    from armor_eval.models.hf import HubModel

    folder = tiny_model("llava")
    words = [*pope, "--model", f"hf:{folder}"]
    assert main([*words, "--out", str(tmp_path / "plain")]) == 0
    whole, sizes = HubModel._generate, []

    def small(self, chunk, decoding):
        sizes.append(len(chunk.questions))
        if len(chunk.questions) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, chunk, decoding)

    monkeypatch.setattr(HubModel, "_generate", small)
    assert main([*words, "--batch-size", "auto", "--out", str(tmp_path / "auto")]) == 0
    assert sizes == [1, 4, 2, 2], "a question on trial, what fits by estimate, what does"
    items = [(tmp_path / name / "POPE" / "items.jsonl").read_text().splitlines() for name in ("plain", "auto")]
    outputs = [{item["id"]: item["output"] for item in map(json.loads, lines)} for lines in items]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 4
    assert json.loads((tmp_path / "auto" / "POPE" / "run.json").read_text())["extras"]["memory"]["tokens"] > 0
    sizes.clear()
    assert [a.error for a in ask(load(folder), *[f"\nWhat is {i}?" for i in range(4)])] == [None] * 4
    assert sizes == [4, 2, 2]


def test_a_static_cache_gives_the_same_answers_and_is_refused_where_it_cannot_be(tiny_model, monkeypatch):
    folder, static = tiny_model("qwen2_vl"), {"cache_implementation": "static"}
    plain, fixed = load(folder), load(folder, model_args=static)
    texts = [QUESTION, "\nIs it red?", "\nHow many things are there in the image, and where?"]
    caches, kind = set(), type(fixed._load()[0])
    forward = kind.forward

    @wraps(forward)
    def seen(self, *args, **given):
        caches.add(type(given["past_key_values"]).__name__)
        return forward(self, *args, **given)

    monkeypatch.setattr(kind, "forward", seen)
    ask(fixed, QUESTION)
    monkeypatch.undo()
    assert caches == {"StaticCache"}
    assert [a.text for a in ask(fixed, *texts)] == [a.text for a in ask(plain, *texts)]
    assert fixed.facts["model_args"] == static and fixed.info.fingerprint != plain.info.fingerprint
    with pytest.raises(UserError, match="needs a GPU"):
        load(folder, model_args={**static, "compile": True}).prepare()
    for wrong in ({"compile": True}, {**static, "compile": "yes"}, {"cache_implementation": "hybrid"}):
        with pytest.raises(UserError, match=r"compile|cache_implementation"):
            load(folder, model_args=wrong)
    monkeypatch.setattr(kind, "_can_compile_fullgraph", False)
    with pytest.raises(UserError, match="fixed buffers"):
        load(folder, model_args=static).prepare()
