"""Generation: batched = single, cached = uncached, mixed rows, forced and free ends, seeds, history, guidance."""

import pytest
import torch
from PIL import Image

from armor_model import ArmorError, GenerationSettings, draw, generate, stream
from armor_model.generation.api import UNCONDITIONAL
from armor_model.generation.state import uniforms
from armor_model.generation.static import choose

SAMPLED = GenerationSettings(max_new_tokens=16, temperature=1.0, max_images=2)


@pytest.fixture
def recorded(monkeypatch):
    """Logits of every choice, in order."""
    seen = []

    def record(logits, *arguments):
        seen.append(logits.clone())
        return choose(logits, *arguments)

    for module in ("steps", "static"):
        monkeypatch.setattr(f"armor_model.generation.{module}.choose", record)
    return seen


def step_by_step(model, processor, conversation, settings, seed):
    """The slow reference: no cache, both heads and the whole sequence at every step, one row."""
    config = model.config
    ids = processor.encode([conversation], add_generation_prompt=True)
    embeds = model.embed(ids["input_ids"], ids["pixel_values"])
    positions = model.place(ids["input_ids"], ids["pixel_values"])
    u, said, drawing, codes, images, texts, logs = uniforms(seed, 10_000), [], False, 0, 0, 0, []
    while True:
        with torch.no_grad():
            hidden = model.backbone(embeds, position_ids=positions)
            text = model.text_logits(hidden[:, -1])
            visual = model.visual_logits(model.visual_hidden(hidden, position_ids=positions)[:, -1])[:, 2:]
            if drawing and settings.guided:  # the empty prompt, with what this image has so far
                without = processor.encode([UNCONDITIONAL], add_generation_prompt=True)["input_ids"]
                without = model.embed(torch.cat([without, torch.tensor([said[-codes - 1 :]])], 1))
                bare = model.visual_logits(model.visual_hidden(model.backbone(without))[:, -1])[:, 2:]
                visual = bare + settings.guidance * (visual - bare)
        step = torch.tensor([u[len(said)]], dtype=torch.float64)
        if drawing and codes == config.codes_per_image:
            token, drawing, images = config.imgend_id, False, images + 1
        elif drawing:
            logs.append(visual)
            token = config.first_code_id + int(choose(visual, step, settings.image_temperature))
            codes += 1
        else:
            if images >= settings.images:
                text[:, -1] = float("-inf")
            logs.append(text)
            token = int(choose(text, step, settings.temperature))
            texts += 1
            drawing, codes = token == config.imgbos_id, 0
        said.append(token)
        new = model.embed(torch.tensor([[token]]))
        embeds = torch.cat([embeds, torch.nn.functional.pad(new, (0, embeds.shape[-1] - new.shape[-1]))], 1)
        positions = None if positions is None else torch.cat([positions, positions[:, -1:] + 1], 1)
        over = texts >= settings.max_new_tokens and not drawing
        if token in processor.stop_ids or over:
            return said, logs


@pytest.mark.parametrize(
    "settings", [SAMPLED, GenerationSettings(max_new_tokens=12, image_temperature=0, max_images=1)]
)
def test_cached_batch_equals_the_slow_reference(talker, conversations, settings):
    model, processor = talker
    seeds = [11, 12, 13]
    answers = generate(model, processor, conversations, settings, seeds)
    for conversation, answer, seed in zip(conversations, answers, seeds, strict=True):
        assert answer.tokens == step_by_step(model, processor, conversation, settings, seed)[0]


def test_rows_do_switch(talker, conversations):
    """The tests above must see text, pictures, and text after a picture."""
    model, processor = talker
    answers = generate(model, processor, conversations * 4, SAMPLED, list(range(12)))
    kinds = [tuple("t" if isinstance(p, str) else "i" for p in answer.parts) for answer in answers]
    assert any("i" in k for k in kinds) and any("i" not in k for k in kinds)
    assert any(k[i : i + 2] == ("i", "t") for k in kinds for i in range(len(k)))
    for answer in answers:
        assert answer.stats["imgbos"] == len(answer.images) == len(answer.codes)
        assert (answer.stats["adapter_steps"] > 0) == bool(answer.images)
        assert all(len(codes) == 16 for codes in answer.codes)


