"""Tiny random checkpoints of the models that draw, as their libraries save them: `PIPELINES[name]()` builds a pipeline.

    python tests/models/drawing/tiny_drawers.py OUT [NAME ...]

Every part is a real class at a thousandth of its size, with random weights: what is proven is that a family loads, is
called as it wants to be, and that what it returns is read; never how well it draws.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import cache
from pathlib import Path

from armor_model.base.runtime import prepare_torchvision

prepare_torchvision()
import diffusers as D  # noqa: E402
import torch  # noqa: E402
import transformers as T  # noqa: E402

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


# --- tokenizers: one token a letter -----------------------------------------------------------------------------------
@cache
def clip_tokenizer():
    folder = Path(tempfile.mkdtemp())
    tokens = [*LETTERS, *(c + "</w>" for c in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return T.CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=77,
        unk_token="<|endoftext|>",
    )


def letters(cls=T.PreTrainedTokenizerFast, special=(), **options):
    """A Unigram tokenizer of letters; `special` tokens come first, after padding, end, unknown and begin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>", "<s>", *special)]
    model = Tokenizer(models.Unigram([*pieces, *((c, -3.0) for c in "▁\n" + LETTERS)], unk_id=2))
    model.pre_tokenizer, model.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    plain = T.PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=512,
        **options,
    )
    if cls is T.PreTrainedTokenizerFast:
        return plain
    folder = Path(tempfile.mkdtemp())
    plain.save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": cls.__name__}))
    return cls.from_pretrained(folder)


def bert_tokenizer():
    folder = Path(tempfile.mkdtemp())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "bench", "cow", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return T.BertTokenizer(str(folder / "vocab.txt"), model_max_length=77)


# --- parts ------------------------------------------------------------------------------------------------------------
def clip(projected=False):
    config = T.CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        eos_token_id=clip_tokenizer().eos_token_id,
        bos_token_id=clip_tokenizer().bos_token_id,
        pad_token_id=clip_tokenizer().eos_token_id,
    )
    return (T.CLIPTextModelWithProjection if projected else T.CLIPTextModel)(config)


def t5():
    return T.T5EncoderModel(
        T.T5Config(
            vocab_size=96, d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
        )
    )


def t5_tokenizer():
    return letters(T.T5TokenizerFast)


def gemma():
    return T.Gemma2Model(
        T.Gemma2Config(
            vocab_size=96,
            hidden_size=32,
            head_dim=8,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=64,
        )
    )


def vae(latent=4, halvings=1, **options):
    """`halvings`: pixels a latent is wide, as a power of two."""
    blocks = halvings + 1
    return D.AutoencoderKL(
        block_out_channels=[16] * blocks,
        latent_channels=latent,
        norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        **options,
    )


def unet(**options):
    return D.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 1,
            "block_out_channels": (16, 32),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "norm_num_groups": 8,
            "attention_head_dim": 8,
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 32,
            **options,
        }
    )


def safety_checker():
    """One that flags every image: each concept's threshold is below any cosine."""
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    sides = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 1}
    config = T.CLIPConfig(
        projection_dim=32, text_config=sides, vision_config={**sides, "image_size": 16, "patch_size": 8}
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        for weights in (checker.concept_embeds_weights, checker.special_care_embeds_weights):
            weights.fill_(-2.0)
    return checker, T.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


# --- pipelines --------------------------------------------------------------------------------------------------------
def sd15(scheduler=None, checked=False):
    checker, extractor = safety_checker() if checked else (None, None)
    return D.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip(),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        safety_checker=checker,
        feature_extractor=extractor,
        requires_safety_checker=checked,
        scheduler=scheduler or D.PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1),
    )


def spoiled(value: float, folder: Path) -> Path:
    """SD1.5 whose decoder ends in `value` for every pixel, saved."""
    torch.manual_seed(0)
    pipeline = sd15()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.zero_()
        pipeline.vae.decoder.conv_out.bias.fill_(value)
    pipeline.save_pretrained(folder)
    return folder


def sd21():
    return sd15(D.DDIMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False, steps_offset=1))


def sdxl():
    wide = unet(
        cross_attention_dim=64,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        use_linear_projection=True,
        transformer_layers_per_block=1,
        projection_class_embeddings_input_dim=80,
    )
    return D.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=wide,
        scheduler=D.EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def sd3():
    transformer = D.SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
    )
    return D.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        vae=vae(shift_factor=0.06),
        text_encoder=clip(True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip(True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=t5_tokenizer(),
    )


def pixart(cls=D.PixArtAlphaPipeline):
    transformer = D.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=3,
        cross_attention_dim=24,
        caption_channels=32,
        in_channels=4,
        out_channels=8,
        use_additional_conditions=False,
    )
    return cls(
        transformer=transformer,
        vae=vae(),
        scheduler=D.DPMSolverMultistepScheduler(),
        text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )


def pixart_sigma():
    return pixart(D.PixArtSigmaPipeline)


