"""Every base beside InternVL: its own class's logits and greedy tokens, positions, batches, caches, packing, stages,
files there and back. What holds of one base is asked of each."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_model_generation import step_by_step
from tests_model_helpers import spread

from armor_model import ArmorProcessor, GenerationSettings, build_word_tokenizer, generate, new_model, preset
from armor_model.bases import BASES, named
from armor_model.generation import PrefixCache
from armor_model.presets import count, preset_dict

OTHERS = [name for name in BASES if name != "internvl"]
TILED = ("smolvlm", "idefics3")
"""Bases of one code, whose class counts padding along in a plain forward."""
WORDS = [*"what is there ? . , a red circle the image draw of and not it you are helpful assistant".split()]  # noqa: SIM905


def slow_if(much, name):
    return pytest.param(name, marks=[pytest.mark.slow] * much)


# Idefics3 runs SmolVLM's code: all of this is asked of it among the slow tests.
@pytest.fixture(scope="module", params=[slow_if(name == "idefics3", name) for name in OTHERS])
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


def test_images_in_a_row_and_text_behind_them_are_placed_alike(pair, conversations, monkeypatch):
    """Two drawn images, one behind the other, then words, after a prompt that shows two: each step of generation stands
    where training places its token, on every axis."""
    model, processor = pair
    turned, asked, backbone, logits = [], [], model.backbone, model.text_logits

    def spied(embeds, mask=None, position_ids=None, cache=None, rotary=None):
        if embeds.shape[1] == 1:
            turned.append((rotary or model.rotary(embeds, position_ids))[0].squeeze())
        return backbone(embeds, mask, position_ids, cache, rotary)

    def scripted(hidden):
        asked.append(1)
        scores = logits(hidden)
        scores[..., model.config.image_token_id] = -1e4  # said as a word, it would read as an image below
        scores[..., -1] = 1e4 if len(asked) <= 2 else -1e4
        return scores

    monkeypatch.setattr(model, "backbone", spied)
    monkeypatch.setattr(model, "text_logits", scripted)
    settings = GenerationSettings(max_new_tokens=6, max_images=2)
    [answer] = generate(model, processor, [conversations[2]], settings)
    monkeypatch.undo()
    image = [processor.imgbos_id, *[-1] * 16, processor.imgend_id]
    shape = [-1 if t >= model.config.first_code_id else t for t in answer.tokens]
    assert shape[: 2 * len(image)] == 2 * image and len(shape) > 2 * len(image) + 1
    row = processor.encode_one(conversations[2], add_generation_prompt=True)
    ids = torch.tensor([row.ids + answer.tokens])
    placed = model.place(ids, row.tiles)
    placed = model.positions(None, ids) if placed is None else placed
    expected = model.rotary(model.new_embeddings, placed)[0].reshape(-1, ids.shape[1], turned[0].shape[-1])[0]
    expected = expected[len(row.ids) : -1]
    assert torch.allclose(torch.stack(turned), expected, atol=1e-5)
    assert (expected[1:] - expected[:-1]).abs().amax(-1).min() > 1e-3  # one further would show
    if placed.ndim == 3:  # the seen images took fewer positions than slots
        steps = placed[0, len(row.ids) :].tolist()
        assert all(time < count and time == height == width for count, time, height, width in steps)