def test_batch_equals_single_and_does_not_depend_on_neighbours(talker, conversations):
    model, processor = talker
    many = generate(model, processor, conversations * 3, SAMPLED, list(range(9)))
    for i in (0, 4, 8):
        [alone] = generate(model, processor, [conversations[i % 3]], SAMPLED, [i])
        assert alone.tokens == many[i].tokens and alone.text == many[i].text
        assert [list(x.getdata()) for x in alone.images] == [list(x.getdata()) for x in many[i].images]
    small = generate(model, processor, conversations * 3, SAMPLED, list(range(9)), batch_size=2)
    assert [a.tokens for a in small] == [a.tokens for a in many]


def test_cached_logits_equal_uncached(talker, conversations, recorded):
    """fp32 logits of every step within 1e-4 of a pass over the whole sequence."""
    model, processor = talker
    seen = recorded
    settings = GenerationSettings(max_new_tokens=6, temperature=1.0, max_images=1, force_image=True)
    [answer] = generate(model, processor, conversations[:1], settings, [3])
    prompt = processor.encode(conversations[:1], add_generation_prompt=True)["input_ids"]
    whole = torch.cat([prompt, torch.tensor([answer.tokens])], 1)
    with torch.no_grad():
        hidden = model.backbone(model.embed(whole))
        text, visual = model.text_logits(hidden)[0], model.visual_logits(model.visual_hidden(hidden))[0]
    first = prompt.shape[1]
    for k in range(16):
        assert torch.allclose(seen[k][0], visual[first + k, 2:], atol=1e-4)
    for k, logits in enumerate(seen[16:]):
        keep = logits[0].isfinite()
        assert torch.allclose(logits[0][keep], text[first + 17 + k][keep], atol=1e-4)


def test_seeds(talker):
    model, processor = talker
    prompts = ["a red circle"] * 3
    first, same, other = draw(model, processor, prompts, seeds=[1, 1, 2])
    assert list(first.getdata()) == list(same.getdata()) != list(other.getdata())


def test_draw_begins_with_a_image_and_stops(talker):
    model, processor = talker
    images = draw(model, processor, ["draw a red circle", "a picture"], seeds=[0, 1])
    assert [image.size for image in images] == [(32, 32)] * 2


def test_masked_imgbos_is_counted(talker, conversations):
    model, processor = talker
    free = generate(model, processor, conversations * 4, SAMPLED, list(range(12)))
    barred = generate(
        model, processor, conversations * 4, GenerationSettings(max_new_tokens=16, allow_images=False), list(range(12))
    )
    assert any(answer.images for answer in free) and not any(answer.images for answer in barred)
    assert sum(answer.stats["imgbos_masked"] for answer in barred) > 0


def test_free_imgend_may_end_early(make_model):
    model, processor = make_model(seed=2)
    with torch.no_grad():
        model.visual_head.weight[0] = 0
    settings = GenerationSettings(free_imgend=True, image_temperature=5.0, force_image=True, stop_after_image=True)
    answers = generate(model, processor, [[{"role": "user", "content": "a red circle"}]] * 8, settings)
    assert sum(answer.stats["early_ends"] for answer in answers) > 0
    for answer in answers:
        assert len(answer.codes[0]) == 16 and answer.images[0].size == (32, 32)
    never = generate(model, processor, [[{"role": "user", "content": "a"}]] * 8, GenerationSettings(force_image=True))
    assert sum(answer.stats["early_ends"] for answer in never) == 0
    assert all(model.config.imgpad_id not in answer.tokens for answer in [*answers, *never])


def test_multi_turn_with_a_drawn_image_in_the_history(talker):
    model, processor = talker
    talk = [{"role": "user", "content": "draw a red circle"}]
    settings = GenerationSettings(max_new_tokens=5, force_image=True, max_images=1)
    [answer] = generate(model, processor, [talk], settings, [4])
    talk += [answer.message(), {"role": "user", "content": "what is it ?"}]
    ids = processor.encode_one(talk, add_generation_prompt=True).ids
    start = ids.index(model.config.imgbos_id)
    codes = [i - model.config.first_code_id for i in ids[start + 1 : start + 17]]
    assert codes == answer.codes[0] and ids[start + 17] == model.config.imgend_id
    [second] = generate(model, processor, [talk], SAMPLED, [5])
    assert second.tokens == step_by_step(model, processor, talk, SAMPLED, 5)[0]


