"""LlamaGen's VQ-16 by conversion: the same codes and pixels as the published layout's own forward pass."""

from __future__ import annotations

import pytest
import torch
from llamagen_reference import PUBLISHED, LlamaGen

from armor_model.base.errors import UserError
from armor_model.convert import vqgan
from armor_model.vq import ImageTokenizer


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
