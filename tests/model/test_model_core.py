"""The architecture: InternVL's own logits, the paper's parameter count, losses by hand, who learns, save and load."""

import subprocess
import sys

import pytest
import torch
from tests_model_helpers import stacked
from torch.nn import functional as F

from armor_model import ArmorConfig, ArmorError, ArmorForConditionalGeneration, preset
from armor_model.presets import PRESETS, block, count, preset_dict, summary


@pytest.fixture(scope="module")
def base(tokenizer):
    """A plain InternVL of transformers, and the ARMOR built around it."""
    from tests_model_helpers import internvl

    return internvl(len(tokenizer))


def test_original_logits_are_internvls(pair, base, conversations):
    _, processor = pair
    armor = ArmorForConditionalGeneration.from_base(
        base, codebook_size=16, image_grid=4, num_adapter_layers=2, vq_config=PRESETS["tiny"]["vq_config"]
    ).eval()
    batch = processor.encode(conversations, add_generation_prompt=True)
    with torch.no_grad():
        embeds = armor.embed(batch["input_ids"], batch["pixel_values"])
        hidden = armor.backbone(embeds, batch["attention_mask"])
        # position ids as transformers' own `generate` counts them
        expected = base(**stacked(batch), position_ids=armor.positions(batch["attention_mask"], embeds)).logits
        logits = armor.text_logits(hidden)
    V, real = base.config.text_config.vocab_size, batch["attention_mask"].bool()
    assert logits.shape[-1] == V + 1
    assert torch.equal(logits[..., :V][real], expected[real])


def test_greedy_tokens_are_internvls(pair, base, conversations):
    from armor_model import GenerationSettings, generate

    _, processor = pair
    armor = ArmorForConditionalGeneration.from_base(
        base, codebook_size=16, image_grid=4, num_adapter_layers=2, vq_config=PRESETS["tiny"]["vq_config"]
    ).eval()
    answers = generate(armor, processor, conversations, GenerationSettings(max_new_tokens=20, allow_images=False))
    for conversation, answer in zip(conversations, answers, strict=True):
        batch = processor.encode([conversation], add_generation_prompt=True)
        batch = {name: value for name, value in stacked(batch).items() if value is not None}
        said = base.generate(
            **batch, max_new_tokens=20, do_sample=False, eos_token_id=processor.stop_ids, pad_token_id=processor.pad_id
        )
        assert answer.tokens == said[0, batch["input_ids"].shape[1] :].tolist()
        assert answer.stats["adapter_steps"] == 0


def test_three_blocks_at_8b_add_the_papers_0_7_billion():
    """218.1 M a block; 3 blocks + embeddings + visual head = 721.5 M new (8.9 % of 8.08 B, not the paper's ~7 %)."""
    config = preset("internvl2_5-8b")
    with torch.device("meta"):
        model = ArmorForConditionalGeneration(config)
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in model.parts().items()}
    assert sizes == count(preset_dict("internvl2_5-8b"))
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())
    new = summary(preset_dict("internvl2_5-8b"))
    assert new["new"] == 721_473_536
    assert block(preset_dict("internvl2_5-8b")["text_config"]) == 218_112_000
    assert round(new["new_percent"], 1) == 8.9


@pytest.mark.parametrize(
    ("size", "published"),
    [
        ("1b", 938_193_024),
        ("2b", 2_205_754_368),
        ("4b", 3_712_637_952),
        ("8b", 8_075_365_376),
        ("26b", 25_514_186_112),
        ("38b", 38_388_164_992),
        ("78b", 78_408_318_336),
    ],
)
def test_published_totals(size, published):
    assert summary(preset_dict(f"internvl2_5-{size}"))["base"] == published


@pytest.mark.parametrize("name", ["internvl2_5-1b", "internvl2_5-26b", "tiny", "armor-nano"])
@pytest.mark.parametrize("heads", ["switching", "single"])
def test_parameter_arithmetic_equals_the_built_model(name, heads):
    with torch.device("meta"):
        model = ArmorForConditionalGeneration(preset(name, heads=heads))
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in model.parts().items()}
    assert sizes == count({**preset_dict(name), "heads": heads})