def test_single_head_arm_generates(make_model, conversations):
    model, processor = make_model(heads="single", seed=3)
    answers = generate(model, processor, conversations, SAMPLED, [1, 2, 3])
    [alone] = generate(model, processor, conversations[1:2], SAMPLED, [2])
    assert alone.tokens == answers[1].tokens
    assert draw(model, processor, ["a red circle"])[0].size == (32, 32)


def test_guidance_combines_with_and_without_the_prompt(talker, recorded):
    """logits = without + g * (with - without), the one without from an empty prompt and the same codes."""
    model, processor = talker
    seen = recorded
    settings = GenerationSettings(guidance=2.5, force_image=True, stop_after_image=True)
    talks = [[{"role": "user", "content": text}] for text in ("not a picture of it", "draw a red circle")]
    answers = generate(model, processor, talks, settings, [1, 2])
    for r, (talk, answer) in enumerate(zip(talks, answers, strict=True)):
        logits = []
        for conversation in (talk, [{"role": "user", "content": ""}]):
            prompt = processor.encode([conversation], add_generation_prompt=True)["input_ids"]
            whole = torch.cat([prompt, torch.tensor([answer.tokens])], 1)
            with torch.no_grad():
                visual = model.visual_logits(model.visual_hidden(model.backbone(model.embed(whole))))[0, :, 2:]
            logits.append(visual[prompt.shape[1] : prompt.shape[1] + 16])
        expected = logits[1] + 2.5 * (logits[0] - logits[1])
        assert torch.allclose(torch.stack([step[r] for step in seen]), expected, atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_guided_rows_with_several_images_equal_the_slow_reference(talker, conversations, temperature):
    """Rows that draw again while others write, or begin: an image's hidden states may not be asked for a second time,
    which a new unconditional row once did. In one batch, through few places, and alone."""
    model, processor = talker
    settings = GenerationSettings(max_new_tokens=24, temperature=temperature, max_images=4, guidance=2.0)
    many = generate(model, processor, conversations * 4, settings, list(range(12)))
    few = generate(model, processor, conversations * 4, settings, list(range(12)), batch_size=3)
    assert [a.tokens for a in few] == [a.tokens for a in many]
    assert [a.codes for a in few] == [a.codes for a in many]
    several = [i for i in range(12) if len(many[i].images) > 1]
    assert several and any(not answer.images for answer in many)
    for i in several[:2]:
        talk = conversations[i % 3]
        [alone] = generate(model, processor, [talk], settings, [i])
        assert alone.tokens == many[i].tokens == step_by_step(model, processor, talk, settings, i)[0]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_image_does_not_depend_on_its_batch(talker, guidance):
    """Same seeds: same pictures for any batch size and order, with prompts of different lengths."""
    model, processor = talker
    prompts = ["a red circle", "not a picture of it", "draw it", "a circle and a picture of a red circle"] * 3
    settings, seeds = GenerationSettings(guidance=guidance), list(range(12))
    alone = [draw(model, processor, [p], settings, [s])[0].tobytes() for p, s in zip(prompts, seeds, strict=True)]
    assert len(set(alone)) > 6
    for batch_size in (2, 5, 64):
        for order in (list(range(11, -1, -1)), [(5 * i) % 12 for i in range(12)]):
            drawn = draw(model, processor, [prompts[i] for i in order], settings, [seeds[i] for i in order], batch_size)
            assert [image.tobytes() for image in drawn] == [alone[i] for i in order]


def test_answers_stream_as_they_finish(talker, conversations):
    """Every answer once, short ones first, equal to `generate`'s; a bad one does not stop the rest."""
    model, processor = talker
    many = [*conversations * 4, [{"role": "user", "content": ""}]]
    whole = generate(model, processor, many, SAMPLED, on_error="record")
    order = []
    for i, answer in stream(model, processor, many, SAMPLED, batch_size=4, on_error="record"):
        order.append(i)
        assert (answer.tokens, answer.text, answer.error) == (whole[i].tokens, whole[i].text, whole[i].error)
    assert sorted(order) == list(range(len(many))) and order != sorted(order)
    assert order[0] == len(many) - 1 and "empty" in whole[-1].error


def test_context_is_never_exceeded(make_model):
    model, processor = make_model(seed=4, text={"max_position_embeddings": 40})
    talk = [{"role": "user", "content": "a " * 20}]
    [answer] = generate(model, processor, [talk], GenerationSettings(temperature=3.0, max_new_tokens=500), [1])
    assert len(processor.encode_one(talk, True).ids) + len(answer.tokens) <= 41 and not answer.images
    with pytest.raises(ArmorError, match="context"):
        draw(model, processor, ["a " * 20])


def test_choose():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(4, -1)
    u = torch.tensor([0.0, 0.49, 0.51, 0.999])
    assert choose(logits, u, 1.0).tolist() == [0, 0, 1, 3]
    assert choose(logits, u, 0.0).tolist() == [0, 0, 0, 0]
    assert choose(logits, u, 1.0, top_k=2).tolist() == [0, 0, 0, 1]
    assert choose(logits, u, 1.0, top_p=0.7).tolist() == [0, 0, 0, 1]
    assert choose(logits, u, 1.0, top_p=0.5).tolist() == [0, 0, 0, 0]
    many = torch.linspace(0, 0.9999, 10_000)
    share = choose(logits[:1].expand(10_000, -1), many, 1.0).bincount() / 10_000
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=1e-3)


