"""What each family needs beyond tiny.py's general recipe: geometry that agrees, marks, and who has no template."""

from __future__ import annotations

from typing import Any

from tiny import Special


def side(pixels: int) -> dict[str, Any]:
    return {"size": {"height": pixels, "width": pixels}}


def crop(pixels: int) -> dict[str, Any]:
    return {"size": {"shortest_edge": pixels}, "crop_size": {"height": pixels, "width": pixels}}


LLAVA = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
PATCH16 = {"image": {"patch_size": 16}, "video": {"patch_size": 16}}
PLAIN_BLIP = {
    "template": False,
    "image": side(224),
    "named": {"image_token": ""},
    "processor": {"num_query_tokens": 32},
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
GLM = {
    "config": {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [8, 12, 12], "partial_rotary_factor": 0.5}}}
}
SIGLIP224 = {"vision_config": {"image_size": 224, "patch_size": 16}}
GEMMA3 = {
    "config": {**SIGLIP224, "mm_tokens_per_image": 49},
    "image": side(224),
    "processor": {"image_seq_length": 49},
    "mark": "<|boi_token|>",
    "ids": {"image_token_index": "<|image_token|>"},
}
DAVIT = {"embed_dim": [32, 64, 128, 256], "depths": [1] * 4, "num_heads": [2] * 4, "num_groups": [2] * 4}
GEMMA4 = {"named": {"audio_token": "<|audio|>", "boa_token": "<|boa|>", "eoa_token": "<|eoa|>"}}
SMOL = {
    "config": {"vision_config": {"image_size": 364, "patch_size": 14}, "scale_factor": 2},
    "image": {"size": {"longest_edge": 728}, "max_image_size": {"longest_edge": 364}},
    "tokens": tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
}
MISTRAL = {
    "image": {"patch_size": {"height": 14, "width": 14}},
    "processor": {"patch_size": 14, "spatial_merge_size": 2},
}


def chameleon(text: Any) -> dict[str, Any]:
    quantiser = {
        "num_embeddings": 8,
        "embed_dim": 8,
        "latent_channels": 8,
        "base_channels": 32,
        "num_res_blocks": 1,
        "resolution": 64,
        "channel_multiplier": [1, 1, 2, 2],
    }
    return {"vocabulary_map": dict(text.get_vocab()), "vq_config": quantiser}


def emu3(text: Any) -> dict[str, Any]:
    quantiser = {"base_channels": 32, "hidden_size": 128, "codebook_size": 64}
    return {"vocabulary_map": dict(text.get_vocab()), "vq_config": quantiser}


def molmo2(text: Any) -> dict[str, Any]:
    names = {
        "image_patch_id": "<im_patch>",
        "image_start_token_id": "<im_start>",
        "image_end_token_id": "<im_end>",
        "low_res_image_start_token_id": "<low_res_im_start>",
    }
    ids = {name: text.convert_tokens_to_ids(token) for name, token in names.items()}
    return {"adapter_config": {"vision_feature_layer": [1, 0]}, **ids}


def ovis2(text: Any) -> dict[str, Any]:
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    return {"visual_indicator_token_ids": text.convert_tokens_to_ids(marks), "hidden_size": 256}


def omni(text: Any) -> dict[str, Any]:
    """Qwen's omni thinkers ask their configuration for ids that it does not declare."""
    names = {"vision_start_token_id": "vision_bos_token", "audio_start_token_id": "audio_bos_token"}
    return {name: text.convert_tokens_to_ids(getattr(text, token)) for name, token in names.items()}


