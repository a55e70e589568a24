"""Base models: what ARMOR has to know of the multimodal model that it is built on, one object for each kind.

Nothing heavy is imported here or in the bases' modules. To add one: an object with BaseModel's members in a module of
its own, and a line in BASES (docs/add-a-base.md).
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from armor_model.base.errors import UserError, reason_of, unknown_name
from armor_model.base.jsons import JsonObject

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from armor_model.processing import ArmorProcessor, ProcessorSettings

Settings = JsonObject
"""A configuration as JSON holds it."""


@dataclass(frozen=True)
class ChatFormat:
    """The chat template in pieces, so that every token knows who said it."""

    turn: str
    """Opens a message of `{role}`."""
    end: str
    """The special token that closes it, which the model has to say."""
    after: str
    """Between messages."""
    image_token: str
    """Placeholder of one image feature."""
    image_mark: str
    """What stands for an image in the published chat template."""
    after_image: str
    """Between an image and the text behind it."""
    specials: tuple[str, ...]
    """Special tokens of the format; the third is `image_token`, whose id the small presets know."""
    system_prompts: Mapping[str, str | None]
    """By the name that a checkpoint's processor settings give; None for no system message."""
    begin: str = ""
    """Once, before the first message."""
    before_text: str = ""
    """Between a message's opening and a text that comes first."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """How `{role}` is written, where not as it is."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor of a new checkpoint comes from: a source tensor, and the part of it."""

    key: str
    part: str = ""
    """Of a fused projection, as the base's `take` knows it; empty for the whole tensor."""


