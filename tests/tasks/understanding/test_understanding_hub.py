"""`--model hf:PATH` and `vlmeval:NAME` end to end, on untrained models of published architectures saved to disk."""

import json
from functools import partial
from pathlib import Path

import pytest
from harness_data import measure, the_run

from armor_eval.cli import main
from armor_eval.models import registry
from armor_eval.models.base import Decoding, Question
from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.understanding.declare import choose

TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ("what", "is", "a", "b", "the", "answer", "which", "word", "fits", "option", "from", "given", "choices")


def answers(path):
    return {it.id: (it.output, it.score, it.status) for it in read_bundle(the_run(path))[1]}


def llava(folder: Path) -> None:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from armor_model import build_word_tokenizer

    tokenizer = build_word_tokenizer(WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    template = (
        "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
        "{% else %}{{ c['text'] }}{% endif %}{% endfor %} ASSISTANT:{% endfor %}"
    )
    image = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = LlavaProcessor(
        image,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TEXT, image_size=16, patch_size=8),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    from armor_model import build_word_tokenizer

    tokenizer = build_word_tokenizer(WORDS)
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *marks]})
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    pixels = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 64, "longest_edge": 1024}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**pixels, size=size), tokenizer, Qwen2VLVideoProcessor(**pixels, size=size), template
    )
    start, end, image, video = tokenizer.convert_tokens_to_ids(marks)
    text = {**TEXT, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}
    config = Qwen2VLConfig(
        text_config={**text, "rope_parameters": rope, "bos_token_id": None, "eos_token_id": tokenizer.eos_token_id},
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 16,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        vision_start_token_id=start,
        vision_end_token_id=end,
        image_token_id=image,
        video_token_id=video,
    )
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.fixture(scope="module", params=[llava, qwen2_vl], ids=["llava", "qwen2-vl"])
def saved(request, tmp_path_factory) -> Path:
    """A published architecture's folder, as transformers writes one: weights, configuration, processor files."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("hf") / request.param.__name__
    request.param(folder)
    return folder


def test_a_saved_model_is_measured_alike_in_any_batch(saved, tsv_folder, tmp_path, capsys):
    words = ["understanding", "--bench", "SEED", "--model", f"hf:{saved}", "--data", str(tsv_folder), "--any-data"]
    for name, size in (("one", "1"), ("many", "6")):
        argv = [*words, "--max-new-tokens", "4", "--batch-size", size, "--out", str(tmp_path / name)]
        assert main(argv) == 0
    assert "SEED" in capsys.readouterr().out
    run, items, scores = read_bundle(the_run(tmp_path / "one"))
    assert answers(tmp_path / "one") == answers(tmp_path / "many")
    assert run.status == "complete" and scores.counts["error"] == 0 and len(items) == 12
    assert run.model.spec == f"hf:{saved}" and len(run.model.fingerprint) == 64


def test_images_and_words_reach_a_saved_model(saved):
    from PIL import Image

    model = registry.load(f"hf:{saved}", "official")
    loaded, processor = model._load()
    seen, pixels = [], []
    tower = next(m for name, m in loaded.named_modules() if name.split(".")[-1] in ("vision_tower", "visual"))
    tower.register_forward_pre_hook(lambda _, given: pixels.extend(given))
    loaded.register_forward_pre_hook(lambda _, __, inputs: seen.append(inputs), with_kwargs=True)
    shown = [Image.new("RGB", (16, 16), "red"), "\nwhat is the answer"]
    said = model.answer([Question("1", shown)], Decoding(max_new_tokens=2))
    assert said[0].error is None
    text = processor.tokenizer.decode(seen[0]["input_ids"][0])
    assert "what is the answer" in text and "\n\n" not in text.replace(" ", ""), text
    assert len(pixels) == 1 and pixels[0].std() > 0.1  # red, by the processor's mean and deviation
    model.close()


def test_an_exported_armor_answers_as_armor_itself(tmp_path):
    """The bundled armor-nano through transformers' own InternVL and InternVLProcessor: every answer is the same."""
    from armor_model import bundled
    from armor_model.convert.export import export

    export(bundled("armor-nano"), tmp_path / "plain")
    decoding = Decoding(max_new_tokens=16, mask_imgbos=True)  # a plain InternVL knows no <imgbos>
    for bench in ("MMB", "POPE", "MMVet"):
        from armor_eval.shapes.judge import RuleJudge

        done = []
        for spec in ("armor-nano", f"hf:{tmp_path / 'plain'}"):
            model = registry.load(spec, "shapes")
            benchmark = choose([bench])[0]
            judge = RuleJudge() if benchmark.judge == "required" else None
            folder = tmp_path / f"{bench}-{len(done)}"
            done.append(measure(bench, model, folder, profile="shapes", judge=judge, decoding=decoding, limit=12))
            model.close()
        assert answers(done[0].path) == answers(done[1].path)
        assert len({output for output, _, _ in answers(done[0].path).values()}) > 1
        assert done[0].scores == done[1].scores


