"""Published layouts into ARMOR: equal to independent re-implementations; every damage is named; memory stays small."""

import json
import subprocess
import sys
import textwrap

import convert_reference as reference
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests_model_helpers import stacked

from armor_model import ArmorError, ImageTokenizer, load
from armor_model.bases.internvl import INTERNVL
from armor_model.convert import vqgan
from armor_model.convert.build import build
from armor_model.convert.export import export
from armor_model.presets import summary


@pytest.fixture
def write_base(tmp_path, tokenizer):
    """A checkpoint folder in the published layout."""

    def write(config, state, name="base", shards=1):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        tokenizer.save_pretrained(folder)
        keys = sorted(state)
        for n in range(shards):
            part = {k: state[k].contiguous() for k in keys[n::shards]}
            save_file(part, folder / f"model-{n + 1:05d}-of-{shards:05d}.safetensors")
        if shards > 1:
            index = {k: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, k in enumerate(keys)}
            (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return folder

    return write


@pytest.fixture
def vqgan_file(tmp_path):
    """A VQGAN as published: a pickle with `state_dict` and the training loss's tensors."""
    model = reference.VQGAN(dtype=torch.float32)
    path = tmp_path / "vqgan.ckpt"
    torch.save({"state_dict": {**model.state, "loss.perceptual.weight": torch.zeros(3)}}, path)
    return path


def base_logits(model, processor, image):
    talk = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what is there ?"}]}
    ]
    batch = processor.encode([talk], add_generation_prompt=True)
    model = model.double()
    with torch.no_grad():
        hidden = model.backbone(model.embed(batch["input_ids"], [image.double() for image in batch["pixel_values"]]))
        return batch, model.text_logits(hidden)[..., : model.config.vocab_size]


@pytest.mark.parametrize(("kind", "big_vision"), [("internlm2", False), ("qwen2", False), ("internlm2", True)])
def test_original_layout_equals_the_original_model(write_base, tmp_path, kind, big_vision, vqgan_file, tokenizer):
    from PIL import Image

    config = reference.config(kind, big_vision, vocab=len(tokenizer))
    state = reference.checkpoint(config)
    done = build(str(write_base(config, state, shards=3)), str(vqgan_file), tmp_path / "armor", adapter_layers=2)
    assert done["layout"] == kind and done["tokenizer_extended"]
    model, processor = load(tmp_path / "armor", dtype=torch.float64)
    image = Image.effect_noise((70, 33), 80).convert("RGB")
    batch, ours = base_logits(model, processor, image)
    pixels = torch.cat(batch["pixel_values"]).double()
    assert len(pixels) > 1  # tiles and a thumbnail
    expected = reference.logits(state, config, batch["input_ids"], pixels, model.config.image_token_id)
    assert torch.allclose(ours, expected, atol=1e-5) and (ours - expected).abs().max() < 1e-6
    # the adapter is a copy of the last blocks, the norm of the last norm
    for new, old in zip(model.adapter, model.model.language_model.layers[-2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))
    assert torch.equal(model.adapter_norm.weight, model.model.language_model.norm.weight)
    assert processor.system_prompt.startswith("你是书生")
    assert model.imgbos_head.weight.std() > 0.005