@pytest.mark.parametrize("bias", [False, True])
def test_parameter_arithmetic_knows_qwen3(bias):
    """InternVL3.5's text tower: norms of queries and keys, no biases unless the configuration says so."""
    text = {"model_type": "qwen3", "head_dim": 16, "attention_bias": bias}
    settings = preset_dict("tiny")
    settings["text_config"] |= text
    with torch.device("meta"):
        model = ArmorForConditionalGeneration(ArmorConfig(**settings))
    sizes = {part: sum(p.numel() for p in parameters) for part, parameters in model.parts().items()}
    assert sizes == count(settings)


def test_the_memory_of_a_stage_holds_masters_gradients_and_moments():
    """Stage 3 of the 8B: 1.10 B parameters learn, 17.6 GB beside the frozen weights."""
    found = summary(preset_dict("internvl2_5-8b"))["training_bytes"]
    assert [round(n / 1e9, 1) for n in found.values()] == [6.6, 11.5, 17.6]


def test_token_ids():
    config = preset("tiny", vocab_size=30)
    assert (config.imgbos_id, config.imgend_id, config.imgpad_id, config.first_code_id) == (30, 31, 32, 33)
    assert (config.num_new_tokens, config.last_id, config.codes_per_image) == (19, 48, 16)


@pytest.mark.parametrize(
    "settings", [{"heads": "three"}, {"tie_word_embeddings": True}, {"codebook_size": 0}, {"num_adapter_layers": -1}]
)
def test_configuration_refuses_nonsense(settings):
    with pytest.raises(ArmorError):
        preset("tiny", **settings)


def test_losses_by_hand(pair):
    """Equations (1)-(3) on one row: the text head is asked for two tokens, the visual head for two."""
    model, _ = pair
    c = model.config
    ids = torch.tensor([[1, 7, 11, c.imgbos_id, c.first_code_id + 5, c.imgend_id, 9]])
    text = torch.full_like(ids, -100)
    image = torch.full_like(ids, -100)
    text[0, 2], text[0, 5] = c.imgbos_id, 9
    image[0, 3], image[0, 4] = c.first_code_id + 5, c.imgend_id
    with torch.no_grad():
        out = model(ids, text_labels=text, image_labels=image, alpha=0.5, beta=2.0)
        hidden = model.backbone(model.embed(ids))
        text_logits = model.text_logits(hidden)[0]
        visual_logits = model.visual_logits(model.visual_hidden(hidden))[0]
    p1 = text_logits.softmax(-1)
    p2 = visual_logits.softmax(-1)
    text_loss = -(p1[2, c.imgbos_id].log() + p1[5, 9].log()) / 2
    image_loss = -(p2[3, 2 + 5].log() + p2[4, 0].log()) / 2
    assert visual_logits.shape[-1] == c.codebook_size + 2
    assert torch.allclose(out.text_loss, text_loss, atol=1e-6)
    assert torch.allclose(out.image_loss, image_loss, atol=1e-6)
    assert torch.allclose(out.loss, 0.5 * text_loss + 2.0 * image_loss, atol=1e-6)
    assert (out.text_tokens, out.image_tokens) == (2, 2)


def test_single_head_losses(make_model):
    """The Normal arm asks one head over everything; its image loss is also given over the image tokens alone."""
    model, _ = make_model(heads="single")
    c = model.config
    ids = torch.tensor([[1, 7, c.imgbos_id, c.first_code_id + 5, c.imgend_id, 9]])
    text, image = torch.full_like(ids, -100), torch.full_like(ids, -100)
    text[0, 1], image[0, 2] = c.imgbos_id, c.first_code_id + 5
    with torch.no_grad():
        out = model(ids, text_labels=text, image_labels=image)
        logits = model.visual_logits(model.visual_hidden(model.backbone(model.embed(ids))))[0]
    assert logits.shape[-1] == c.vocab_size + c.codebook_size + 3
    assert torch.allclose(out.text_loss, F.cross_entropy(logits[1:2], torch.tensor([c.imgbos_id])), atol=1e-6)
    assert torch.allclose(out.image_loss, F.cross_entropy(logits[2:3], torch.tensor([c.first_code_id + 5])), atol=1e-6)
    inside = F.cross_entropy(logits[2:3, c.imgend_id :], torch.tensor([2 + 5]))
    assert torch.allclose(out.image_loss_image_tokens, inside, atol=1e-6)