SPECIAL: dict[str, Special] = {
    "aria": Special(config={"vision_config": {"image_size": 490, "patch_size": 14}}, image={"max_image_size": 490}),
    "aya_vision": Special(
        config={"vision_config": {"image_size": 364, "patch_size": 14}, "downsample_factor": 2},
        image=side(364),
        processor={"downsample_factor": 2, "patch_size": 14},
        ids={"image_token_index": "<|IMG_PATCH|>"},
    ),
    "blip": Special(template=False),
    "blip-2": Special(**PLAIN_BLIP),
    "chameleon": Special(
        template=False,
        config=chameleon,
        named={"image_token": "<image>"},
        image=crop(64),
        processor={"image_seq_length": 64},
        tokens=(*(f"IMGIMG{a}Z" for a in "ABCDEFGH"), "<reserved08707>"),
    ),
    "cohere_compass": Special(
        config={"text_config": {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), ROPE)}},
        **PATCH16,
    ),
    "deepseek_vl": Special(config=SIGLIP224, image=side(224), processor={"num_image_tokens": 196}),
    "deepseek_vl_hybrid": Special(config=SIGLIP224, image=side(224), processor={"num_image_tokens": 196}),
    "diffusion_gemma": Special(like="gemma4"),
    "dots3_note": Special(config={"text_config": {"num_key_value_heads": 2, "per_layer_config": {}}}),
    "emu3": Special(
        config=emu3,
        named={"image_token": "<image>"},
        tokens=("<|extra_200|>", *(f"<|visual token {i:06d}|>" for i in range(64))),
        image={"min_pixels": 4096, "max_pixels": 16384},
    ),
    "ernie4_5_vl_moe": Special(video={"draw_on_frames": False}),
    "fast_vlm": Special(
        processor_class="LlavaProcessor",
        like="llava",
        processor={**LLAVA, "patch_size": 64},
        image=crop(1024),
        config={"vision_config": {"hidden_size": 3072}},
    ),
    "florence2": Special(
        template=False,
        named={"image_token": "<image>"},
        processor={"num_additional_image_tokens": 1},
        attributes={"image_seq_length": 50},
        config={"vision_config": DAVIT},
    ),
    "fuyu": Special(template=False, tokens=("|SPEAKER|", "|NEWLINE|", "<0x04>")),
    "gemma3": Special(**GEMMA3),
    "gemma3n": Special(config={"vision_config": {"hidden_size": 2048}}),
    "gemma4": Special(**GEMMA4),
    "gemma4_unified": Special(**GEMMA4),
    "git": Special(template=False),
    "glm46v": Special(**GLM),
    "glm4v": Special(**GLM),
    "glm4v_moe": Special(**GLM, like="glm4v"),
    "glm5_next": Special(config={"text_config": {"num_key_value_heads": 2, "qk_rope_head_dim": 0}}),
    "glm_ocr": Special(**GLM, processor_class="Glm46VProcessor", like="glm46v"),
    "glmga": Special(
        **GLM, processor_class="Glm46VProcessor", like="glm46v", parts={"image_processor": "GlmgaImageProcessor"}
    ),
    "got_ocr2": Special(image=side(1024)),
    "idefics": Special(template=False),
    "idefics3": Special(**SMOL),
    "instructblip": Special(**PLAIN_BLIP),
    "instructblipvideo": Special(**{**PLAIN_BLIP, "image": {}}),
    "internvl": Special(image=side(448)),
    "kosmos-2": Special(processor_class="Kosmos2Processor", template=False),
    "kosmos-2.5": Special(processor_class="Kosmos2_5Processor", template=False),
    "lfm3_vl": Special(**PATCH16),
    "llama4": Special(
        config={"vision_config": {"image_size": 336, "intermediate_size": 1024}}, ids={"image_token_index": "<|patch|>"}
    ),
    "llava": Special(image=crop(336), processor=LLAVA, named={"image_token": "<image>"}),
    "llava_next": Special(image=crop(336), processor=LLAVA),
    "llava_next_video": Special(image=crop(336), processor=LLAVA),
    "llava_onevision": Special(processor={"num_image_tokens": 729, "vision_feature_select_strategy": "full"}),
    "minicpm_ocr": Special(**PATCH16),
    "minicpmv4_6": Special(**PATCH16),
    "minicpmv4_7": Special(**PATCH16),
    "minimax_m3_vl": Special(tokens=("]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[")),
    "mistral3": Special(**MISTRAL),
    "mistral_large4": Special(**MISTRAL, config={"text_config": {"num_key_value_heads": 2}}),
    "mllama": Special(config={"vision_config": {"vision_output_dim": 512, "image_size": 112}}, image=side(112)),
    "molmo2": Special(config=molmo2),
    "muse_glimmer": Special(config={"out_hidden_size": 1024}),
    "muse_spark": Special(config={"out_hidden_size": 1024}),
    "ovis2": Special(config=ovis2, image=side(224), ids={"image_token_id": "<IMG_ATOM>"}),
    "paligemma": Special(
        template=False,
        named={"image_token": ""},
        config=SIGLIP224,
        image=side(224),
        attributes={"image_seq_length": 196},
    ),
    "pix2struct": Special(template=False),
    "pp_chart2table": Special(
        mark="<img>" + "<imgpad>" * 256 + "</img>",
        tokens=("<img>", "<imgpad>", "</img>"),
        ids={"image_token_id": "<imgpad>", "image_token_index": "<imgpad>"},
        image=side(1024),
    ),
    "pp_formulanet": Special(template=False),
    "qianfan_ocr": Special(mark="<image>", image=side(448)),
    "qwen2_5_omni_thinker": Special(processor_class="Qwen2_5OmniProcessor", like="qwen2_5_omni", config=omni),
    "qwen3_5": Special(**PATCH16),
    "qwen3_5_moe": Special(**PATCH16),
    "qwen3_omni_moe_thinker": Special(
        **PATCH16, processor_class="Qwen3OmniMoeProcessor", like="qwen3_omni_moe", config=omni
    ),
    "qwen3_vl": Special(**PATCH16),
    "qwen3_vl_moe": Special(**PATCH16, like="qwen3_vl"),
    "shieldgemma2": Special(**GEMMA3),
    "smolvlm": Special(**SMOL),
    "step3p7": Special(config={"text_config": {"sliding_window": 64}}),
    "t5gemma2": Special(**{**GEMMA3, "config": {"encoder": {**SIGLIP224, "mm_tokens_per_image": 49}}}),
    "udop": Special(template=False),
    "unlimited_ocr": Special(config={"vision_config": {"sam_config": {"downsample_channels": [512, 256]}}}),
    "video_llama_3": Special(**PATCH16),
    "vipllava": Special(config={"vision_feature_layers": [-1, -2]}, image=crop(336), processor=LLAVA),
}