def test_a_qwen3_decoder_brings_its_norms(write_base, tmp_path, tokenizer):
    """InternVL3.5 as published: Qwen3's blocks under Qwen2's names, norms of queries and keys, no biases."""
    config = reference.config("qwen2", False, vocab=len(tokenizer))
    config["llm_config"] |= {"architectures": ["Qwen3ForCausalLM"], "head_dim": 8}
    state = {k: v for k, v in reference.checkpoint(config).items() if "language_model" not in k or "bias" not in k}
    heads = {"q": config["llm_config"]["num_attention_heads"], "k": config["llm_config"]["num_key_value_heads"]}
    D = config["llm_config"]["hidden_size"]
    for n in range(config["llm_config"]["num_hidden_layers"]):
        attention = f"language_model.model.layers.{n}.self_attn"
        for x in "qkv":
            state[f"{attention}.{x}_proj.weight"] = torch.randn(8 * heads.get(x, heads["k"]), D) * 0.1
        state[f"{attention}.o_proj.weight"] = torch.randn(D, 8 * heads["q"]) * 0.1
        state |= {f"{attention}.{x}_norm.weight": torch.rand(8) + n for x in "qk"}
    build(str(write_base(config, state)), None, tmp_path / "armor", adapter_layers=1)
    model, _ = load(tmp_path / "armor")
    assert model.config.text_config.model_type == "qwen3"
    last = model.decoder.layers[-1].self_attn
    assert torch.equal(last.k_norm.weight, state[f"{attention}.k_norm.weight"]) and last.q_proj.bias is None
    assert torch.equal(model.adapter[0].self_attn.q_norm.weight, last.q_norm.weight)


@pytest.mark.parametrize("size", ["1b", "2b", "4b", "8b", "26b", "38b", "78b"])
def test_every_published_size_is_carried_over(size):
    """Published names and shapes of each size, without data: each tensor finds its place, none is left, sums agree."""
    from types import SimpleNamespace

    from armor_model.config import ArmorConfig
    from armor_model.convert.build import plan
    from armor_model.presets import preset_dict

    known = preset_dict(f"internvl2_5-{size}")
    text, eyes = known["text_config"], known["vision_config"]
    config = reference.config("internlm2" if text["model_type"] == "llama" else "qwen2", eyes["use_qk_norm"])
    same = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    config["llm_config"] |= {k: text[k] for k in (*same, "num_key_value_heads", "max_position_embeddings")}
    config["vision_config"] |= {k: eyes[k] for k in same[:4]} | {"image_size": 448, "patch_size": 14}
    config["force_image_size"] = 448
    with torch.device("meta"):
        state = reference.checkpoint(config, seed=None, dtype=torch.bfloat16)
    tensors = {k: SimpleNamespace(shape=tuple(v.shape), dtype=v.dtype) for k, v in state.items()}
    vit = 4 + (13 if eyes["use_qk_norm"] else 14) * eyes["num_hidden_layers"]
    per_block = 7 if text["model_type"] == "llama" else 12
    assert len(tensors) == vit + 6 + 3 + per_block * text["num_hidden_layers"]  # as published
    layout, settings = INTERNVL.read_config(config)
    settings["image_token_id"] = known["image_token_id"]
    items = plan(
        SimpleNamespace(tensors=tensors),
        INTERNVL,
        layout,
        ArmorConfig(**settings),
        settings["text_config"],
        "copy",
        None,
        0,
    )
    ours = sum(item.size // 2 for item in items if item.name.startswith(("model.", "lm_head.")))
    assert ours == sum(v.numel() for v in state.values()) == summary(known)["base"]
    assert sum(item.size // 2 for item in items) == summary(known)["total"]
    assert {item.dtype for item in items} == {torch.bfloat16}


def test_contiguous_thirds_would_be_wrong(write_base, tmp_path, tokenizer):
    """The trap of the published wqkv: the right split differs from thirds although the shapes agree."""
    fused = torch.randn(12 * 4, 32)
    text = {"num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 32}
    q, k, v = (INTERNVL.take(f"wqkv:{x}", text)(fused) for x in "qkv")
    naive = fused.split([32, 8, 8])
    assert [t.shape for t in (q, k, v)] == [t.shape for t in naive]
    assert not any(torch.equal(a, b) for a, b in zip((q, k, v), naive, strict=True))
    assert torch.equal(q[:16], fused[:16]) and torch.equal(k[:4], fused[16:20]) and torch.equal(v[:4], fused[20:24])
    assert torch.equal(q[16:], fused[24:40])


def test_transformers_layout_loads_as_it_is(tmp_path, tokenizer, conversations):
    from tests_model_helpers import internvl

    base = internvl(len(tokenizer))
    base.save_pretrained(tmp_path / "hf")  # writes the older, public prefixes
    tokenizer.save_pretrained(tmp_path / "hf")
    settings = tmp_path / "hf" / "tokenizer_config.json"  # InternVL3-1B-hf's names a token behind its embeddings' end
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "extra_special_tokens": {"video": "<video>"}}))
    assert any(k.startswith("language_model.model.") for k in load_file(tmp_path / "hf" / "model.safetensors"))
    done = build(str(tmp_path / "hf"), None, tmp_path / "armor", adapter_layers=1)
    assert done["names_left_out"] == ["<video>"] and done["tokenizer_extended"]
    model, processor = load(tmp_path / "armor")
    assert processor.tokenizer.convert_tokens_to_ids("<imgbos>") == processor.imgbos_id == len(tokenizer)
    batch = processor.encode(conversations[:1], add_generation_prompt=True)
    with torch.no_grad():
        ours = model.text_logits(model.backbone(model.embed(batch["input_ids"])))
        assert torch.equal(ours[..., :-1], base(batch["input_ids"]).logits)
    with pytest.raises(ArmorError, match="no image tokenizer"):
        processor.decode_codes(torch.zeros(1, 16, 16, dtype=torch.long))