@pytest.mark.parametrize(
    ("talk", "says"),
    [
        ([], "ends with a user"),
        ([{"role": "user", "content": "  "}], "empty"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "empty"),
        ([{"role": "user", "content": []}], "empty"),
        ([{"role": "user", "content": "a \udcff"}], "valid Unicode"),
        ([{"role": "assistant", "content": "a"}], "ends with a user"),
        ([{"role": "user", "content": [{"type": "image"}]}], "a part is"),
        ([{"role": "user", "content": "a " * 2000}], "context"),
        ([{"role": "user", "content": [{"type": "image", "image": "nowhere.png"}]}], "no image at"),
    ],
)
def test_bad_prompts_are_one_clear_error(pair, talk, says):
    model, processor = pair
    with pytest.raises(ArmorError, match=says):
        generate(model, processor, [talk])
    good = [{"role": "user", "content": "a red circle"}]
    bad, fine = generate(model, processor, [talk, good], GenerationSettings(max_new_tokens=3), on_error="record")
    assert says in bad.error and fine.error is None and fine.tokens


@pytest.mark.parametrize("field", ["temperature", "image_temperature", "top_k", "guidance", "max_images"])
def test_settings_are_checked(field):
    with pytest.raises(ArmorError, match=field):
        GenerationSettings(**{field: -1})


def test_training_mode_is_restored(make_model):
    model, processor = make_model()
    model.train()
    generate(model, processor, [[{"role": "user", "content": "a"}]], GenerationSettings(max_new_tokens=2))
    assert model.training


def test_image_sizes_at_the_edges(pair):
    _, processor = pair
    with pytest.raises(ArmorError, match="no pixels"):
        processor.encode([[{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (0, 5))}]}]])
    with pytest.raises(ArmorError, match="megapixels"):
        processor.encode([[{"role": "user", "content": [{"type": "image", "image": Image.new("L", (20000, 10000))}]}]])


def test_a_image_that_several_ask_about_is_seen_once(talker, monkeypatch):
    model, processor = talker
    images = [Image.new("RGB", size, color) for size, color in (((16, 16), "red"), ((40, 16), "blue"))]
    words = ("what is it", "draw a red circle", "a cross", "the red circle")

    def ask(cut):
        parts = [[cut(0), cut(1)], [cut(1)], [cut(0)], [cut(1), cut(0)]]
        talks = [
            [{"role": "user", "content": [*shown, {"type": "text", "text": text}]}]
            for shown, text in zip(parts, words, strict=True)
        ]
        return generate(model, processor, talks, SAMPLED, list(range(4)))

    seen, real = [], model.model.get_image_features
    counting = lambda pixels, **rest: seen.append(len(pixels)) or real(pixels, **rest)  # noqa: E731
    monkeypatch.setattr(model.model, "get_image_features", counting)
    apart = ask(lambda i: {"type": "image", "image": images[i]})
    cut = [{"type": "image", "tiles": processor.cut(image)} for image in images]
    shared = ask(lambda i: cut[i])
    assert [r.tokens for r in shared] == [r.tokens for r in apart]
    assert len({tuple(r.tokens) for r in shared}) > 1
    one, other = (len(part["tiles"]) for part in cut)
    assert seen == [3 * one + 3 * other, one + other]