WIDTHS = "not built: its declared defaults do not shrink to one tiny geometry by the general recipe"
TIMM = "not built: its vision tower is a timm network, which the general recipe does not shrink"
BATCH = "rows of a batch get other logits than alone; the cause was not looked for"

WHY: dict[str, dict[str, str]] = {
    "dots3_note": {"unbuilt": WIDTHS},
    "fuyu": {"unbuilt": "not built: its processor counts on the prefix token of a SentencePiece tokenizer"},
    "granite4_vision": {"unbuilt": WIDTHS},
    "nemotron_h_omni": {"unbuilt": WIDTHS},
    "deepseek_ocr2": {"unbuilt": WIDTHS},
    "hunyuan_vl": {"unbuilt": WIDTHS},
    "kimi_k25": {"unbuilt": WIDTHS},
    "qwen4_exp": {"unbuilt": WIDTHS},
    "fast_vlm": {"unbuilt": TIMM},
    "gemma3n": {"unbuilt": TIMM},
    "perception_lm": {"unbuilt": TIMM},
    "blip": {"alone": "rows of a batch get slightly other logits than alone (0.1 %); the cause was not looked for"},
    "emu3": {"alone": BATCH},
    "kosmos-2.5": {"alone": BATCH},
    "minicpmv4_6": {
        "alone": "the second row of a batch gets other logits, even where it repeats the first; cause not looked for"
    },
    "minicpmv4_7": {"alone": BATCH},
    "cosmos3_omni": {"not": "transformers names no processor for it"},
    "diffusion_gemma": {
        "not": "not built by the general recipe; it writes blocks by diffusion, which hf: was not made for"
    },
    "evolla": {"not": "asks for a protein instead of an image"},
    "instructblipvideo": {"not": "reads videos; its processor takes no images"},
    "mistral4": {"not": "transformers names no processor for it"},
    "pi0": {"not": "moves a robot; gives no text"},
    "pix2struct": {
        "not": "the captioning form, which was tried, gives the text as decoder_input_ids; the VQA form was not tried"
    },
    "pp_formulanet": {"not": "its processor gives no input_ids for a question"},
    "shieldgemma2": {"not": "a classifier: its processor asks its own questions about an image"},
    "udop": {"not": "its processor reads the page by OCR (pytesseract), which is not installed"},
    "vision-encoder-decoder": {"not": "transformers names no processor for it"},
}
"""Model type -> {status key of table.py: why, in words}."""
