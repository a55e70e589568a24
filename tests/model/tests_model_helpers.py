"""Small models that several tests build."""

from __future__ import annotations

import torch


def spread(model, seed=0):
    """Random weights with a wide spread: greedy choices are clear, so equality tests mean something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.15)
    return model.eval()


def internvl(vocab_size: int, seed: int = 0):
    """A plain tiny InternVL of transformers, with widely spread random weights."""
    from armor_model.base.runtime import prepare_torchvision
    from armor_model.presets import preset_dict

    prepare_torchvision()
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    settings = preset_dict("tiny")
    settings["text_config"]["vocab_size"] = vocab_size
    names = ("text_config", "vision_config", "image_token_id", "image_seq_length")
    config = InternVLConfig(**{name: settings[name] for name in names}, tie_word_embeddings=False)
    return spread(InternVLForConditionalGeneration(config), seed)


def stacked(batch):
    """A batch of ours as transformers' InternVL takes it: one tensor of tiles."""
    images = batch["pixel_values"]
    return {**batch, "pixel_values": None if images is None else torch.cat(images)}