def test_only_new_rows_and_asked_parts_learn(make_model):
    model, _ = make_model()
    model = model.train()
    c = model.config
    for name, parameters in model.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(name in ("new_embeddings", "adapter", "visual_head"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    ids = torch.tensor([[1, 7, c.imgbos_id, c.first_code_id + 5, c.first_code_id + 6]])
    image = torch.full_like(ids, -100)
    image[0, 2:4] = ids[0, 3:5]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(ids, image_labels=image).loss.backward()
    assert model.new_embeddings.grad[[0, 3 + 5]].abs().sum(1).gt(0).all()
    assert model.new_embeddings.grad[[1, 2, 3, 3 + 7]].abs().sum() == 0
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(k.startswith(("new_embeddings", "adapter", "visual_head")) for k in changed)


def test_a_weight_of_zero_runs_no_head(pair, monkeypatch):
    model, _ = pair
    monkeypatch.setattr(model, "visual_hidden", lambda *a, **k: pytest.fail("the adapter ran"))
    ids = torch.tensor([[1, 7, model.config.imgbos_id, model.config.first_code_id]])
    image = torch.full_like(ids, -100)
    image[0, 2] = model.config.first_code_id
    out = model(ids, text_labels=ids.clamp(max=9), image_labels=image, beta=0.0)
    assert out.image_loss is None and out.loss is not None


def test_padding_changes_nothing(pair, conversations):
    """Left, right or no padding: the same losses' logits at the real tokens."""
    model, processor = pair
    one = processor.encode([conversations[0]])
    both = {side: processor.encode(conversations, padding_side=side) for side in ("left", "right")}
    with torch.no_grad():
        alone = model.visual_hidden(model.backbone(model.embed(one["input_ids"])))[0]
        for batch in both.values():
            hidden = model.backbone(model.embed(batch["input_ids"], batch["pixel_values"]), batch["attention_mask"])
            visual = model.visual_hidden(hidden, batch["attention_mask"])
            assert torch.allclose(visual[0][batch["attention_mask"][0].bool()], alone, atol=1e-4)


def test_packed_rows_equal_separate_rows(pair):
    """Two texts in one row, kept apart by position ids that start again."""
    model, _ = pair
    first, second = torch.tensor([[1, 7, 9]]), torch.tensor([[2, 8, 5, 4]])
    packed = torch.cat([first, second], 1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    with torch.no_grad():
        together = model.backbone(model.embed(packed), position_ids=positions)
        apart = [model.backbone(model.embed(ids)) for ids in (first, second)]
    assert torch.allclose(together, torch.cat(apart, 1), atol=1e-5)


def test_adapter_copies_the_last_blocks(base):
    armor = ArmorForConditionalGeneration.from_base(
        base, codebook_size=16, image_grid=4, num_adapter_layers=2, vq_config=PRESETS["tiny"]["vq_config"]
    )
    last = armor.model.language_model.layers[-2:]
    for new, old in zip(armor.adapter, last, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), old.state_dict().values(), strict=True))
    assert torch.equal(armor.adapter_norm.weight, armor.model.language_model.norm.weight)
    assert 0.01 < armor.new_embeddings.std() < 0.04


@pytest.mark.parametrize("text", ["qwen2", "llama"])
def test_text_towers_of_both_kinds(text):
    config = preset_dict("tiny")
    config["text_config"] |= {"model_type": text, "num_key_value_heads": 2}
    model = ArmorForConditionalGeneration(ArmorConfig(**config))
    assert model(torch.tensor([[1, 2]]), text_labels=torch.tensor([[2, 3]])).loss.isfinite()


def test_labels_of_the_wrong_head_are_refused(pair):
    model, _ = pair
    ids = torch.tensor([[1, 2]])
    with pytest.raises(ArmorError, match="text head"):
        model(ids, text_labels=torch.tensor([[model.config.imgend_id, -100]]))
    with pytest.raises(ArmorError, match="image head"):
        model(ids, image_labels=torch.tensor([[3, -100]]))


def test_import_and_help_need_no_torch():
    heavy = "any(m in sys.modules for m in ('torch', 'transformers'))"
    code = f"import sys, armor_model, armor_model.cli; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
