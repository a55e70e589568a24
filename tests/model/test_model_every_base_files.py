"""Every base beside InternVL, as files: built, exported, by transformers' processor, at published sizes, refused."""

import json

import pytest
import torch
from PIL import Image
from test_model_every_base import OTHERS, TILED, WORDS, conversations, hidden_of, inputs_of, pair, theirs
from tests_model_helpers import spread
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from armor_model import ArmorProcessor, build_word_tokenizer, load, new_model, preset, save
from armor_model.base.errors import UserError
from armor_model.bases import find_base, named
from armor_model.convert.build import build, plan
from armor_model.convert.export import export
from armor_model.presets import count, preset_dict, summary

__all__ = ["conversations", "pair"]  # fixtures


@pytest.fixture
def published(pair, tmp_path):
    """The base alone, as its own class saves it: a folder to build from."""
    model, processor = pair
    base, folder = theirs(model), tmp_path / "base"
    base.generation_config.eos_token_id = base.generation_config.bos_token_id = None
    base.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    for name, known in processor.base.published_files(processor).items():
        before = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        (folder / name).write_text(json.dumps(before | known))
    return base, folder


def test_build_and_export_are_each_others_way_back(pair, published, conversations, tmp_path):
    """The base's files -> an ARMOR with the base's logits -> its text path as the base's files, logits still equal."""
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    from armor_model.vq import build_vq

    (_, processor), (base, folder) = pair, published
    build_vq({"type": "patch", "image_size": 32, "codebook_size": 8, "grid": 4}).save(tmp_path / "vq")
    done = build(str(folder), str(tmp_path / "vq"), tmp_path / "armor", adapter_layers=1)
    assert done["layout"] == "native" and done["tokenizer_extended"]
    model, loaded = load(tmp_path / "armor")
    assert (model.base.name, loaded.base.name, model.config.codebook_size) == (*[processor.base.name] * 2, 8)
    assert loaded.settings.pixels == processor.settings.pixels
    if processor.base.name == "qwen2_5_vl":  # its published template's
        assert loaded.system_prompt == "You are a helpful assistant."
        loaded.settings.system_prompt = "none"
    export(tmp_path / "armor", tmp_path / "plain")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "plain").eval()
    assert type(plain) is type(base)
    batch = loaded.encode(conversations, add_generation_prompt=True)
    inputs, real = inputs_of(loaded, batch), batch["attention_mask"].bool()
    if "image_grid_thw" not in inputs:
        inputs["position_ids"] = model.positions(batch["attention_mask"], batch["input_ids"])
    with torch.no_grad():
        ours = model.text_logits(hidden_of(model, batch)[0])[..., :-1]
        for one in (base, plain):
            assert (one(**inputs).logits - ours)[real].abs().max() <= 1e-4
    words = AutoTokenizer.from_pretrained(
        tmp_path / "plain"
    )  # the ARMOR's own knows <imgbos>, the base has no row for it
    assert max(words("a <imgbos><code_0>").input_ids) < len(words) == plain.config.text_config.vocab_size
    ends = plain.generation_config
    assert (ends.eos_token_id, ends.pad_token_id) == (loaded.stop_ids, loaded.pad_id)
    names = [set(load_file(tmp_path / where / "model.safetensors")) for where in ("base", "plain")]
    assert names[1] >= names[0]


