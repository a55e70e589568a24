"""Every base beside InternVL: its own class's logits and greedy tokens, positions, batches, caches, packing, stages,
files there and back. What holds of one base is asked of each."""

import json

import pytest
import torch
from PIL import Image
from test_model_generation import step_by_step

from armor_model import ArmorProcessor, GenerationSettings, build_word_tokenizer, generate, load, new_model, preset, save
from armor_model.base.errors import UserError
from armor_model.bases import BASES, find_base, named
from armor_model.convert.build import build
from armor_model.convert.export import export
from armor_model.presets import count, preset_dict, summary

OTHERS = [name for name in BASES if name != "internvl"]
WORDS = [*"what is there ? . , a red circle the image draw of and not it you are helpful assistant".split()]


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
    config = preset(f"tiny-{request.param}", vocab_size=len(tokenizer), text={"bos_token_id": None, "eos_token_id": None})
    model = spread(new_model(config), 3)
    processor = ArmorProcessor.for_config(tokenizer, config)
    if request.param == "smolvlm":  # an image of several tiles
        processor.settings.pixels["longest"] = 64
    batch = processor.encode([[{"role": "user", "content": "draw a red circle"}]], add_generation_prompt=True)
    with torch.no_grad():
        hidden = model.decoder.norm(model.backbone(model.embed(batch["input_ids"])))
        model.imgbos_head.weight.copy_(hidden[0, -6:].mean(0, keepdim=True) * 0.12)
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
    if processor.base.name == "smolvlm":
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
        if processor.base.name == "smolvlm":  # transformers counts padding along in a plain forward, not in generate
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
        said = base.generate(**inputs, max_new_tokens=20, do_sample=False, eos_token_id=processor.stop_ids, pad_token_id=0)
        assert answer.tokens == said[0, inputs["input_ids"].shape[1] :].tolist()
    assert len({tuple(answer.tokens) for answer in answers}) > 2