def test_random_adapter_single_head_and_types(write_base, tmp_path, tokenizer):
    config = reference.config("internlm2", vocab=len(tokenizer))
    base = write_base(config, reference.checkpoint(config, dtype=torch.bfloat16))
    for n in (0, 1):
        build(str(base), None, tmp_path / f"a{n}", adapter_init="random", heads="single", seed=7, max_shard=20_000)
    assert len(list((tmp_path / "a0").glob("model-*.safetensors"))) > 1
    model, _ = load(tmp_path / "a0")
    again, _ = load(tmp_path / "a1")
    assert model.dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(model.single_head.weight[: len(tokenizer)], model.lm_head.weight)
    last = model.model.language_model.layers[-1].mlp.up_proj.weight
    assert not torch.equal(model.adapter[-1].mlp.up_proj.weight, last)


def test_vqgan_equals_the_original(vqgan_file, tmp_path):
    original = reference.VQGAN()
    vq = vqgan.convert(original.state, image_size=16).double()
    pixels = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    codes = original.encode(pixels)
    assert codes.unique().numel() > 10
    # the encoder quantizes in the weights' own type here, as the original
    assert torch.equal(vq.encode(pixels), codes)
    decoded = vq.model.decode(codes.flatten(), force_not_quantize=True, shape=(*codes.shape, 32)).sample
    # conversion passes through fp32
    assert torch.allclose(decoded, original.decode(codes), atol=1e-5)
    vqgan.open_vqgan(vqgan_file).save(tmp_path / "vq")
    assert ImageTokenizer.load(tmp_path / "vq").codebook_size == 64


def damaged(name):
    def unknown(state):
        state["language_model.model.layers.0.attention.extra.weight"] = torch.zeros(2)

    def missing(state):
        state.pop("language_model.model.layers.1.ffn_norm.weight")

    def shaped(state):
        state["mlp1.1.weight"] = state["mlp1.1.weight"][:-1]

    return {"unknown": unknown, "missing": missing, "shaped": shaped}[name]


@pytest.mark.parametrize(
    ("harm", "says"),
    [("unknown", "attention.extra"), ("missing", "layers.1.post_attention_layernorm"), ("shaped", "mlp1.1.weight")],
)
def test_a_wrong_key_is_named(write_base, tmp_path, tokenizer, harm, says):
    config = reference.config("internlm2", vocab=len(tokenizer))
    state = reference.checkpoint(config)
    damaged(harm)(state)
    with pytest.raises(ArmorError, match=says):
        build(str(write_base(config, state)), None, tmp_path / "armor")
    assert not (tmp_path / "armor" / "config.json").exists()


