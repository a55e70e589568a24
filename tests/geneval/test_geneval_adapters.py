"""Other people's drawing models: a real (tiny, random) LDM pipeline through diffusers, and Janus' sampling."""

import numpy as np
import pytest

from armor_eval.errors import UserError
from armor_eval.models import registry
from armor_eval.models.base import Decoding, DrawsImages


@pytest.fixture(scope="module")
def tiny_ldm(tmp_path_factory):
    """CompVis' LDM at a hundredth of the size, saved as diffusers saves it."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    import torch
    from diffusers import DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel, VQModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("ldm")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "bench", "cow", "##s"]
    (root / "vocab.txt").write_text("\n".join(words))
    unet = UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip
    vq = VQModel(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(16, 16), norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, num_vq_embeddings=16,
    )  # fmt: skip
    bert = LDMBertModel(LDMBertConfig(
        vocab_size=len(words), d_model=32, encoder_layers=1, encoder_ffn_dim=37, encoder_attention_heads=2,
        head_dim=16, max_position_embeddings=77,
    ))  # fmt: skip
    tokenizer = BertTokenizer(str(root / "vocab.txt"), model_max_length=77)
    pipe = LDMTextToImagePipeline(vqvae=vq, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler())
    pipe.save_pretrained(root / "pipe")
    return root / "pipe"


def test_a_diffusers_pipeline_draws_with_a_seed_a_picture(tiny_ldm):
    model = registry.load(f"diffusers:{tiny_ldm}", "official", device="cpu")
    assert isinstance(model, DrawsImages)
    model._load().scheduler.config.num_train_timesteps = 50
    draw = model._load().__call__
    model._pipeline = lambda words, **kw: draw(words, num_inference_steps=2, **kw)
    both = model.draw(["a photo of a bench", "a photo of a cow"], [1, 2], Decoding())
    (alone,) = model.draw(["a photo of a cow"], [2], Decoding())
    assert both[0].size == (16, 16) and both[0].tobytes() != both[1].tobytes()
    assert np.abs(np.asarray(alone, int) - np.asarray(both[1], int)).max() <= 1


@pytest.mark.parametrize("spec", ["diffusers:", "diffusers:nothing-there", "diffusers:/nowhere/at/all", "janus:a/../b"])
def test_a_model_that_is_not_there_is_one_line(spec):
    with pytest.raises(UserError):
        registry.load(spec, "official")


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(UserError, match="model_index"):
        registry.load(f"diffusers:{tmp_path}", "official")


def test_janus_sampling_is_softmax_with_guidance_and_a_seed_a_row():
    import torch

    from armor_eval.models.janus import GuidedSampling

    torch.manual_seed(0)
    scores = torch.randn(2, 6)
    wanted = (scores[1] + 2.0 * (scores[0] - scores[1])).softmax(-1)
    sampling = GuidedSampling([3], 2.0, 1.0, 0)
    drawn = torch.stack([sampling(None, scores).argmax(-1)[0] for _ in range(4000)])
    assert (torch.bincount(drawn, minlength=6) / 4000 - wanted).abs().max() < 0.03
    rows = scores.repeat_interleave(2, 0)
    both = GuidedSampling([5, 6], 2.0, 1.0, 3)(None, rows)
    alone = GuidedSampling([6], 2.0, 1.0, 3)(None, scores)
    assert torch.equal(both[1], alone[0]) and not torch.equal(both[0], both[1])
    assert (both.isfinite().sum(-1) == 3).all()
