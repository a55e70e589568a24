"""Tiny random checkpoints of transformers' real image-text-to-text classes, built from their own defaults.

Nothing is downloaded: a configuration's widths and depths are shrunk by their names, geometry (image and patch sizes)
stays as the library declares it unless SPECIAL says otherwise, and the tokenizer is byte-level with the marks that the
processor names. `build(model_type, folder)` saves model and processor as a real checkpoint's folder.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WIDTH, HEADS, HEAD, LAYERS = 256, 2, 128, 2
SHRUNK: dict[str, Any] = {
    **dict.fromkeys(
        (
            "hidden_size",
            "d_model",
            "embed_dim",
            "out_hidden_size",
            "projection_dim",
            "projector_hidden_size",
            "hidden_dim",
            "output_hidden_size",
            "text_hidden_size",
            "encoder_hidden_size",
            "vision_output_dim",
            "word_embed_proj_dim",
            "projector_input_dim",
            "projector_output_dim",
            "cross_attention_hidden_size",
            "vision_embed_dim",
            "output_dim",
            "connector_hidden_size",
            "conv_dim",
            "block_dim",
            "embedding_size",
        ),
        WIDTH,
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
            "d_ff",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "mlp_dim",
            "intermediate_size_mlp",
            "block_ff_dim",
            "alignment_intermediate_size",
            "moe_shared_expert_intermediate_size",
        ),
        64,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers",
            "depth",
            "layers",
            "encoder_layers",
            "decoder_layers",
            "num_layers",
            "num_decoder_layers",
            "resampler_depth",
            "n_layers",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "num_heads",
            "attention_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
            "n_heads",
            "resampler_n_heads",
        ),
        HEADS,
    ),
    "num_key_value_heads": 1,
    "head_dim": HEAD,
    "d_kv": 8,
    "resampler_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_global_layers": 1,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_k": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "moe_topk": 2,
    "moe_num_shared_experts": 1,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 8,
}
"""Field of a configuration -> its tiny value; only fields that the configuration has are set."""

LAYER_LISTS = {
    "deepstack_visual_indexes": [0],
    "global_attn_indexes": [1],
    "intermediate_layers_indices": [0],
    "fullatt_block_indexes": [1],
    "cross_attention_layers": [1],
}
"""Fields that name layers of the deep model -> layers of the tiny one."""


@dataclass(frozen=True)
class Special:
    """What one family needs beyond the general recipe."""

    mark: str | None = None
    """What the chat template writes for an image; None is the processor's image token."""
    template: bool = True
    """Published checkpoints bring a chat template."""
    config: dict[str, Any] | Callable[[Any], dict[str, Any]] = field(default_factory=dict)
    """Configuration fields, nested; or what makes them of the tokenizer."""
    processor: dict[str, Any] = field(default_factory=dict)
    """Arguments of the processor's constructor."""
    image: dict[str, Any] = field(default_factory=dict)
    """Arguments of the image processor's constructor."""
    named: dict[str, str] = field(default_factory=dict)
    """Tokens that the tokenizer has under a name; an empty one takes back what the processor's source names."""
    tokens: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    """Set on the image processor."""
    processor_class: str | None = None
    """Where transformers' own table names none."""
    like: str | None = None
    """Model type whose image, video and audio processors are used."""
    parts: dict[str, str] = field(default_factory=dict)
    """Processor's part -> class, where transformers' own table names none."""
    video: dict[str, Any] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    """Configuration's id field -> token, where the names do not tell."""


RESERVED = 64
"""Spare ids behind the tokenizer's: for a configuration's ids of tokens that the tokenizer does not have."""


def build(kind: str, folder: Path) -> None:
    """Save a tiny random checkpoint of a model type. Whatever transformers raises while building comes through."""
    import torch
    import transformers
    from specials import SPECIAL
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as MODELS

    special = SPECIAL.get(kind, Special())
    torch.manual_seed(0)
    processor_class = _processor_class(kind, special)
    source = inspect.getsource(inspect.getmodule(processor_class))
    named = {name: token for name, token in {**_named(source), **special.named}.items() if token}
    text = tokenizer([*special.tokens, *_literals(source)], named)
    processor = _processor(kind, special, processor_class, text)
    text = processor.tokenizer
    config_class = CONFIG_MAPPING[kind]
    values = shrink(_defaults(config_class), len(text) + RESERVED)
    merge(values, special.config(text) if callable(special.config) else special.config)
    _set_ids(values, processor, special.ids)
    config = config_class.from_dict(values)
    model = getattr(transformers, MODELS[kind])(config).eval()
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        decoder_start_token_id=text.bos_token_id if config.is_encoder_decoder else None,
    )
    for name, weights in model.named_parameters():
        if weights.dim() > 1 and "embed" not in name:
            torch.nn.init.normal_(weights, std=0.2)  # at 0.02 a tiny model says the same whatever it is shown
        elif "gate" in name or "alpha" in name:
            torch.nn.init.constant_(weights, 0.5)  # cross-attention begins shut
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _defaults(config_class: Any) -> dict[str, Any]:
    values = config_class().to_dict()
    for name, sub in getattr(config_class, "sub_configs", {}).items():
        if values.get(name) is None and hasattr(sub, "model_type") and sub.model_type:
            values[name] = _defaults(sub)
    return values


def _processor_class(kind: str, special: Special) -> Any:
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES as PROCESSORS

    name = special.processor_class or PROCESSORS.get(kind)
    if name is None:
        raise LookupError(f"transformers names no processor for {kind}")
    return getattr(transformers, name)