def test_what_is_no_model_is_one_line_before_anything_is_written(tmp_path, capsys):
    words = ["understanding", "--bench", "SEED", "--profile", "shapes", "--limit", "2"]
    for name, config, expected in (
        ("empty", None, "it has no config.json"),
        ("broken", "{", "config.json cannot be read"),
        ("weightless", '{"model_type": "llava"}', "it has no weights"),
        ("armor", '{"model_type": "armor"}', "did you mean --model "),
    ):
        (tmp_path / name).mkdir()
        if config is not None:
            (tmp_path / name / "config.json").write_text(config)
        assert main([*words, "--model", f"hf:{tmp_path / name}", "--out", str(tmp_path / "runs" / name)]) == 2
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "runs" / name).exists()


def test_a_model_of_another_task_is_no_questions_error(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    words = ["understanding", "--bench", "SEED", "--profile", "shapes", "--limit", "2"]
    assert main([*words, "--model", f"hf:{tmp_path}", "--out", str(tmp_path / "run")]) == 2
    assert "no image-text-to-text class for 'llama'" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not read_bundle(the_run(tmp_path / "run"))[1]


def test_a_folder_of_another_kind_says_what_was_meant(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    assert main(["understanding", "--bench", "SEED", "--profile", "shapes", "--model", str(tmp_path)]) == 2
    assert f"did you mean --model hf:{tmp_path}?" in capsys.readouterr().err


def llava_onevision(folder: Path) -> None:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_llava_onevision import LlavaOnevisionImageProcessor
    from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor

    from armor_model import build_word_tokenizer

    tokenizer = build_word_tokenizer(WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<video>"]})
    template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'text' %}"
        "{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    shape = {"size": {"height": 16, "width": 16}, "image_grid_pinpoints": [[16, 16], [16, 32]]}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(**shape),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=shape["size"]),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **TEXT, "image_size": 16, "patch_size": 8},
        text_config={"model_type": "qwen2", **TEXT, "num_key_value_heads": 1, "vocab_size": len(tokenizer)},
        image_token_index=image,
        video_token_index=video,
        vision_feature_layer=-1,
        image_grid_pinpoints=shape["image_grid_pinpoints"],
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    # an untrained model goes on for ever, and this zoo entry asks for 2,048 tokens: any other token ends it
    model.generation_config.eos_token_id = list(range(0, len(tokenizer), 2))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def test_a_zoo_entrys_own_class_and_weights(tsv_folder, tmp_path, monkeypatch):
    """VLMEvalKit's LLaVA_OneVision_HF as it stands, which asks for a GPU: only its `.to("cuda")` is led to the CPU."""
    from armor_eval.vlmevalkit.official import quiet_vlmeval
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import torch
    from transformers import BatchFeature

    for owner in (torch.nn.Module, BatchFeature):
        real = owner.to
        monkeypatch.setattr(owner, "to", lambda self, where, *rest, real=real: real(self, "cpu", *rest))
    torch.manual_seed(0)
    llava_onevision(tmp_path / "weights")
    with quiet_vlmeval():
        from vlmeval.config import supported_VLM
    name = "llava_onevision_qwen2_0.5b_ov"
    made = supported_VLM["llava-onevision-qwen2-0.5b-ov-hf"]
    entry = partial(made.func, **{**made.keywords, "model_path": str(tmp_path / "weights")})
    monkeypatch.setitem(supported_VLM, name, entry)
    words = ["understanding", "--bench", "SEED", "--model", f"vlmeval:{name}", "--data", str(tsv_folder), "--any-data"]
    assert main([*words, "--out", str(tmp_path / "r")]) == 0
    run, items, scores = read_bundle(the_run(tmp_path / "r"))
    assert scores.counts["error"] == 0 and len(items) == 12 and all(it.output in WORDS for it in items)
    assert all(it.extras["vlmeval_prompt"].startswith("Question: Which word fits") for it in items)
    assert run.model.name == name and run.status == "complete"


def test_armor_as_a_zoo_entry_answers_as_armor(tmp_path, monkeypatch):
    """Its own prompt, pictures as files and no batches: the same words go in and the same answers come out."""
    from armor_eval.vlmevalkit.official import quiet_vlmeval
    from armor_model import bundled

    with quiet_vlmeval():
        from vlmeval.config import supported_VLM

        from armor_eval.vlmevalkit.model import ArmorVLM
    monkeypatch.setitem(supported_VLM, "ARMOR", partial(ArmorVLM, str(bundled("armor-nano")), max_new_tokens=16))
    found = []
    for spec in ("armor-nano", "vlmeval:ARMOR"):
        model = registry.load(spec, "shapes")
        out, decoding = tmp_path / spec.replace(":", "-"), Decoding(max_new_tokens=16)
        done = measure("POPE", model, out, profile="shapes", decoding=decoding, limit=8)
        found.append(answers(done.path))
        model.close()
    assert found[0] == found[1] and len(found[0]) >= 8