def flux(guided=True):
    transformer = D.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=[4, 4, 8],
        guidance_embeds=guided,
    )
    return D.FluxPipeline(
        scheduler=D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=clip(),
        text_encoder_2=t5(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
        vae=vae(1, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
    )


def sana():
    transformer = D.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=32,
        sample_size=8,
    )
    coder = D.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        scaling_factor=0.4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
    )
    return D.SanaPipeline(
        transformer=transformer,
        vae=coder,
        scheduler=D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=gemma(),
        tokenizer=letters(padding_side="right"),
    )


def kandinsky():
    side = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 1}
    prior = D.PriorTransformer(num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1)
    with torch.no_grad():
        prior.clip_std.fill_(1.0)
    eye = T.CLIPVisionModelWithProjection(T.CLIPVisionConfig(**side, image_size=28, projection_dim=32, patch_size=14))
    decoder = D.UNet2DConditionModel(
        in_channels=4,
        out_channels=8,
        addition_embed_type="image",
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        encoder_hid_dim=32,
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        encoder_hid_dim_type="image_proj",
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=32,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        norm_num_groups=8,
    )
    coder = D.VQModel(
        block_out_channels=[32, 32],
        down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        latent_channels=4,
        norm_num_groups=8,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )
    steps = {"num_train_timesteps": 1000, "clip_sample": True, "clip_sample_range": 10.0}
    return D.KandinskyV22CombinedPipeline(
        unet=decoder,
        movq=coder,
        prior_prior=prior,
        prior_image_encoder=eye,
        prior_text_encoder=clip(True),
        prior_tokenizer=clip_tokenizer(),
        prior_image_processor=T.CLIPImageProcessor(),
        scheduler=D.DDIMScheduler(clip_sample=False, set_alpha_to_one=False),
        prior_scheduler=D.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample", **steps),
    )


def auraflow():
    transformer = D.AuraFlowTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
    )
    return D.AuraFlowPipeline(
        tokenizer=t5_tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=transformer,
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
    )


def qwen_image():
    rope = {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10_000.0}
    side = {"hidden_size": 16, "intermediate_size": 16}
    text = {
        **side,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "rope_parameters": rope,
        "bos_token_id": 3,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    seeing = {**side, "depth": 1, "num_heads": 2, "out_hidden_size": 16}
    reader = T.Qwen2_5_VLForConditionalGeneration(
        T.Qwen2_5_VLConfig(
            text_config=text,
            vision_config=seeing,
            vision_start_token_id=120,
            vision_end_token_id=121,
            image_token_id=122,
            video_token_id=123,
        )
    )
    transformer = D.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    coder = D.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return D.QwenImagePipeline(
        transformer=transformer,
        vae=coder,
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        text_encoder=reader,
        tokenizer=letters(),
    )


def lumina2():
    transformer = D.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 512, 512),
        cap_feat_dim=32,
    )
    return D.Lumina2Pipeline(
        transformer=transformer,
        vae=vae(halvings=3, shift_factor=0.1),
        scheduler=D.FlowMatchEulerDiscreteScheduler(),
        text_encoder=gemma(),
        tokenizer=letters(),
    )