def _processor(kind: str, special: Special, processor_class: Any, text: Any) -> Any:
    import transformers
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES as EXTRACTORS
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as IMAGES
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES as VIDEOS

    parts: dict[str, Any] = {}
    for name in processor_class.get_attributes():
        if name == "tokenizer":
            parts[name] = text
        elif name == "qformer_tokenizer":
            parts[name] = tokenizer([], {}, bos="[CLS]", eos="[SEP]", pad="[PAD]")
        else:
            found = {"image_processor": IMAGES, "video_processor": VIDEOS, "feature_extractor": EXTRACTORS}[name]
            entry = special.parts.get(name) or found.get(special.like or kind)
            entry = (entry.get("torchvision") or entry.get("pil")) if isinstance(entry, dict) else entry
            if entry is None and inspect.signature(processor_class.__init__).parameters[name].default is None:
                parts[name] = None
                continue
            if entry is None:
                raise LookupError(f"transformers names no {name} for {kind}")
            arguments = special.image if name == "image_processor" else special.video
            parts[name] = getattr(transformers, entry)(**(arguments if name != "feature_extractor" else {}))
            for attribute, value in special.attributes.items():
                setattr(parts[name], attribute, value)
    made = processor_class(**parts, **special.processor)
    if special.template:
        mark = special.mark or made.image_token
        made.chat_template = TEMPLATE.replace("MARK", getattr(mark, "content", mark))
    return made


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}MARK"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def _literals(source: str) -> list[str]:
    """Marks that a processor's source writes, such as `<image>` and `[IMG_END]`."""
    found = re.findall(r"""["'](<\|?[\w/.-]+\|?>|\[[A-Z_]+\]|<\uff5c[^"'\s]+\uff5c>)["']""", source)
    return list(dict.fromkeys(found))


def _named(source: str) -> dict[str, str]:
    """Names under which a processor asks its tokenizer for tokens."""
    names = set(re.findall(r"tokenizer\.(\w+_token)\b", source)) - {
        "bos_token",
        "eos_token",
        "pad_token",
        "unk_token",
        "sep_token",
        "cls_token",
        "mask_token",
        "add_bos_token",
        "add_eos_token",
    }
    spelled = dict(re.findall(r"""tokenizer\.(\w+_token) if [^\n]*? else ["']([^"'\s]+)["']""", source))
    return {name: spelled.get(name, f"<|{name}|>") for name in sorted(names)}


def merge(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put the changes into the values, at every depth."""
    for name, change in changes.items():
        if isinstance(change, dict) and isinstance(values.get(name), dict):
            merge(values[name], change)
        else:
            values[name] = change


def _set_ids(values: dict[str, Any], processor: Any, ids: dict[str, str], depth: int = 0) -> None:
    """A configuration's token ids: of the processor's token of that name, else of the tokenizer, else a spare one."""
    text = processor.tokenizer
    spare = len(text)
    for name, value in values.items():
        if isinstance(value, dict):
            _set_ids(value, processor, ids, depth + 1)
        if not re.search(r"_token_(id|index)$", str(name)) or name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            continue
        base = re.sub(r"_(id|index)$", "", name)
        token = ids.get(name) or getattr(processor, base, None) or getattr(text, base, None)
        token = getattr(token, "content", token)
        known = text.convert_tokens_to_ids(token) if isinstance(token, str) else None
        if known is not None and known != text.unk_token_id:
            values[name] = known
        elif isinstance(value, int):
            values[name], spare = spare, spare + 1
    for name, own in (
        ("bos_token_id", text.bos_token_id),
        ("eos_token_id", text.eos_token_id),
        ("pad_token_id", text.pad_token_id),
    ):
        if name in values:
            values[name] = own


def tokenizer(tokens: list[str], named: dict[str, str], bos="<s>", eos="</s>", pad="<pad>") -> Any:
    """Byte-level, without merges: any text can be read and written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    basic = [pad, bos, eos, "<unk>"]
    special = list(dict.fromkeys([*basic, *named.values(), *tokens]))
    vocabulary = {t: i for i, t in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token="<unk>",
        additional_special_tokens=[t for t in special if t not in basic],
        **({"extra_special_tokens": named} if named else {}),
    )


def shrink(values: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """A configuration's dictionary with tiny widths, at every depth."""
    small: dict[str, Any] = {}
    layers = next(
        (values[n] for n in ("num_hidden_layers", "depth", "layers", "num_layers") if isinstance(values.get(n), int)),
        None,
    )
    for name, value in values.items():
        if name == "per_layer_config" and isinstance(value, dict):
            small[name] = {k: v for k, v in value.items() if int(k) < LAYERS}
        elif isinstance(value, dict):
            small[name] = value if "rope" in str(name) else shrink(value, vocabulary)
        elif name == "vocab_size" and value is not None:
            small[name] = vocabulary
        elif name in LAYER_LISTS and value:
            small[name] = LAYER_LISTS[name]
        elif name in SHRUNK and isinstance(value, int) and not isinstance(value, bool):
            small[name] = SHRUNK[name]
        elif isinstance(value, list) and layers and len(value) == layers:
            small[name] = _kinds(value)
        else:
            small[name] = value
    return small


def _kinds(per_layer: list[Any]) -> list[Any]:
    """Two layers of a per-layer list, of different kinds where there are."""
    other = next((v for v in per_layer if v != per_layer[0]), per_layer[-1])
    return [per_layer[0], other]