class BaseModel(Protocol):
    """A kind of multimodal model that ARMOR can be built on. `core` is its transformers model without the head.

    Members with a body are what a base inherits that counts positions as its text does, and whose published tensors
    have transformers' own names; an object that lacks another one cannot be made."""

    name: str
    model_types: tuple[str, ...]
    """Of published config.json files; an export has the first."""
    config_class: str
    """transformers' configuration, as `module:class`."""
    model_class: str
    """transformers' model with its head: it has `model` (the core) and `lm_head`."""
    chat: ChatFormat
    presets: Mapping[str, Settings]
    """Published sizes, as settings of ARMOR's configuration."""
    decoder_path: str
    """Of the text decoder in the whole model's tensor names."""
    vision_paths: tuple[str, ...]
    """Of the modules that are the vision tower."""
    projector_paths: tuple[str, ...]
    """Of the modules between it and the decoder's width."""
    tokenizer_hint: str
    """What to type where the base's tokenizer cannot be read without running its code."""

    # ---- the model: its parts, and how images and positions enter ----

    @abstractmethod
    def decoder(self, core: PreTrainedModel) -> PreTrainedModel:
        """The text decoder: a module with `embed_tokens`, `layers` (all of one block class), `norm`, `rotary_emb`."""

    @abstractmethod
    def vision_blocks(self, core: PreTrainedModel) -> Iterable[nn.Module]:
        """The vision tower's blocks, which sharding wraps one by one."""

    @abstractmethod
    def image_features(self, core: PreTrainedModel, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Each preprocessed image to its features (placeholders, D), in the order of its placeholders. Columns behind
        D, D for each of the decoder's first blocks, are added behind those blocks (deepstack)."""

    @abstractmethod
    def blank(self, config: PretrainedConfig) -> Tensor:
        """The smallest preprocessed image, of one value, on which sharded training runs the vision tower where no image
        is."""

    def place(self, counts_BT: Tensor, ids_BT: Tensor, images: Sequence[Tensor], image_token_id: int) -> Tensor | None:
        """Position ids (B, T, 1 + A) of rows with images, from each token's count (B, T) in its conversation, which is
        the first column; A axes follow. None where the count alone is the position.

        A generated code has the position of a text token, one more than the token before on every axis: codes are drawn
        in reading order, each step needs no more than the row's last position, and training and generation cannot
        differ."""
        return None

    def positions(self, position_ids: Tensor) -> Tensor:
        """What the decoder's rotary embedding takes, from position ids (B, T) or, of `place`, (B, T, 1 + A)."""
        return position_ids

    # ---- the processor ----

    @abstractmethod
    def processor_settings(self, config: PretrainedConfig, published: Settings) -> Settings:
        """Fields of ProcessorSettings that follow from ARMOR's configuration, and from the base's published config.json
        and preprocessor_config.json together (empty for a model that was not published)."""

    @abstractmethod
    def preprocess(self, image: Image, settings: ProcessorSettings, max_tiles: int | None) -> Tensor:
        """An RGB image to what `image_features` takes of it. `max_tiles` counts InternVL's tiles of 448 pixels; a base
        without them keeps to its own limits."""

    @abstractmethod
    def image_text(self, pixels: Tensor, settings: ProcessorSettings) -> tuple[str, list[int]]:
        """What stands for a preprocessed image in the text, with one `image_token` for each run of placeholders, and
        the lengths of these runs."""

    @abstractmethod
    def small(self, head_dim: int, vision_width: int, patch: int) -> Settings:
        """For the small presets, settings of ARMOR's configuration: a tower of two blocks and four heads for images of
        32x32 pixels, in patches of `patch` pixels, four a feature; and `text_config` with what is this base's own."""

    @abstractmethod
    def shape(self, width: int, height: int, settings: ProcessorSettings) -> tuple[int, ...]:
        """Of what `preprocess` makes of an image of this size, without its pixels."""

    # ---- published checkpoints, and parameters by arithmetic alone ----

    @abstractmethod
    def read_config(self, config: Settings) -> tuple[str, Settings]:
        """Layout of the weights, and settings of ARMOR's configuration, for a published config.json. Raises UserError
        for what cannot be built on."""

    def default_system_prompt(self, layout: str) -> str:
        """The name of the system prompt that checkpoints of this layout were published with."""
        return "none"

    @abstractmethod
    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """For each tensor name in transformers' layout, where it comes from. Raises UserError for an unknown key."""

    def take(self, part: str, text: Settings) -> Callable[[Tensor], Tensor]:
        """The function that takes a part out of a fused tensor, given the decoder's settings."""
        return lambda tensor: tensor

    def published_name(self, name: str) -> str:
        """The way back: a tensor's name in a published checkpoint of transformers' layout."""
        return name

    @abstractmethod
    def published_files(self, processor: ArmorProcessor) -> dict[str, Settings]:
        """JSON files of a published checkpoint that tell transformers' processor what ours does, by name; those that
        are in the folder already (tokenizer_config.json) are added to."""

    @abstractmethod
    def parameters(self, config: Settings) -> dict[str, int]:
        """Numbers of parameters: `vision` and `projector`."""


# ---- what bases share

Rule = tuple[str, Sequence[tuple[str, str]]]
"""A pattern of published names, and for each tensor made of one (target, part); \\1 is the pattern's first group."""


def by_rules(keys: Iterable[str], rules: Sequence[Rule], what: str) -> dict[str, Origin]:
    """A base's `origins` by rules: the first that knows a key counts. Raises UserError for a key that none knows, and
    so is no weight of `what`."""
    origins: dict[str, Origin] = {}
    for key in keys:
        for pattern, outs in rules:
            if match := re.fullmatch(pattern, key):
                origins.update({match.expand(target): Origin(key, part) for target, part in outs})
                break
        else:
            raise UserError(f"unknown weight {key}: not {what}")
    return origins


def native_settings(config_class: str, fields: Settings, kept: Sequence[str]) -> Settings:
    """The fields to keep of what transformers' configuration makes of a published config.json. Raises UserError where
    it makes nothing of it."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        known: Settings = named(config_class)(**fields).to_dict()
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"the base's config.json is not usable: {reason_of(error)}") from error
    known["text_config"]["tie_word_embeddings"] = False
    return {key: known[key] for key in kept if key in known}


def decoder_sizes(
    kind: str,
    vocab: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    context: int,
    theta: float,
    eps: float,
    head_dim: int | None = None,
) -> Settings:
    """A decoder's settings in transformers' names. `theta`: of the rotary embedding; `eps`: of the norms."""
    return {
        "model_type": kind,
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "rms_norm_eps": eps,
        "max_position_embeddings": context,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": False,
        **({"head_dim": head_dim} if head_dim else {}),
    }


def published_preset(text: Settings, vision: Settings, image_token_id: int, **own: object) -> Settings:
    """A published size as settings of ARMOR's configuration, with the paper's adapter and image tokenizer."""
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": image_token_id,
        "num_adapter_layers": 3,
        "codebook_size": 8192,
        "image_grid": 16,
        "vq_config": {"type": "chameleon", "image_size": 256},
        **own,
    }


# ---- the registry

BASES = {
    "internvl": "armor_model.bases.internvl:INTERNVL",
    "qwen2_5_vl": "armor_model.bases.qwen_vl:QWEN2_5_VL",
    "qwen3_vl": "armor_model.bases.qwen_vl:QWEN3_VL",
    "smolvlm": "armor_model.bases.smolvlm:SMOLVLM",
    "idefics3": "armor_model.bases.smolvlm:IDEFICS3",
}
"""By name: module and object."""

ARMOR = "armor"
"""model_type of an ARMOR on InternVL; on another base its name follows: `armor-qwen2_5_vl`."""


def bases_of(config: Settings) -> list[BaseModel]:
    """The bases whose published config.json this may be; where there are several, the tokenizer tells them apart.
    Raises UserError for another kind of model."""
    every = [find_base(name) for name in BASES]
    if found := [base for base in every if config.get("model_type") in base.model_types]:
        return found
    known = dict.fromkeys(kind for base in every for kind in base.model_types)
    raise UserError(f"the base's model_type is {config.get('model_type')!r}", f"known: {', '.join(known)}")


def find_base(name: str) -> BaseModel:
    """The base of a name. Raises UserError with a suggestion for an unknown one."""
    if name not in BASES:
        raise unknown_name("base model", name, BASES)
    return named(BASES[name])


def named(path: str) -> Any:
    """What `module:attribute` names."""
    module, attribute = path.split(":")
    return getattr(import_module(module), attribute)


def armor_type(base_name: str) -> str:
    """model_type of an ARMOR on this base."""
    return ARMOR if base_name == "internvl" else f"{ARMOR}-{base_name}"


def base_name_of(config: Settings) -> str | None:
    """The base's name of an ARMOR's settings (a preset's, or a config.json's); None for another kind of model."""
    kind = config.get("model_type", ARMOR)
    if "base_name" in config:
        return config["base_name"]
    return next((name for name in BASES if armor_type(name) == kind), None)
