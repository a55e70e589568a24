"""`armor-model export-internvl`: an ARMOR's text path as a plain InternVL checkpoint in transformers' layout.

Text never passes the adapter, so the text path of a trained ARMOR is an InternVL with ARMOR's text head, which serving
engines that know InternVL can run for large understanding evaluations. Only the <imgbos> row is left behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from armor_model.base.errors import UserError
from armor_model.base.files import whole_folder
from armor_model.bases.internvl import INTERNVL
from armor_model.convert.shards import Item, Source, write
from armor_model.images import IMAGENET_MEAN, IMAGENET_STD
from armor_model.loading import check_checkpoint, load_processor

NEW = ("new_embeddings", "adapter.", "adapter_norm.", "imgbos_head.", "visual_head.", "single_head.")
ARMOR_ONLY = ("num_adapter_layers", "codebook_size", "image_grid", "heads", "vq_config")


def export(checkpoint: Path, out: Path, max_shard: int = 4_000_000_000) -> dict[str, Any]:
    """Write the plain InternVL into a new folder; one tensor is in memory at a time. Returns the number of tensors and
    files. Raises UserError where `out` holds anything."""
    from armor_model.config import ArmorConfig

    with whole_folder(out) as draft:
        check_checkpoint(checkpoint)
        config = ArmorConfig.from_pretrained(checkpoint)
        if config.heads == "single":
            raise UserError("the single-head arm has no text path of its own: its text passes the adapter")
        processor = load_processor(checkpoint)
        source = Source(checkpoint)

        def item(name: str) -> Item:
            stored = source.tensors[name]
            return Item(INTERNVL.published_name(name), stored.shape, stored.dtype, lambda: source.read(name))

        items = [item(name) for name in source.tensors if not name.startswith(NEW)]
        (draft / "chat_template.jinja").write_text(chat_template(processor.system_prompt))
        files = write(items, draft, max_shard)
        _write_processor(processor, draft)
        settings = {key: value for key, value in config.to_dict().items() if key not in ARMOR_ONLY}
        settings |= {"model_type": "internvl", "architectures": ["InternVLForConditionalGeneration"]}
        (draft / "generation_config.json").write_text(json.dumps(_ends(processor), indent=2) + "\n")
        (draft / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return {"tensors": len(items), "files": len(files)}


def _ends(processor: Any) -> dict[str, Any]:
    """generation_config.json. A server ends an answer at these tokens and knows no others: without them armor-nano's
    answers ran on and POPE fell from 85.7 to 77.4 %."""
    if not processor.stop_ids:
        raise UserError("the tokenizer has no token that ends an answer: <|im_end|> and eos_token are missing")
    return {"eos_token_id": processor.stop_ids, "pad_token_id": processor.pad_id}


def _write_processor(processor: Any, out: Path) -> None:
    """Tokenizer and image settings as transformers' InternVLProcessor reads them: 448 pixels and ImageNet statistics
    must be said, its defaults are others."""
    tokenizer, s = processor.tokenizer, processor.settings
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer.save_pretrained(out)
    file = out / "tokenizer_config.json"
    known = json.loads(file.read_text())
    # the processor insists on a video placeholder of its own; it gets an id behind the vocabulary and is never used
    known["extra_special_tokens"] = {**tokens, "video_token": "<video>"}
    file.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    side = {"height": s.image_size, "width": s.image_size}
    image = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "size": side,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
        "do_convert_rgb": True,
        "crop_to_patches": s.max_tiles > 1,
        "min_patches": 1,
        "max_patches": s.max_tiles,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    whole = {"processor_class": "InternVLProcessor", "image_seq_length": s.image_seq_length}
    (out / "processor_config.json").write_text(json.dumps(whole, indent=2) + "\n")


def chat_template(system_prompt: str | None) -> str:
    """The template of armor_model.processing, in Jinja."""
    system = ""
    if system_prompt:
        system = (
            "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + system_prompt + "<|im_end|>\n{% endif %}"
        )
    return (
        system
        + "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        + "{% if message['content'] is string %}{{ message['content'] }}"
        + "{% else %}{% for part in message['content'] %}"
        + "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
        + "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        + "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