def test_an_exported_processor_makes_the_batch_that_ours_makes(pair, conversations, tmp_path):
    """transformers' own processor, from the exported folder: same tokens, same pixels to within a rounding."""
    from transformers import AutoProcessor

    model, processor = pair
    save(model, processor, tmp_path / "armor")
    export(tmp_path / "armor", tmp_path / "plain")
    template = AutoProcessor.from_pretrained(tmp_path / "plain")
    for talk in conversations[:3]:
        ours = inputs_of(processor, processor.encode([talk], add_generation_prompt=True))
        batch = template.apply_chat_template(
            talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert batch["input_ids"].tolist() == ours["input_ids"].tolist()
        assert ("pixel_values" in batch) == ("pixel_values" in ours)
        if "pixel_values" in ours:
            assert batch["pixel_values"].shape == ours["pixel_values"].shape
            assert (batch["pixel_values"] - ours["pixel_values"]).abs().mean() < 0.05
        if "image_grid_thw" in ours:
            assert torch.equal(batch["image_grid_thw"], ours["image_grid_thw"])


@pytest.mark.parametrize("size", [(40, 30), (1, 7), (333, 1000), (2100, 640)])
@pytest.mark.parametrize("name", OTHERS)
def test_pixels_are_the_published_processors(name, size):
    """transformers' processor over Pillow, at the published sizes: bit-equal but for the last bit of a float."""
    base, image = find_base(name), Image.effect_noise(size, 80).convert("RGB")
    config = preset(next(iter(base.presets)))
    settings = ArmorProcessor.for_config(
        build_word_tokenizer(WORDS, base=name), _with_token(config, 3), text_only=True, published={"model_type": name}
    ).settings
    pixels = base.preprocess(image, settings, None)
    if name in TILED:
        kind = {"smolvlm": "SmolVLM", "idefics3": "Idefics3"}[name]
        theirs = named(f"transformers.models.{name}.image_processing_pil_{name}:{kind}ImageProcessorPil")(
            size={"longest_edge": settings.pixels["longest"]}, max_image_size={"longest_edge": settings.image_size}
        )
        found = theirs([[image]], return_tensors="pt", return_row_col_info=True)
        assert found["rows"] == [[len(pixels) - 1]] and found["cols"][0][0] in (0, pixels.shape[1])
        ours, expected = pixels.flatten(0, 1)[: (len(pixels) - 1) * pixels.shape[1] + 1], found["pixel_values"][0]
    else:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        from armor_model.bases.qwen_vl import _patches

        p = settings.pixels
        theirs = Qwen2VLImageProcessorPil(
            patch_size=p["patch"],
            size={"shortest_edge": p["min"], "longest_edge": p["max"]},
            image_mean=list(base.mean),
            image_std=list(base.std),
        )
        found = theirs([image], return_tensors="pt")
        ours, expected = _patches(pixels, config.vision_config), found["pixel_values"]
        grid = found["image_grid_thw"][0].tolist()
        assert base.image_text(pixels, settings)[1] == [grid[1] * grid[2] // 4]
    assert ours.shape == expected.shape
    assert torch.allclose(ours, expected, atol=1e-5)


def _with_token(config, token):
    config.image_token_id = token
    return config


TOTALS = {
    "qwen2_5_vl-3b": 3_754_622_976,
    "qwen2_5_vl-7b": 8_292_166_656,
    "qwen2_5_vl-32b": 33_452_718_336,
    "qwen2_5_vl-72b": 73_410_777_344,
    "qwen3_vl-2b": 2_127_532_032,
    "qwen3_vl-4b": 4_437_815_808,
    "qwen3_vl-8b": 8_767_123_696,
    "qwen3_vl-32b": 33_357_390_064,
    "smolvlm-256m": 256_484_928,
    "smolvlm-500m": 507_482_304,
    "smolvlm-2.2b": 2_246_784_880,
    "idefics3-8b": 8_462_086_384,
}
"""As the hub shows them, Idefics3's to three digits; of the small Qwens the head is the embeddings, an ARMOR's is its
own."""
TIED = ("qwen2_5_vl-3b", "qwen3_vl-2b", "qwen3_vl-4b")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name.endswith(("32b", "72b")) else name for name in TOTALS]
)
def test_published_sizes(name):
    """Sums by arithmetic are the published totals; names and shapes are those of the base's own class on the meta
    device, where each published name finds its place."""
    settings = preset_dict(name)
    own = settings["text_config"]["vocab_size"] * settings["text_config"]["hidden_size"]
    assert summary(settings)["base"] - own * (name in TIED) == TOTALS[name]
    _is_its_own_class_on_meta(name)


