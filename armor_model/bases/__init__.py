"""Base models: what ARMOR has to know of the multimodal model that it is built on, one object for each kind.

Nothing heavy is imported here or in the bases' modules. To add one: an object with BaseModel's members in a module of
its own, a line in BASES, a configuration and a model class beside those of InternVL in config.py and modeling.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from armor_model.base.errors import UserError, unknown_name

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn

    from armor_model.processing import ProcessorSettings

Settings = dict[str, Any]
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
    image_start: str
    image_end: str
    after_image: str
    """Between an image and the text behind it."""
    system_prompts: Mapping[str, str | None]
    """By the name that a checkpoint's processor settings give; None for no system message."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor of a new checkpoint comes from: a source tensor, and the part of it."""

    key: str
    part: str = ""
    """Of a fused projection, as the base's `take` knows it; empty for the whole tensor."""


class BaseModel(Protocol):
    """A kind of multimodal model that ARMOR can be built on. `core` is its transformers model without the head."""

    name: str
    model_types: tuple[str, ...]
    """Of published config.json files."""
    chat: ChatFormat
    presets: Mapping[str, Settings]
    """Published sizes, as settings of ARMOR's configuration."""
    decoder_path: str
    """Of the text decoder in the whole model's tensor names."""
    tokenizer_hint: str
    """What to type where the base's tokenizer cannot be read without running its code."""

    # ---- the model: its parts, and how images and positions enter ----

    def decoder(self, core: Any) -> Any:
        """The text decoder: a module with `embed_tokens`, `layers` (all of one block class), `norm`, `rotary_emb`."""

    def vision(self, core: Any) -> tuple[nn.Module, nn.Module]:
        """The vision tower and its projector into the decoder's width."""

    def vision_blocks(self, core: Any) -> Iterable[nn.Module]:
        """The vision tower's blocks, which sharding wraps one by one."""

    def image_features(self, core: Any, pixels: Tensor) -> Tensor:
        """Preprocessed images to features (tiles, placeholders a tile, D), in the order of their placeholders."""

    def positions(self, counts_BT: Tensor) -> Tensor:
        """What the decoder's rotary embedding takes, from each token's count (B, T) in its row: of text, placeholders
        and generated codes, in training and generation alike."""

    # ---- the processor ----

    def preprocess(self, image: Image, settings: ProcessorSettings, max_tiles: int | None) -> Tensor:
        """An RGB image to tiles (N, ...), the first dimension counting what `image_features` turns into features."""

    def tile_count(self, width: int, height: int, settings: ProcessorSettings) -> int:
        """How many tiles `preprocess` makes of an image of this size, without cutting them."""

    # ---- published checkpoints, and parameters by arithmetic alone ----

    def read_config(self, config: Settings) -> tuple[str, Settings]:
        """Layout of the weights, and settings of ARMOR's configuration, for a published config.json. Raises UserError
        for what cannot be built on."""

    def default_system_prompt(self, layout: str) -> str:
        """The name of the system prompt that checkpoints of this layout were published with."""

    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """For each tensor name in transformers' layout, where it comes from. Raises UserError for an unknown key."""

    def take(self, part: str, text: Settings) -> Callable[[Tensor], Tensor]:
        """The function that takes a part out of a fused tensor, given the decoder's settings."""

    def published_name(self, name: str) -> str:
        """The way back: a tensor's name in a published checkpoint of transformers' layout."""

    def parameters(self, config: Settings) -> dict[str, int]:
        """Numbers of parameters: `vision` and `projector`."""


BASES = {"internvl": "armor_model.bases.internvl:INTERNVL"}
"""By name: module and object."""


def base_of(config: Settings) -> BaseModel:
    """The base whose published config.json this is. Raises UserError for another kind of model."""
    known = {kind: name for name in BASES for kind in find_base(name).model_types}
    if config.get("model_type") not in known:
        raise UserError(f"the base's model_type is {config.get('model_type')!r}", f"known: {', '.join(known)}")
    return find_base(known[config["model_type"]])


def find_base(name: str) -> BaseModel:
    """The base of a name. Raises UserError with a suggestion for an unknown one."""
    if name not in BASES:
        raise unknown_name("base model", name, BASES)
    module, attribute = BASES[name].split(":")
    return getattr(import_module(module), attribute)
