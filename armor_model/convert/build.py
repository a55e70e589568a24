"""`armor-model build`: a published base model and a VQGAN become an ARMOR checkpoint, one tensor at a time.

The whole plan (every new tensor, its shape, and where it comes from) is checked before the first byte is written.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from armor_model.base.errors import UserError, reason_of
from armor_model.base.files import whole_folder
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import read_table
from armor_model.base.runtime import prepare_torchvision
from armor_model.bases import BaseModel, Origin, Settings, bases_of
from armor_model.convert.names import within
from armor_model.convert.shards import Item, Source, write
from armor_model.convert.vqgan import open_vqgan
from armor_model.hub import fetch
from armor_model.loading import checkpoint_json
from armor_model.template import NEW_TOKENS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from armor_model.vq import ImageTokenizer


def build(
    base: str,
    vqgan: str | None,
    out: Path,
    tokenizer: str | None = None,
    adapter_layers: int = 3,
    adapter_init: str = "copy",
    heads: str = "switching",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    max_shard: int = 4_000_000_000,
    system_prompt: str | None = None,
    image_size: int = 256,
) -> JsonObject:
    """Write an ARMOR checkpoint.

    Args:
        base: folder or hub id of a model of one of the BASES, e.g. an InternVL, original or in transformers' layout.
        vqgan: Chameleon's `vqgan.ckpt`, LlamaGen's `vq_ds16_*.pt` or a converted folder; None leaves the image
            tokenizer out.
        out: the new folder; a UserError where it holds anything.
        tokenizer: folder or id, where the base's own cannot be read without running its code.
        adapter_layers: blocks of the adapter.
        adapter_init: `copy` the last decoder blocks or `random`.
        heads: `switching` or `single`.
        dtype: of the weights; by default the base's.
        seed: of the random parts.
        max_shard: bytes.
        system_prompt: a name that the base knows, or a text; by default what the layout was published with.
        image_size: pixels a side of a drawn image.

    Returns:
        What was done: layout, tensors, new parameters, whether the tokenizer was extended, conversations whose tokens
        were compared with those of their whole text, tokens of the tokenizer that the embeddings have no row for.
    """
    with whole_folder(out) as draft:
        folder = fetch(base, "base model", ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model"))
        raw, images = checkpoint_json(folder), folder / "preprocessor_config.json"
        kinds = bases_of(raw)
        vq = open_vqgan(Path(vqgan), image_size) if vqgan else None
        text_tokenizer, kind = _tokenizer(tokenizer, folder, kinds)
        layout, settings = kind.read_config(raw)
        settings["image_token_id"] = text_tokenizer.convert_tokens_to_ids(kind.chat.image_token)
        if vq is not None:
            settings |= {
                "codebook_size": vq.codebook_size,
                "image_grid": vq.grid,
                "vq_config": {"type": vq.type, **vq.settings},
            }
        from armor_model.config import config_class

        try:
            config = config_class(kind.name)(**settings, num_adapter_layers=adapter_layers, heads=heads)
        except (TypeError, ValueError) as error:
            raise UserError(f"the base's configuration is not usable: {reason_of(error)}") from error
        from armor_model.modeling import model_class

        text_tokenizer, left_out = within(text_tokenizer, config.vocab_size)
        items = plan(Source(folder), kind, layout, config, settings["text_config"], adapter_init, dtype, seed)
        config.architectures = [model_class(kind.name).__name__]
        config.dtype = items[0].dtype
        prompt = system_prompt or kind.default_system_prompt(layout)
        raw = {**(read_table(images) if images.is_file() else {}), **raw}
        extended, samples = _save_processor(text_tokenizer, config, vq, draft, raw, prompt)
        files = write(items, draft, max_shard)
        config.save_pretrained(draft)
        new = sum(
            item.size // item.dtype.itemsize for item in items if not item.name.startswith(("model.", "lm_head."))
        )
        return {
            "layout": layout,
            "files": len(files),
            "tensors": len(items),
            "new": new,
            "tokenizer_extended": extended,
            "template_samples": samples,
            "names_left_out": left_out,
        }


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan(
    source: Source,
    base: BaseModel,
    layout: str,
    config: PretrainedConfig,
    text: Settings,
    adapter_init: str,
    dtype: torch.dtype | None,
    seed: int,
) -> list[Item]:
    """Every tensor of the new checkpoint in the model's order. Raises UserError naming a key that is missing,
    unknown, or of another shape than the configuration says."""
    prepare_torchvision()
    from armor_model.loading import new_model

    try:
        with torch.device("meta"):
            expected = {k: tuple(v.shape) for k, v in new_model(config).state_dict().items()}
    except (TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:  # sizes that fit no layer
        raise UserError(f"no model can be made of the base's config.json: {reason_of(error)}") from error
    origins = base.origins(source.tensors, layout)
    tied = "lm_head.weight" not in origins and layout == "native"
    if tied and (embeddings := f"{base.decoder_path}.embed_tokens.weight") in origins:
        origins["lm_head.weight"] = origins[embeddings]
    for name in origins:
        if name not in expected:
            raise UserError(f"unknown weight {origins[name].key}: the configuration has no place for it")
    read = _Reader(source)
    head = origins.get("lm_head.weight")  # without one, the plan ends below
    dtype = dtype or (source.tensors[head.key].dtype if head else torch.float32)
    if adapter_init not in ("copy", "random"):
        raise UserError(f"adapter_init must be copy or random, not {adapter_init!r}")
    depth = config.text_config.num_hidden_layers
    if adapter_init == "copy" and config.num_adapter_layers > depth:
        raise UserError(f"cannot copy {config.num_adapter_layers} blocks from a decoder of {depth}")

    def from_source(name: str, shape: tuple[int, ...], origin: Origin) -> Item:
        stored, take = source.tensors[origin.key], base.take(origin.part, text)
        # the shape that splitting will give, without reading the data
        shaped = tuple(take(torch.empty(stored.shape, device="meta")).shape)
        if shaped != shape:
            raise UserError(f"{origin.key} is {stored.shape}, which gives {shaped} for {name}; expected {shape}")
        return Item(name, shape, dtype, lambda: take(read(origin.key)))

    items = []
    for name, shape in expected.items():
        if name in origins:
            items.append(from_source(name, shape, origins[name]))
            continue
        twin = _twin(name, base, config, adapter_init)
        if twin in origins:
            items.append(from_source(name, shape, origins[twin]))
        elif name.startswith(("model.", "lm_head.")):
            raise UserError(f"the base lacks a weight: {name} (in transformers' names)")
        elif name == "single_head.weight":
            rows = (read, origins["lm_head.weight"])
            items.append(Item(name, shape, dtype, _random(name, shape, config, seed, rows)))
        else:
            items.append(Item(name, shape, dtype, _random(name, shape, config, seed)))
    return items


class _Reader:
    """Reads source tensors, keeping the newest: a fused projection is wanted three times in a row."""

    def __init__(self, source: Source):
        self.source, self.key, self.tensor = source, "", torch.empty(0)

    def __call__(self, key: str) -> Tensor:
        if self.key != key:
            self.tensor = torch.empty(0)  # before the next one is read
            self.key, self.tensor = key, self.source.read(key)
        return self.tensor


def _twin(name: str, base: BaseModel, config: PretrainedConfig, adapter_init: str) -> str:
    """The base's tensor that a new one starts as a copy of, or an empty string."""
    if name == "adapter_norm.weight":
        return f"{base.decoder_path}.norm.weight"
    if name.startswith("adapter.") and adapter_init == "copy":
        _, i, rest = name.split(".", 2)
        first = config.text_config.num_hidden_layers - config.num_adapter_layers
        return f"{base.decoder_path}.layers.{first + int(i)}.{rest}"
    return ""


