"""`armor-model export`: an ARMOR's text path as a plain checkpoint of its base in transformers' layout.

Text never passes the adapter, so the text path of a trained ARMOR is its base with ARMOR's text head, which serving
engines that know the base can run for large understanding evaluations. Only the <imgbos> row is left behind.
"""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.base.files import whole_folder
from armor_model.base.jsons import JsonObject
from armor_model.bases import ChatFormat
from armor_model.convert.names import within
from armor_model.convert.shards import Item, Source, write
from armor_model.loading import check_checkpoint, load_processor

if TYPE_CHECKING:
    from armor_model.processing import ArmorProcessor

NEW = ("new_embeddings", "adapter.", "adapter_norm.", "imgbos_head.", "visual_head.", "single_head.")
ARMOR_ONLY = ("num_adapter_layers", "codebook_size", "image_grid", "heads", "vq_config")


def export(checkpoint: Path, out: Path, max_shard: int = 4_000_000_000) -> JsonObject:
    """Write the plain base into a new folder; one tensor is in memory at a time. Returns the number of tensors and
    files. Raises UserError where `out` holds anything."""
    from transformers import AutoConfig

    with whole_folder(out) as draft:
        check_checkpoint(checkpoint)
        processor = load_processor(checkpoint)
        config, base = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False), processor.base
        if config.heads == "single":
            raise UserError("the single-head arm has no text path of its own: its text passes the adapter")
        source = Source(checkpoint)

        def item(name: str) -> Item:
            stored = source.tensors[name]
            return Item(base.published_name(name), stored.shape, stored.dtype, lambda: source.read(name))

        items = [item(name) for name in source.tensors if not name.startswith(NEW)]
        (draft / "chat_template.jinja").write_text(chat_template(base.chat, processor.system_prompt))
        files = write(items, draft, max_shard)
        within(processor.tokenizer, config.vocab_size)[0].save_pretrained(draft)
        for name, known in base.published_files(processor).items():
            before = json.loads((draft / name).read_text()) if (draft / name).exists() else {}
            (draft / name).write_text(json.dumps({**before, **known}, indent=2, ensure_ascii=False) + "\n")
        settings = {key: value for key, value in config.to_dict().items() if key not in ARMOR_ONLY}
        settings.pop("_name_or_path", None)  # where the checkpoint lay on this machine
        settings |= {"model_type": base.model_types[0], "architectures": [base.model_class.split(":")[1]]}
        (draft / "generation_config.json").write_text(json.dumps(_ends(processor), indent=2) + "\n")
        (draft / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        return {"tensors": len(items), "files": len(files)}


def _ends(processor: ArmorProcessor) -> JsonObject:
    """generation_config.json. A server ends an answer at these tokens and knows no others: without them armor-nano's
    answers ran on and POPE fell from 85.7 to 77.4 %."""
    if not processor.stop_ids:
        raise UserError(
            f"the tokenizer has no token that ends an answer: {processor.base.chat.end} and eos_token are missing"
        )
    return {"eos_token_id": processor.stop_ids, "pad_token_id": processor.pad_id}


TEMPLATE = Template(
    "$begin$system{% for message in messages %}$opening"
    "{% if message['content'] is string %}$before{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}$image{% elif part['type'] == 'text' %}$first{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}$end{% endfor %}{% if add_generation_prompt %}$answer{% endif %}"
)
SYSTEM = Template("{% if messages[0]['role'] != 'system' %}$opening$prompt$end{% endif %}")


def chat_template(chat: ChatFormat, system_prompt: str | None) -> str:
    """The template of armor_model.processing, in Jinja."""
    opening = {role: chat.turn.format(role=chat.roles.get(role, role)) for role in ("system", "user", "assistant")}
    cases = (f"if message['role'] == '{role}' %}}{text}" for role, text in opening.items())
    before, end = chat.before_text, f"{chat.end}{chat.after}"
    system = SYSTEM.substitute(opening=opening["system"], prompt=f"{before}{system_prompt}", end=end)
    return TEMPLATE.substitute(
        begin=chat.begin,
        system=system if system_prompt else "",
        opening="{% " + "{% el".join(cases) + "{% endif %}",
        before=before,
        image=f"{chat.image_mark}{chat.after_image}",
        first="{% if loop.first %}" + before + "{% endif %}" if before else "",
        end=end,
        answer=opening["assistant"],
    )