CARDS = {
    "internvl3": {"1b": 0.9, "2b": 2.1, "8b": 7.9, "14b": 15.1, "38b": 38.4, "78b": 78.4},
    "internvl3_5": {"1b": 1.1, "2b": 2.3, "4b": 4.7, "8b": 8.5, "14b": 15.1, "38b": 38.4},
}
"""Billions: InternVL3.5's of its table of models (OpenGVLab's quick_start.md), InternVL3's of the hub's pages."""


@pytest.mark.parametrize("family", CARDS)
def test_internvls_of_the_cards_sizes(family):
    for size, billions in CARDS[family].items():
        settings = preset_dict(f"{family}-{size}")
        assert round(summary(settings)["base"] / 1e9, 1) == billions, size
        assert settings["text_config"]["model_type"] == {"internvl3": "qwen2", "internvl3_5": "qwen3"}[family]
    _is_its_own_class_on_meta(f"{family}-8b")


def _is_its_own_class_on_meta(name):
    """Names and shapes; by arithmetic too."""
    settings, config = preset_dict(name), preset(name)
    with torch.device("meta"):
        model = new_model(config)
        base = theirs_empty(model)
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in model.parts().items()}
    assert sizes == count(settings)
    known = {k: v.shape for k, v in model.state_dict().items()}
    own_names = {k: v.shape for k, v in base.state_dict().items()}
    assert own_names.items() <= known.items()
    published = [model.base.published_name(k) for k in own_names]
    assert set(model.base.origins(published, "native")) == set(own_names)


def theirs_empty(model):
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures", "vq_config")}
    return named(model.base.model_class)(named(model.base.config_class)(**known))


@pytest.mark.parametrize("begin", ["<|im_start|>", "<|begin_of_text|>", None])
def test_the_tokenizer_says_which_of_two_bases_a_folder_is(begin, tmp_path):
    """The first SmolVLMs were published as `idefics3`; a template of neither (granite-docling's) is refused."""
    name = {"<|im_start|>": "smolvlm"}.get(begin, "idefics3")
    tokenizer = build_word_tokenizer(WORDS, base=name)
    if begin is None:
        text = tokenizer.backend_tokenizer.to_str().replace("<|begin_of_text|>", "<|start_of_role|>")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(text), unk_token="<unk>")
    model = spread(new_model(preset(f"tiny-{name}", vocab_size=len(tokenizer))))
    theirs(model).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "model_type": "idefics3"}))
    if begin is None:
        with pytest.raises(UserError, match=r"does not know <\|im_start\|> or <\|begin_of_text\|>"):
            build(str(tmp_path / "base"), None, tmp_path / "armor", adapter_layers=1)
        return
    build(str(tmp_path / "base"), None, tmp_path / "armor", adapter_layers=1)
    assert json.loads((tmp_path / "armor/config.json").read_text())["model_type"] == f"armor-{name}"
    export(tmp_path / "armor", tmp_path / "plain")
    assert json.loads((tmp_path / "plain/config.json").read_text())["model_type"] == name


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_be_built_on_is_named(name, tmp_path):
    base = find_base(name)
    with pytest.raises(UserError, match="unknown weight surprise"):
        base.origins(["surprise"], "native")
    with pytest.raises(UserError, match=r"config\.json is not usable|is not supported"):
        base.read_config({"model_type": name, "text_config": {"model_type": "gpt2"}, "vision_config": 7})


def test_a_configuration_of_which_no_model_can_be_made_is_one_line():
    config = preset("tiny-smolvlm")
    config.vision_config.patch_size = 0
    with pytest.raises(UserError, match=r"no model can be made of the base's config\.json: integer division"):
        plan(None, find_base("smolvlm"), "native", config, {}, "copy", None, 0)