def test_damaged_shards(write_base, tmp_path, tokenizer):
    config = reference.config("qwen2", vocab=len(tokenizer))
    base = write_base(config, reference.checkpoint(config), shards=2)
    shard = base / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    for content, says in (
        (whole[:-50], "truncated"),
        (whole[:6], "not a safetensors file"),
        (whole[:8] + b"x" + whole[9:], "damaged header"),
        (b"\xff" * 100, "not a safetensors file"),
    ):
        shard.write_bytes(content)
        with pytest.raises(ArmorError, match=says):
            build(str(base), None, tmp_path / "armor")
    shard.unlink()
    with pytest.raises(ArmorError, match="a shard is missing"):
        build(str(base), None, tmp_path / "armor")
    (base / "model-00001-of-00002.safetensors").unlink()
    (base / "pytorch_model.bin").touch()
    with pytest.raises(ArmorError, match="pickled"):
        build(str(base), None, tmp_path / "armor")


def test_other_models_are_refused(tmp_path, write_base, tokenizer):
    config = reference.config("qwen2", vocab=len(tokenizer))
    config["llm_config"]["architectures"] = ["Phi3ForCausalLM"]
    with pytest.raises(ArmorError, match="Phi3"):
        build(str(write_base(config, {"a": torch.zeros(1)})), None, tmp_path / "o")
    with pytest.raises(ArmorError, match="model_type"):
        build(str(write_base({"model_type": "llava"}, {"a": torch.zeros(1)})), None, tmp_path / "o")
    native = {"model_type": "internvl", "text_config": {"model_type": "qwen3_moe"}}  # InternVL3.5-30B-A3B-HF's
    with pytest.raises(ArmorError, match="text tower qwen3_moe is not supported: llama, qwen2, qwen3"):
        build(str(write_base(native, {"a": torch.zeros(1)})), None, tmp_path / "o")
    with pytest.raises(ArmorError, match="no base model at"):
        build(str(tmp_path / "nowhere"), None, tmp_path / "o")


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    path = tmp_path / "vqgan.ckpt"
    torch.save({"state_dict": {"encoder.x": Evil()}}, path)
    with pytest.raises(ArmorError, match="read safely"):
        vqgan.open_vqgan(path)
    assert "code ran" not in capsys.readouterr().out
    path.write_bytes(b"nothing")
    with pytest.raises(ArmorError):
        vqgan.open_vqgan(path)
    for content in ([1, 2], {"state_dict": {"encoder.x": 3}}, {1: torch.zeros(2)}):
        torch.save(content, path)
        with pytest.raises(ArmorError, match="not a plain state dict"):
            vqgan.open_vqgan(path)
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b""):
        path.write_bytes(part)
        with pytest.raises(ArmorError, match="read safely"):
            vqgan.open_vqgan(path)
    torch.save({"state_dict": {"encoder.conv_in.weight": torch.zeros(1)}}, path)
    with pytest.raises(ArmorError, match="not a VQGAN"):
        vqgan.open_vqgan(path)


def test_a_wrong_vqgan_key_is_named():
    state = dict(reference.VQGAN(dtype=torch.float32).state)
    with pytest.raises(ArmorError, match=r"encoder\.down\.0\.attn"):
        vqgan.convert({**state, "encoder.down.0.attn.0.q.weight": torch.zeros(1)})
    with pytest.raises(ArmorError, match=r"decoder\.conv_out\.weight is"):
        vqgan.convert({**state, "decoder.conv_out.weight": torch.zeros(2, 2)})
    state.pop("decoder.conv_out.bias")
    with pytest.raises(ArmorError, match=r"lacks decoder\.conv_out\.bias"):
        vqgan.convert(state)


