"""Every base beside InternVL: its own class's logits and greedy tokens, positions, batches, caches, packing, stages,
files there and back. What holds of one base is asked of each."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_model_generation import step_by_step
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from armor_model import (
    ArmorProcessor,
    GenerationSettings,
    build_word_tokenizer,
    generate,
    load,
    new_model,
    preset,
    save,
)
from armor_model.base.errors import UserError
from armor_model.bases import BASES, find_base, named
from armor_model.convert.build import build
from armor_model.convert.export import export
from armor_model.generation import PrefixCache
from armor_model.presets import count, preset_dict, summary

OTHERS = [name for name in BASES if name != "internvl"]
TILED = ("smolvlm", "idefics3")
"""Bases of one code, whose class counts padding along in a plain forward."""
WORDS = [*"what is there ? . , a red circle the image draw of and not it you are helpful assistant".split()]  # noqa: SIM905


def spread(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


@pytest.fixture(scope="module", params=OTHERS)
def pair(request):
    """A tiny ARMOR on the base, whose <imgbos> wins now and then, and its processor."""
    tokenizer = build_word_tokenizer(WORDS, base=request.param)
    tiny = "tiny" if request.param == "internvl" else f"tiny-{request.param}"
    config = preset(tiny, vocab_size=len(tokenizer), text={"bos_token_id": None, "eos_token_id": None})
    model = spread(new_model(config), 3)
    processor = ArmorProcessor.for_config(tokenizer, config)
    if request.param in TILED:  # an image of several tiles
        processor.settings.pixels["longest"] = 64
    batch = processor.encode([[{"role": "user", "content": "draw a red circle"}]], add_generation_prompt=True)
    with torch.no_grad():
        hidden = model.decoder.norm(model.backbone(model.embed(batch["input_ids"])))
        along = hidden[0, -6:].mean(0, keepdim=True)
        model.imgbos_head.weight.copy_(along * (0.5 if request.param in TILED else 0.3))
    return model, processor


@pytest.fixture(scope="module")
def conversations():
    red, noise = Image.new("RGB", (40, 30), "red"), Image.effect_noise((90, 33), 80).convert("RGB")

    def shown(*parts):
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in parts]
        return [{"role": "user", "content": content}]

    return [
        shown("draw a red circle"),
        shown(red, "what is there ?"),
        shown("what is it ?", noise, "and", red, "not it . it is not red and not a circle"),
        [*shown(noise, "what is it ?"), {"role": "assistant", "content": "a circle"}, *shown("and", red, "?")],
    ]


def theirs(model):
    """The base's own class with the model's weights."""
    own = {k: v for k, v in model.state_dict().items() if k.startswith(("model.", "lm_head."))}
    known = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "architectures", "vq_config")}
    base = named(model.base.model_class)(named(model.base.config_class)(**known)).eval()
    base.load_state_dict(own)
    return base


def inputs_of(processor, batch):
    """A batch of ours as the base's own class takes it."""
    images, ids = batch["pixel_values"], batch["input_ids"]
    given = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    if not images:
        return given
    if processor.base.name in TILED:
        tiles = [image.flatten(0, 1)[: (len(image) - 1) * image.shape[1] + 1] for image in images]
        return {**given, "pixel_values": torch.cat(tiles)[None]}
    from armor_model.bases.qwen_vl import _patches

    vision = preset(f"tiny-{processor.base.name}").vision_config
    patches = torch.cat([_patches(image, vision) for image in images])
    grid = [[1, i.shape[1] // vision.patch_size, i.shape[2] // vision.patch_size] for i in images]
    kinds = (ids == processor.settings.image_token_id).int()
    return {**given, "pixel_values": patches, "image_grid_thw": torch.tensor(grid), "mm_token_type_ids": kinds}


def hidden_of(model, batch):
    place = model.place(batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    embeds = model.embed(batch["input_ids"], batch["pixel_values"])
    return model.backbone(embeds, batch["attention_mask"], place), place


def test_text_logits_are_the_bases_own(pair, conversations):
    """Batches padded on the left, several images, several turns."""
    model, processor = pair
    batch = processor.encode(conversations, add_generation_prompt=True)
    inputs, real = inputs_of(processor, batch), batch["attention_mask"].bool()
    with torch.no_grad():
        ours = model.text_logits(hidden_of(model, batch)[0])[..., :-1]
        if processor.base.name in TILED:  # transformers counts padding along in a plain forward, not in generate
            inputs["position_ids"] = model.positions(batch["attention_mask"], batch["input_ids"])
        expected = theirs(model)(**inputs).logits
    assert (ours - expected)[real].abs().max() <= 1e-4
    assert expected[real].std() > 0.1


def test_greedy_tokens_are_the_bases_own(pair, conversations):
    model, processor = pair
    settings = GenerationSettings(max_new_tokens=20, allow_images=False)
    answers, base = generate(model, processor, conversations, settings), theirs(model)
    for conversation, answer in zip(conversations, answers, strict=True):
        inputs = inputs_of(processor, processor.encode([conversation], add_generation_prompt=True))
        said = base.generate(
            **inputs, max_new_tokens=20, do_sample=False, eos_token_id=processor.stop_ids, pad_token_id=0
        )
        assert answer.tokens == said[0, inputs["input_ids"].shape[1] :].tolist()
    assert len({tuple(answer.tokens) for answer in answers}) > 2


SETTINGS = {
    "mixed": GenerationSettings(max_new_tokens=14, temperature=1.0, max_images=2),
    "text": GenerationSettings(max_new_tokens=10, temperature=1.0, allow_images=False),
    "image": GenerationSettings(max_new_tokens=1, force_image=True, stop_after_image=True),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_batches_and_caches_change_no_answer(pair, conversations, kind):
    """In a batch, alone, with room for two at a time, and step by step without a cache; text, images, and both."""
    model, processor = pair
    settings, seeds = SETTINGS[kind], list(range(len(conversations)))
    together = generate(model, processor, conversations, settings, seeds)
    refilled = generate(model, processor, conversations, settings, seeds, batch_size=2)
    alone = [generate(model, processor, [c], settings, [s])[0] for c, s in zip(conversations, seeds, strict=True)]
    assert [r.tokens for r in together] == [r.tokens for r in alone] == [r.tokens for r in refilled]
    if kind == "mixed":
        slow = [step_by_step(model, processor, c, settings, s)[0] for c, s in zip(conversations, seeds, strict=True)]
        assert [r.tokens for r in together] == slow
        assert any(r.images and r.text for r in together)
    if kind == "image":
        several = generate(model, processor, conversations, replace(settings, parallel_draw=4), seeds)
        assert [r.tokens for r in several] == [r.tokens for r in together]
    assert all(bool(r.images) == (kind == "image") for r in together) or kind == "mixed"


def test_a_second_turn_goes_on_from_the_first(pair, conversations):
    """The cached prefix holds images whose placement takes fewer positions than slots, in rows of differing length."""
    model, processor = pair
    settings, prefixes = GenerationSettings(max_new_tokens=10, max_images=1), PrefixCache()
    first = generate(model, processor, conversations, settings, prefixes=prefixes)
    more = [[*c, a.message(), {"role": "user", "content": "a red"}] for c, a in zip(conversations, first, strict=True)]
    again = generate(model, processor, more, settings, prefixes=prefixes)
    assert [r.tokens for r in again] == [r.tokens for r in generate(model, processor, more, settings)]
    assert prefixes.reused > sum(len(r.tokens) for r in first)


def test_fixed_buffers_and_guidance_change_no_answer(pair, conversations):
    """The steps that a CUDA graph replays, uncaptured, over prompts whose images take fewer positions than slots."""
    from armor_model.generation.engine import Engine
    from armor_model.generation.state import Request

    model, processor = pair
    settings = GenerationSettings(max_new_tokens=8, temperature=1.0, max_images=1, guidance=2.0)
    encoded = [processor.encode_one(c, add_generation_prompt=True) for c in conversations]
    requests = [Request(row.ids, row.tiles, seed) for seed, row in enumerate(encoded)]
    bare = processor.encode_one([{"role": "user", "content": ""}], add_generation_prompt=True).ids
    with torch.no_grad():
        rows = [
            Engine(model, settings, processor.stop_ids, bare, 4, static=static).run(requests)
            for static in (False, True)
        ]
    assert [row.tokens for row in rows[0]] == [row.tokens for row in rows[1]]
    assert any(row.images for row in rows[0])


def test_packed_rows_have_the_loss_of_unpacked_ones(pair, conversations):
    from trainer.batches import collate
    from trainer.data.records import encode
    from trainer.objective import Objective
    from trainer.stages import STAGES

    model, processor = pair
    codes = list(range(16))
    talks = [[*c, {"role": "assistant", "content": [{"type": "text", "text": "a red"}]}] for c in conversations]
    talks += [[*c, {"role": "assistant", "content": [{"type": "image", "codes": codes}]}] for c in conversations]
    examples = [encode(processor, "ti2t" if i < 4 else "ti2ti", talk) for i, talk in enumerate(talks)]
    objective, sums = Objective(model, STAGES["3"]), []
    for pack_to in (None, 400):
        batch = collate(examples, processor.pad_id, processor.imgbos_id, pack_to)
        with torch.no_grad():
            sums.append(objective(batch))
    assert len(batch.input_ids) < len(examples)
    for name in ("text", "image"):
        assert float(getattr(sums[0], name)) == pytest.approx(float(getattr(sums[1], name)), rel=1e-5)


@pytest.mark.parametrize("stage", ["base", "1", "2", "3"])
def test_a_stage_trains_exactly_its_parts(pair, conversations, stage):
    from trainer.batches import collate
    from trainer.data.records import encode
    from trainer.objective import Objective, freeze
    from trainer.stages import STAGES

    model, processor = pair
    answer = [{"type": "text", "text": "a red"}, {"type": "image", "codes": list(range(16))}]
    examples = [encode(processor, "ti2ti", [*c, {"role": "assistant", "content": answer}]) for c in conversations]
    trained = freeze(model, STAGES[stage])
    sums = Objective(model, STAGES[stage], every_part=True)(collate(examples, processor.pad_id, processor.imgbos_id))
    (sums.text + sums.image).backward()
    parts = {name: part for part, parameters in model.parts().items() for name in _names(model, parameters)}
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    model.zero_grad(set_to_none=True)
    model.requires_grad_(True)
    assert {parts[name] for name in moved} == set(STAGES[stage].trains) and moved <= set(trained)
    assert set(trained) == {name for name, part in parts.items() if part in STAGES[stage].trains}


def _names(model, parameters):
    wanted = {id(p) for p in parameters}
    return [name for name, p in model.named_parameters() if id(p) in wanted]


def test_every_part_is_counted_and_every_block_is_wrapped(pair):
    model, processor = pair
    settings = preset_dict(f"tiny-{processor.base.name}")
    settings["text_config"]["vocab_size"] = model.config.vocab_size
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in model.parts().items()}
    assert sizes == count(settings) and sum(sizes.values()) == sum(p.numel() for p in model.parameters())
    assert [type(block).__name__ for block in model.blocks[-4:]] == [type(model.decoder.layers[0]).__name__] * 4
    assert len(model.blocks) == 6 and len({type(block) for block in model.blocks}) == 2
    with torch.no_grad():
        [features] = model.base.image_features(model.model, [model.base.blank(model.config)])
    assert features.shape[-1] % model.config.text_config.hidden_size == 0


def test_codes_are_placed_alike_in_training_and_generation(pair, conversations):
    """A code has the position of a text token: one more than the token before, on every axis."""
    model, processor = pair
    codes = list(range(16))
    talk = [*conversations[1], {"role": "assistant", "content": [{"type": "image", "codes": codes}]}]
    row = processor.encode_one(talk)
    placed = model.place(torch.tensor([row.ids]), row.tiles)
    if placed is None:
        placed = model.positions(None, torch.tensor([row.ids]))[..., None]
    axes = placed[0, row.ids.index(processor.imgbos_id) :]
    steps = axes.diff(dim=0)
    assert (steps == 1).all()
    if axes.shape[-1] == 4:
        h, w = row.tiles[0].shape[1] // 8, row.tiles[0].shape[2] // 8
        start = row.ids.index(processor.settings.image_token_id)
        seen = placed[0, start : start + h * w]
        assert seen[:, 1].unique().tolist() == [start] and seen[:, 3].tolist() == [start + x for x in range(w)] * h
        assert int(placed[0, start + h * w, 1]) == start + max(h, w)  # what follows goes on behind the longer side


# ---- files, sizes, pixels: against transformers' own classes --------------------------------------------------------


@pytest.fixture
def published(pair, tmp_path):
    """The base alone, as its own class saves it: a folder to build from."""
    model, processor = pair
    base, folder = theirs(model), tmp_path / "base"
    base.generation_config.eos_token_id = base.generation_config.bos_token_id = None
    base.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    for name, known in processor.base.published_files(processor).items():
        (folder / name).write_text(json.dumps(known))
    return base, folder


def test_build_and_export_are_each_others_way_back(pair, published, conversations, tmp_path):
    """The base's files -> an ARMOR with the base's logits -> its text path as the base's files, logits still equal."""
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

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
    config = preset(name)
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
