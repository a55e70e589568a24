"""LlamaGen's VQ-16 by conversion: the same codes and pixels as the published layout's own forward pass."""

from __future__ import annotations

import pytest
import torch
from llamagen_reference import PUBLISHED, LlamaGen
from test_model_every_base import OTHERS, conversations, hidden_of, pair, slow_if
from test_model_every_base_files import published

from armor_model import GenerationSettings, draw, load, save
from armor_model.base.errors import UserError
from armor_model.convert import vqgan
from armor_model.convert.build import build
from armor_model.convert.export import export
from armor_model.vq import ImageTokenizer

__all__ = ["conversations", "pair", "published"]  # fixtures


@pytest.fixture
def original():
    torch.manual_seed(0)
    model = LlamaGen([32, 32, 64], blocks=2, z=16, codes=64, width=4).eval()
    with torch.no_grad():  # as trained ones, not at their neutral start
        for name, value in model.named_parameters():
            value.copy_(
                torch.randn(value.shape) * (0.1 if value.ndim > 1 else 0.5) + ("norm" in name and "weight" in name)
            )
    return model


def test_codes_and_pixels_are_those_of_the_published_layout(original, tmp_path):
    torch.save({"model": original.state_dict()}, tmp_path / "vq_ds16.pt")
    vq = vqgan.open_vqgan(tmp_path / "vq_ds16.pt", 32)
    assert (vq.type, vq.image_size, vq.grid, vq.codebook_size) == ("llamagen", 32, 8, 64)
    pixels = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        codes, ours = original.encode(pixels), vq.encode(pixels)
        assert codes.unique().numel() > 10 and torch.equal(ours, codes)
        assert torch.allclose(vq.decode(codes), original.decode(codes).clamp(-1, 1), atol=1e-5)
        vq.save(tmp_path / "vq")
        again = ImageTokenizer.load(tmp_path / "vq")
        assert again.type == "llamagen" and torch.equal(again.encode(pixels), codes)


def test_a_part_that_is_missing_or_unknown_is_named(original):
    state = original.state_dict()
    with pytest.raises(UserError, match=r"the VQGAN lacks encoder\.down_blocks\.2\.attentions\.1"):
        vqgan.convert({k: v for k, v in state.items() if not k.startswith("encoder.conv_blocks.2.attn.1.q")}, 32)
    with pytest.raises(UserError, match=r"unknown VQGAN weight encoder\.down\.0\.attn\.0\.q"):
        vqgan.convert({**state, "encoder.conv_blocks.0.attn.0.q.weight": torch.zeros(1)}, 32)
    with pytest.raises(UserError, match="--image-size 34 is not a multiple of this tokenizer's 4 pixels"):
        vqgan.convert(state, 34)


@pytest.mark.parametrize(("pixels", "side"), [(256, 16), (512, 32)])
def test_the_published_sizes_fit(pixels, side):
    with torch.device("meta"):
        published = LlamaGen([128, 128, 256, 256, 512], blocks=2, z=256, codes=16_384, width=8)
    shapes = {name: tuple(value.shape) for name, value in published.state_dict().items()}
    assert PUBLISHED.items() <= shapes.items()
    state = {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    vq = vqgan.convert(state, pixels)
    assert (vq.grid, vq.codebook_size, vq.settings["latent_dim"]) == (side, 16_384, 8)
    assert sum(p.numel() for p in vq.parameters()) == sum(
        p.numel() for name, p in published.named_parameters() if name != "quantize.codebook_used"
    )


@pytest.mark.parametrize(
    "pair", [slow_if(name not in ("smolvlm", "internvl"), name) for name in ["internvl", *OTHERS]], indirect=True
)
def test_it_draws_for_every_base(original, pair, published, conversations, tmp_path):
    """Built on each base: a stage-2 step, drawing, saving, and back to the plain base."""
    from trainer.batches import collate
    from trainer.data.records import encode
    from trainer.objective import Objective, freeze
    from trainer.stages import STAGES

    base, folder = published
    torch.save({"model": original.state_dict()}, tmp_path / "vq_ds16.pt")
    build(str(folder), str(tmp_path / "vq_ds16.pt"), tmp_path / "armor", adapter_layers=1, image_size=32)
    model, processor = load(tmp_path / "armor")
    assert (processor.vq.type, model.config.codes_per_image, model.config.codebook_size) == ("llamagen", 64, 64)
    codes = processor.vq.encode(torch.rand(1, 3, 32, 32) * 2 - 1).flatten().tolist()
    answer = {"role": "assistant", "content": [{"type": "image", "codes": codes}]}
    batch = collate([encode(processor, "t2i", [*conversations[0], answer])], processor.pad_id, processor.imgbos_id)
    trained, before = freeze(model, STAGES["2"]), {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        losses.append(Objective(model, STAGES["2"])(batch).image)
        optimizer.zero_grad()
        (losses[-1] / 65).backward()
        optimizer.step()
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert losses[1] < losses[0] and moved and moved <= set(trained)
    [image] = draw(model.eval(), processor, ["a red circle"], GenerationSettings(), [7])
    save(model, processor, tmp_path / "trained")
    again, kept = load(tmp_path / "trained")
    [same] = draw(again, kept, ["a red circle"], GenerationSettings(), [7])
    assert image.size == (32, 32) and image.tobytes() == same.tobytes() and kept.vq.type == "llamagen"
    export(tmp_path / "trained", tmp_path / "plain")
    plain = type(base).from_pretrained(tmp_path / "plain").eval()
    inputs = processor.encode([conversations[0]], add_generation_prompt=True)
    with torch.no_grad():
        ours = model.text_logits(hidden_of(model, inputs)[0])[..., :-1]
        assert (plain(input_ids=inputs["input_ids"]).logits - ours).abs().max() <= 1e-4