def test_export_is_a_plain_internvl_with_armors_text_head(make_model, tmp_path, conversations):
    from transformers import AutoModelForImageTextToText, InternVLForConditionalGeneration

    from armor_model import save

    model, processor = make_model(seed=9)
    save(model, processor, tmp_path / "armor")
    export(tmp_path / "armor", tmp_path / "plain")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "plain").eval()
    assert type(plain) is InternVLForConditionalGeneration
    ends = plain.generation_config  # all that a server knows of where an answer ends
    assert (ends.eos_token_id, ends.pad_token_id) == (processor.stop_ids, processor.pad_id)
    batch = processor.encode(conversations[1:2], add_generation_prompt=True)
    with torch.no_grad():
        ours = model.text_logits(model.backbone(model.embed(batch["input_ids"], batch["pixel_values"])))
        assert torch.equal(plain(**stacked(batch)).logits, ours[..., :-1])
    names = set(load_file(tmp_path / "plain" / "model.safetensors"))
    theirs = tmp_path / "theirs"
    plain.save_pretrained(theirs)
    assert names == set(load_file(theirs / "model.safetensors"))  # the public -hf checkpoints' own names


def test_exported_processor_gives_the_same_batch(make_model, tmp_path):
    """transformers' InternVLProcessor, from what was exported, builds the tokens and tiles that ours builds."""
    from PIL import Image
    from transformers import AutoProcessor

    from armor_model import save

    model, processor = make_model()
    save(model, processor, tmp_path / "armor")
    export(tmp_path / "armor", tmp_path / "plain")
    theirs = AutoProcessor.from_pretrained(tmp_path / "plain")
    image = Image.effect_noise((70, 33), 80).convert("RGB")
    text = [{"type": "image", "image": image}, {"type": "text", "text": "what is there ?"}]
    talk = [{"role": "user", "content": text}]
    ours = stacked(processor.encode([talk], add_generation_prompt=True))
    kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = theirs.apply_chat_template(talk, **kwargs)
    assert batch["input_ids"].tolist() == ours["input_ids"].tolist()
    # they resize tensors, we resize pictures: the same to within a rounding of the pixels
    assert batch["pixel_values"].shape == ours["pixel_values"].shape
    assert (batch["pixel_values"] - ours["pixel_values"]).abs().mean() < 0.05


def test_exported_template_equals_ours(make_model, tmp_path, conversations):
    from jinja2 import Environment

    from armor_model.convert.export import chat_template

    _, processor = make_model()
    for prompt in ("none", "internvl"):
        processor.settings.system_prompt = prompt
        template = Environment().from_string(chat_template(processor.base.chat, processor.system_prompt))
        for conversation in conversations:
            text = template.render(messages=conversation, add_generation_prompt=True)
            assert text == processor.render(conversation, True).replace("<image>", "<IMG_CONTEXT>")


def test_single_head_has_no_text_path_to_export(make_model, tmp_path):
    from armor_model import save

    save(*make_model(heads="single"), tmp_path / "armor")
    with pytest.raises(ArmorError, match="no text path"):
        export(tmp_path / "armor", tmp_path / "plain")


@pytest.mark.slow
def test_memory_of_a_conversation_stays_below_a_shard(write_base, tmp_path, tokenizer):
    """Peak above the import baseline, on four shards of 256 MB: under 1.3 x the largest shard + the new parameters."""
    config = reference.config("internlm2", vocab=len(tokenizer), layers=8)
    config["llm_config"] |= {"hidden_size": 1024, "intermediate_size": 8704}
    state = reference.checkpoint(config, dtype=torch.float32)
    base = write_base(config, state, shards=4)
    largest = max(file.stat().st_size for file in base.glob("*.safetensors"))
    assert 200e6 < largest < 320e6
    del state
    code = f"""
        import re, torch
        from pathlib import Path
        from armor_model.convert.build import build
        import armor_model.modeling, transformers.models.llama.modeling_llama
        import transformers.models.auto.tokenization_auto

        def peak():  # not ru_maxrss, which a child inherits from its parent
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

        torch.empty(1).normal_()
        before = peak()
        done = build({str(base)!r}, None, Path({str(tmp_path / "armor")!r}), adapter_layers=1)
        print(peak() - before, done["new"] * 4)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    used, new = map(int, done.stdout.split())
    print(f"above the baseline: {used / 1e6:.0f} MB; largest shard {largest / 1e6:.0f}, new {new / 1e6:.0f} MB")
    assert used < 1.3 * largest + new
