"""A LLaVA as a base, in one file: what docs/add-a-base.md adds. CLIP's patches behind a two-layer MLP in a Llama."""

from __future__ import annotations

from armor_model.base.errors import UserError
from armor_model.bases import BaseModel, ChatFormat, Origin

TEXT, VISION, PROJECTOR = "model.language_model", "model.vision_tower", "model.multi_modal_projector"
PREFIXES = ("lm_head.", f"{TEXT}.", f"{VISION}.", f"{PROJECTOR}.")
SETTINGS = ("text_config", "vision_config", "vision_feature_layer", "vision_feature_select_strategy")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
OLD_NAMES = {TEXT: "language_model.model", VISION: "vision_tower", PROJECTOR: "multi_modal_projector"}


def _features(size, patch):
    return (size // patch) ** 2


class Toy(BaseModel):
    name = "toy"
    model_types = ("llava",)
    config_class = "transformers.models.llava.configuration_llava:LlavaConfig"
    model_class = "transformers.models.llava.modeling_llava:LlavaForConditionalGeneration"
    decoder_path, vision_paths, projector_paths = TEXT, (VISION,), (PROJECTOR,)
    tokenizer_hint = "the base's own id on the hub"
    presets = {}  # noqa: RUF012
    chat = ChatFormat(
        turn="{role}:",
        before_text=" ",
        roles={"system": "SYSTEM", "user": "USER", "assistant": "ASSISTANT"},
        end="</s>",
        after="\n",
        image_token="<image>",
        image_mark="<image>",
        after_image="\n",
        specials=("<s>", "</s>", "<image>"),
        system_prompts={"none": None},
    )

    # ---- the model ----

    def decoder(self, core):
        return core.language_model

    def vision_blocks(self, core):
        return core.vision_tower.encoder.layers

    def image_features(self, core, images):
        import torch

        out = core.get_image_features(torch.stack(list(images)), return_dict=True).pooler_output
        return [features.reshape(-1, features.shape[-1]) for features in out]

    def blank(self, config):
        import torch

        size = config.vision_config.image_size
        return torch.zeros(3, size, size)

    # ---- the processor ----

    def processor_settings(self, config, published):
        vision = config.vision_config
        return {"image_size": vision.image_size, "image_seq_length": _features(vision.image_size, vision.patch_size)}

    def preprocess(self, image, settings, max_tiles):
        import numpy as np
        import torch

        size = settings.image_size
        array = np.array(image.resize((size, size), 3), dtype=np.float32) / 255  # 3: bicubic
        return torch.from_numpy((array - np.array(MEAN, "f")) / np.array(STD, "f")).permute(2, 0, 1)

    def image_text(self, pixels, settings):
        return "<image>", [settings.image_seq_length]

    def shape(self, width, height, settings):
        return 3, settings.image_size, settings.image_size

    def small(self, head_dim, vision_width, patch):
        vision = {
            "model_type": "clip_vision_model",
            "hidden_size": vision_width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 2 * vision_width,
            "image_size": 32,
            "patch_size": 2 * patch,
            "projection_dim": vision_width,
        }
        return {"vision_config": vision, "text_config": {"model_type": "llama"}, "vision_feature_layer": -1}

    # ---- published checkpoints ----

    def read_config(self, config):
        from transformers import LlavaConfig

        if config.get("vision_feature_select_strategy", "default") != "default":
            raise UserError("a LLaVA whose features keep CLIP's class token is not supported")
        known = LlavaConfig(**{k: config[k] for k in SETTINGS if k in config}).to_dict()
        known["text_config"]["tie_word_embeddings"] = False
        return "native", {key: known[key] for key in SETTINGS}

    def origins(self, keys, layout):
        origins = {}
        for key in keys:
            new = next((key.replace(old, new, 1) for new, old in OLD_NAMES.items() if key.startswith(f"{old}.")), key)
            new = "lm_head.weight" if key == "language_model.lm_head.weight" else new
            if not new.startswith(PREFIXES):
                raise UserError(f"unknown weight {key}: not a LLaVA checkpoint")
            origins[new] = Origin(key)
        return origins

    def published_name(self, name):
        if name == "lm_head.weight":
            return "language_model.lm_head.weight"
        return next(name.replace(new, old, 1) for new, old in OLD_NAMES.items() if name.startswith(f"{new}."))

    def published_files(self, processor):
        s = processor.settings
        side = {"height": s.image_size, "width": s.image_size}
        image = {"image_processor_type": "CLIPImageProcessor", "size": side, "crop_size": side}
        patch = s.image_size // int(s.image_seq_length**0.5)
        whole = {"processor_class": "LlavaProcessor", "patch_size": patch, "vision_feature_select_strategy": "default"}
        return {"preprocessor_config.json": image, "processor_config.json": {**whole, "num_additional_image_tokens": 1}}

    def parameters(self, config):
        v, D = config["vision_config"], config["text_config"]["hidden_size"]
        d, f = v["hidden_size"], v["intermediate_size"]
        block = 4 * d + 4 * d * d + 4 * d + 2 * d * f + f + d
        embeddings = d + 3 * v["patch_size"] ** 2 * d + (_features(v["image_size"], v["patch_size"]) + 1) * d
        vision = embeddings + 4 * d + v["num_hidden_layers"] * block
        return {"vision": vision, "projector": d * D + D + D * D + D}


TOY = Toy()