def _random(
    name: str,
    shape: tuple[int, ...],
    config: PretrainedConfig,
    seed: int,
    original: tuple[_Reader, Origin] | None = None,
) -> Callable[[], Tensor]:
    """A new tensor: norms are one, biases zero, the rest normal; seeded by name, so order does not matter.
    With `original`, the first rows are that tensor's (the single head begins as the text head)."""

    def make() -> Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape)
        if name.endswith(".bias"):
            return torch.zeros(shape)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(name.encode()))
        made = torch.empty(shape).normal_(std=config.text_config.initializer_range, generator=generator)
        if original is not None:
            rows = original[0](original[1].key)
            made[: len(rows)] = rows
        return made

    return make


# ---- tokenizer and processor --------------------------------------------------------------------------------


def _tokenizer(
    given: str | None, folder: Path, kinds: Sequence[BaseModel]
) -> tuple[PreTrainedTokenizerBase, BaseModel]:
    """The text tokenizer, and the base of `kinds` whose marks it knows; never runs a checkpoint's own code."""
    prepare_torchvision()
    from transformers import AutoTokenizer

    patterns = ("tokenizer*", "*.json", "*.txt", "*.model")
    where = fetch(given, "tokenizer", patterns) if given else folder
    hint = f"give --tokenizer, {kinds[0].tokenizer_hint}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(where), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # many kinds, from missing files to code that would have to be run
        raise UserError(f"the tokenizer in {where} cannot be read: {reason_of(error)}", hint=hint) from error
    lacks = {base.name: [mark for mark in _marks(base) if not _knows(tokenizer, mark)] for base in kinds}
    for base in kinds:
        if not lacks[base.name]:
            return tokenizer, base
    first = " or ".join(dict.fromkeys(marks[0] for marks in lacks.values()))
    raise UserError(f"the tokenizer in {where} does not know {first}: it is not {' or '.join(lacks)}'s", hint=hint)


def _marks(base: BaseModel) -> list[str]:
    """Tokens without which the chat template would be read as words."""
    return [mark for mark in (base.chat.image_token, base.chat.begin) if mark]


def _knows(tokenizer: PreTrainedTokenizerBase, mark: str) -> bool:
    known = tokenizer.convert_tokens_to_ids(mark)
    return known is not None and known != tokenizer.unk_token_id


def _save_processor(
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    vq: ImageTokenizer | None,
    out: Path,
    published: Settings,
    prompt: str,
) -> tuple[bool, int]:
    """Write tokenizer, settings and image tokenizer; whether names were added, and how many samples were compared.

    The new tokens get names in the tokenizer where its length is V, so that their ids come out right; the processor
    itself counts ids from V on and needs no names."""
    from armor_model.processing import ArmorProcessor

    extended = len(tokenizer) == config.vocab_size
    processor = ArmorProcessor.for_config(
        tokenizer, config, vq, text_only=vq is None, published=published, system_prompt=prompt
    )
    if extended:
        names = [*NEW_TOKENS, *(f"<code_{k}>" for k in range(config.codebook_size))]
        tokenizer.add_tokens(names, special_tokens=True)
        if tokenizer.convert_tokens_to_ids(names[0]) != config.imgbos_id:
            raise UserError("the tokenizer gave the new tokens ids of its own")
    processor.save_pretrained(out)
    return extended, processor.check_template()
