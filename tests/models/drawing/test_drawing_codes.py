"""Models that draw code by code: their sampling by number, and the whole `draw` of tiny Janus and Emu3 checkpoints."""

import numpy as np
import pytest

from armor_eval.models import registry
from armor_eval.models.base import Decoding, DrawsImages
from armor_eval.models.drawing import GuidedSampling, RowSampling, is_blank
from armor_model.base.errors import UserError

PROMPTS, SEEDS = ["a photo of a bench", "two cows"], [1, 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Name -> the folder of a tiny checkpoint."""
    import tiny_drawers as tiny

    made = {}
    makers = {
        "janus": lambda f: tiny.janus(f, "top"),
        "janus-old": lambda f: tiny.janus(f, "kwargs"),
        "janus-none": lambda f: tiny.janus(f, "none"),
        "emu3": tiny.emu3,
    }

    def get(name):
        if name not in made:
            made[name] = makers[name](tmp_path_factory.mktemp("codes") / name)
        return made[name]

    return get


@pytest.fixture(scope="module")
def model(folder):
    loaded = {}

    def get(name):
        if name not in loaded:
            args = {"model_args": {"image_area": 1024, "negative_prompt": "grey"}} if name == "emu3" else {}
            kind = name.partition("-")[0]
            loaded[name] = registry.load(f"{kind}:{folder(name)}", "official", device="cpu", **args)
        return loaded[name]

    return get


def bytes_of(drawn):
    return [one.tobytes() for one in drawn]


def test_sampling_is_softmax_with_guidance_and_a_seed_a_row():
    import torch

    torch.manual_seed(0)
    scores = torch.randn(2, 6)
    wanted = (scores[1] + 2.0 * (scores[0] - scores[1])).softmax(-1)
    sampling = GuidedSampling([3], 2.0, Decoding())
    drawn = torch.stack([sampling(None, scores).argmax(-1)[0] for _ in range(4000)])
    assert (torch.bincount(drawn, minlength=6) / 4000 - wanted).abs().max() < 0.03
    rows, three = scores.repeat_interleave(2, 0), Decoding(image_top_k=3)
    both = GuidedSampling([5, 6], 2.0, three)(None, rows)
    alone = GuidedSampling([6], 2.0, three)(None, scores)
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    assert (both.isfinite().sum(-1) == 3).all()


def test_text_is_sampled_by_softmax_within_top_k_and_top_p_with_a_seed_a_row():
    import torch

    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    for wanted, options in (
        ([0.5, 0.3, 0.15, 0.05], {}),
        ([0.625, 0.375, 0, 0], {"top_k": 2}),
        ([0.625, 0.375, 0, 0], {"top_p": 0.7}),
        ([0.685, 0.247, 0.062, 0.007], {"temperature": 0.5}),
    ):
        sampling = RowSampling([3], Decoding(**{"temperature": 1.0, **options}))
        drawn = torch.stack([sampling(None, scores).argmax(-1)[0] for _ in range(4000)])
        assert (torch.bincount(drawn, minlength=4) / 4000 - torch.tensor(wanted)).abs().max() < 0.03
    two = RowSampling([5, 6], Decoding(temperature=1.0))
    both = [two(None, scores.repeat(2, 1)).argmax(-1) for _ in range(40)]
    alone = RowSampling([6], Decoding(temperature=1.0))
    assert [int(b[1]) for b in both] == [int(alone(None, scores).argmax(-1)[0]) for _ in range(40)]
    assert any(int(b[0]) != int(b[1]) for b in both)


def test_top_p_keeps_the_least_codes_that_hold_it():
    import torch

    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.15, 0.5, 0.05, 0.3]]).log()
    kept = GuidedSampling([1, 2], 1.0, Decoding(image_top_p=0.7))(None, torch.cat([scores, scores])).isfinite()
    assert kept.tolist() == [[True, True, False, False], [False, True, False, True]]
    first = GuidedSampling([1, 2], 1.0, Decoding(image_top_p=0.01))(None, torch.cat([scores, scores])).isfinite()
    assert first.sum(-1).tolist() == [1, 1]


@pytest.mark.parametrize(("name", "size"), [("janus", (8, 8)), ("janus-old", (8, 8)), ("emu3", (32, 32))])
def test_the_whole_draw_whatever_the_layout(name, size, model):
    adapter = model(name)
    assert isinstance(adapter, DrawsImages)
    both = adapter.draw(PROMPTS, SEEDS, Decoding())
    assert not any(isinstance(one, Exception) for one in both), both
    assert all(one.size == size and not is_blank(one) for one in both)
    (alone,) = adapter.draw(PROMPTS[1:], SEEDS[1:], Decoding())
    (other,) = adapter.draw(PROMPTS[1:], SEEDS[:1], Decoding())
    assert alone.tobytes() == both[1].tobytes() != other.tobytes()


def test_all_layouts_of_janus_draw_alike(folder, model):
    from transformers import GenerationConfig

    names = ("janus", "janus-old", "janus-none")
    read = [GenerationConfig.from_pretrained(folder(name)) for name in names]
    assert [hasattr(config, "boi_token_id") for config in read] == [True, False, False]
    assert [hasattr(config, "generation_kwargs") for config in read] == [False, True, False]
    new, old, none = (bytes_of(model(name).draw(PROMPTS, SEEDS, Decoding())) for name in names)
    assert new == old == none


def test_pixels_are_those_of_the_image_processor(model):
    """transformers' own post-processing of the same codes, as tensors (as images it refuses its own answer)."""
    import torch

    from armor_eval.models.transformers_drawing import images_of

    janus, processor = model("janus")._load()
    with torch.inference_mode():
        pixels = janus.decode_image_tokens(torch.arange(32).reshape(2, 16))
    theirs = processor.image_processor.postprocess(list(pixels.permute(0, 3, 1, 2)), return_tensors="pt").pixel_values
    ours = np.stack([np.asarray(image) for image in images_of(pixels, processor)])
    assert np.abs(theirs.permute(0, 2, 3, 1).numpy().astype(int) - ours).max() <= 1  # one rounding of float32 apart


@pytest.mark.parametrize("name", ["janus", "emu3"])
def test_temperature_0_is_one_image_whatever_the_seed(name, model):
    greedy = Decoding(image_temperature=0)
    drawn = [model(name).draw(PROMPTS[:1], [seed], greedy)[0].tobytes() for seed in (1, 2)]
    assert drawn[0] == drawn[1]
    both = model(name).draw(PROMPTS, SEEDS, greedy)
    assert both[0].tobytes() == drawn[0]


@pytest.mark.parametrize(("name", "own"), [("janus", 5.0), ("emu3", 3.0)])
def test_guidance_is_the_models_own_unless_asked_and_1_is_1(name, own, model):
    adapter = model(name)
    drawn = {g: bytes_of(adapter.draw(PROMPTS, SEEDS, Decoding(guidance=g))) for g in (None, own, 1.0)}
    assert drawn[None] == drawn[own] and drawn[1.0] != drawn[None]
    assert [adapter.settings(Decoding(guidance=g))["guidance"] for g in (None, 1.0)] == [own, 1.0]


def test_guidance_1_of_janus_is_without_the_unconditional_half(model, monkeypatch):
    adapter = model("janus")
    with_1 = bytes_of(adapter.draw(PROMPTS, SEEDS, Decoding(guidance=1)))
    whole = GuidedSampling.__call__

    def blind(self, ids, scores):
        half = len(scores) // 2
        scores[half:] = 0.0
        return whole(self, ids, scores)

    monkeypatch.setattr(GuidedSampling, "__call__", blind)
    assert bytes_of(adapter.draw(PROMPTS, SEEDS, Decoding(guidance=1))) == with_1


def test_sampling_options_act_on_images(model):
    for name in ("janus", "emu3"):
        plain = bytes_of(model(name).draw(PROMPTS, SEEDS, Decoding()))
        for change in ({"image_temperature": 3.0}, {"image_top_k": 1}, {"image_top_p": 0.05}):
            assert bytes_of(model(name).draw(PROMPTS, SEEDS, Decoding(**change))) != plain, (name, change)
        assert model(name).settings(Decoding(image_top_k=9))["image_top_k"] == 9


def test_an_emu3_grid_lets_only_an_image_through(model):
    adapter = model("emu3")
    import torch

    emu, processor = adapter._load()
    seen = []
    decode = emu.decode_image_tokens

    def spy(**given):
        seen.append(given)
        return decode(**given)

    emu.decode_image_tokens = spy
    try:
        adapter.draw(PROMPTS, SEEDS, Decoding())
    finally:
        emu.decode_image_tokens = decode
    tokens, mapping = seen[0]["image_tokens"], emu.vocabulary_mapping
    grid = tokens[:, :-3].reshape(2, 4, 5)
    assert (grid[..., -1] == mapping.eol_token_id).all()
    assert torch.isin(grid[..., :-1], torch.tensor(mapping.image_tokens)).all()
    of = processor.tokenizer
    assert tokens[:, -3:].tolist() == [[of.eof_token_id, of.eoi_token_id, of.eos_token_id]] * 2


def test_emu3_arguments_are_told_or_refused(folder):
    spec = f"emu3:{folder('emu3')}"
    told = registry.load(spec, "official", model_args={"image_area": 1024}).settings(Decoding())
    assert told["image_area"] == 1024 and told["negative_prompt"].startswith("lowres") and told["positive_prompt"] == ""
    for bad in ({"steps": 3}, {"image_area": "big"}, {"image_area": -1}):
        with pytest.raises(UserError):
            registry.load(spec, "official", model_args=bad)


@pytest.mark.parametrize("kind", ["janus", "emu3"])
def test_a_folder_of_another_model_is_one_line(kind, folder, tmp_path):
    other = folder("emu3" if kind == "janus" else "janus")
    with pytest.raises(UserError, match=f"no {kind} model"):
        registry.load(f"{kind}:{other}", "official", device="cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no config\.json of transformers"):
        registry.load(f"{kind}:{tmp_path}", "official", device="cpu")