def hunyuan_dit():
    transformer = D.HunyuanDiT2DModel(
        sample_size=4,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        text_len=77,
        text_len_t5=256,
        activation_fn="gelu-approximate",
    )
    bert = T.BertModel(
        T.BertConfig(vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=37)
    )
    return D.HunyuanDiTPipeline(
        vae=vae(halvings=3),
        text_encoder=bert,
        tokenizer=bert_tokenizer(),
        transformer=transformer,
        scheduler=D.DDPMScheduler(),
        text_encoder_2=t5(),
        tokenizer_2=t5_tokenizer(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def amused():
    text = clip(True)
    transformer = D.UVit2DModel(
        hidden_size=32,
        cond_embed_dim=32,
        micro_cond_encode_dim=2,
        micro_cond_embed_dim=10,
        encoder_hidden_size=32,
        vocab_size=32,
        codebook_size=32,
        in_channels=32,
        block_out_channels=32,
        num_res_blocks=1,
        downsample=True,
        upsample=True,
        block_num_heads=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=32,
        use_bias=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    coder = D.VQModel(
        act_fn="silu",
        block_out_channels=[16, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=8,
        layers_per_block=1,
        norm_num_groups=8,
        num_vq_embeddings=32,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
        sample_size=16,
    )
    return D.AmusedPipeline(
        transformer=transformer,
        scheduler=D.AmusedScheduler(mask_token_id=31),
        vqvae=coder,
        text_encoder=text,
        tokenizer=clip_tokenizer(),
    )


def ldm():
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    bert = LDMBertModel(
        LDMBertConfig(
            vocab_size=16,
            d_model=32,
            encoder_layers=1,
            encoder_ffn_dim=37,
            encoder_attention_heads=2,
            head_dim=16,
            max_position_embeddings=77,
        )
    )
    coder = D.VQModel(
        latent_channels=4,
        block_out_channels=(16, 16),
        norm_num_groups=8,
        num_vq_embeddings=16,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    return D.LDMTextToImagePipeline(
        vqvae=coder, bert=bert, tokenizer=bert_tokenizer(), unet=unet(sample_size=32), scheduler=D.DDIMScheduler()
    )


# --- models that draw code by code ------------------------------------------------------------------------------------
def janus(folder: Path, layout: str) -> Path:
    """`layout`: where the generation config keeps `boi_token_id`: at the `top`, in `kwargs` as before, or in `none`."""
    prepare = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = letters(
        special=[*prepare.values(), "<|User|>", "<|Assistant|>"], extra_special_tokens=prepare, padding_side="left"
    )
    begin = tokenizer.convert_tokens_to_ids("<begin_of_image>")
    ids = {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = T.JanusForConditionalGeneration(
        T.JanusConfig(
            text_config={
                **side,
                **ids,
                "model_type": "llama",
                "vocab_size": 96,
                "intermediate_size": 24,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
            },
            vision_config={
                **side,
                "projection_dim": 16,
                "image_size": 32,
                "patch_size": 8,
                "mlp_ratio": 2,
                "depth": 1,
                "num_image_tokens": 16,
            },
            vq_config={
                "embed_dim": 8,
                "num_embeddings": 32,
                "latent_channels": 8,
                "num_patches": 4,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "projection_dim": 16,
                "image_token_embed_dim": 16,
                "num_hidden_layers": 1,
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        )
    )
    with torch.no_grad():  # likelier and less likely codes: what guidance and temperature act on
        for weights in model.model.generation_head.parameters():
            weights.mul_(20)
        model.model.language_model.embed_tokens.weight.mul_(20)
    config = model.generation_config
    config.update(**ids)
    model.save_pretrained(folder)
    # as conversions write it: transformers drops what it does not know of a file that it made from a model's config
    kept = {"top": {"boi_token_id": begin}, "kwargs": {"generation_kwargs": {"boi_token_id": begin}}, "none": {}}[
        layout
    ]
    (folder / "generation_config.json").write_text(json.dumps({**ids, **kept}))
    template = (
        "{% for m in messages %}<|User|>: {% for c in m['content'] %}{{ c['text'] }}{% endfor %}\n\n{% endfor %}"
        "<|Assistant|>:"
    )
    eye = T.JanusImageProcessor(size={"height": 32, "width": 32})
    T.JanusProcessor(eye, tokenizer, chat_template=template, use_default_system_prompt=False).save_pretrained(folder)
    return folder


def emu3(folder: Path) -> Path:
    """32 image codes, 8 pixels a code."""
    extra = {
        "image_token": "<image>",
        "boi_token": "<|image start|>",
        "eoi_token": "<|image end|>",
        "image_wrapper_token": "<|image token|>",
        "eof_token": "<|extra_201|>",
    }
    codes = [f"<|visual token {i:06d}|>" for i in range(32)]
    tokenizer = letters(special=[*extra.values(), "<|extra_200|>", *codes], extra_special_tokens=extra)
    tokenizer.add_tokens([T.AddedToken(t, special=True, normalized=False) for t in ("<|extra_200|>", *codes)])
    ids = {"bos_token_id": 3, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    model = T.Emu3ForConditionalGeneration(
        T.Emu3Config(
            text_config={
                **ids,
                "vocab_size": 160,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 512,
            },
            vq_config={
                "codebook_size": 32,
                "embed_dim": 4,
                "latent_channels": 4,
                "base_channels": 32,
                "hidden_size": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "temporal_downsample_factor": 1,
            },
            vocabulary_map=tokenizer.get_vocab(),
        )
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(60)
    model.generation_config.update(**ids, do_sample=True, top_k=2048)
    model.save_pretrained(folder)
    T.Emu3Processor(T.Emu3ImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3), tokenizer).save_pretrained(folder)
    return folder


PIPELINES = {
    "SD1.5": (sd15, {}),
    "SD2.1 (v-prediction)": (sd21, {}),
    "SDXL": (sdxl, {}),
    "SD3": (sd3, {}),
    "PixArt-alpha": (pixart, {"use_resolution_binning": False}),
    "PixArt-Sigma": (pixart_sigma, {"use_resolution_binning": False}),
    "Flux": (flux, {"size": "16x16"}),
    "Sana": (sana, {"size": "32x32", "use_resolution_binning": False}),
    "Kandinsky 2.2": (kandinsky, {"size": "32x32"}),
    "AuraFlow": (auraflow, {"size": "16x16"}),
    "Qwen-Image": (qwen_image, {"size": "32x32"}),
    "Lumina 2": (lumina2, {"size": "32x32"}),
    "HunyuanDiT": (hunyuan_dit, {"size": "32x32", "use_resolution_binning": False}),
    "aMUSEd": (amused, {}),
    "LDM": (ldm, {}),
}
"""Family -> (how it is made, the model arguments that a tiny one needs)."""


def save(name: str, folder: Path) -> Path:
    """The family's tiny pipeline in a folder of its own, of which the path is returned."""
    torch.manual_seed(0)
    target = folder / "".join(c for c in name if c.isalnum())
    PIPELINES[name][0]().save_pretrained(target)
    return target


if __name__ == "__main__":
    for one in sys.argv[2:] or PIPELINES:
        save(one, Path(sys.argv[1]))
