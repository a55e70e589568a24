"""ARMOR's configuration, a class for each base: the base's own, plus the image tokens, the adapter and the heads.

Token ids, with V the original vocabulary and K the codebook:
    [0, V) text    V <imgbos>    V+1 <imgend>    V+2 <imgpad>    V+3+k  code k of K
Source: the paper's Table 1 (which head says which token) and Figure 3.
"""

from __future__ import annotations

from functools import cache

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.internvl.configuration_internvl import InternVLConfig

from armor_model.base.errors import UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.runtime import prepare_torchvision
from armor_model.bases import armor_type, base_name_of, find_base, named

HEADS = ("switching", "single")


@strict
class ArmorFields(PreTrainedConfig):
    """What ARMOR adds to a base model's configuration: the first parent of ARMOR's configuration for each base."""

    base_name = "internvl"
    """Of the base model, for armor_model.bases.find_base."""

    num_adapter_layers: int = 3
    """Decoder blocks between the text tower's last block and the visual head. The paper prints no number: three blocks
    give its 0.7 billion new parameters at InternVL2.5-8B's sizes."""
    codebook_size: int = 8192
    """K: codes of the image tokenizer."""
    image_grid: int = 16
    """Codes per side: an image is image_grid squared codes (256 for 256x256 pixels under Chameleon's VQGAN)."""
    heads: str = "switching"
    """`switching`: a text head and a visual head (Figure 4). `single`: the ablation's "Normal" arm, one head over all
    V + K + 3 tokens, on the adapter branch at every position."""
    vq_config: dict | None = None
    """Image tokenizer: `type` is `chameleon` or `patch`, the rest are its own sizes (see armor_model.vq)."""
    tie_word_embeddings: bool = False
    """Must be False: InternVL's default of True silently overwrites the head with the embeddings on loading."""

    def __post_init__(self, **kwargs: object) -> None:
        super().__post_init__(**kwargs)
        if self.vq_config is None:
            self.vq_config = {"type": "chameleon"}
        if self.heads not in HEADS:
            raise UserError(f"heads must be one of {HEADS}, not {self.heads!r}")
        if self.tie_word_embeddings:
            raise UserError("an ARMOR's head and embeddings are separate: tie_word_embeddings must be false")
        for name, least in (("num_adapter_layers", 0), ("codebook_size", 1), ("image_grid", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, not {getattr(self, name)}")
        self.text_config.tie_word_embeddings = False

    @property
    def vocab_size(self) -> int:
        """V: rows of the original vocabulary."""
        return self.text_config.vocab_size

    @property
    def imgbos_id(self) -> int:
        """The text head's token that switches to visual mode."""
        return self.vocab_size

    @property
    def imgend_id(self) -> int:
        """The visual head's token that switches back."""
        return self.vocab_size + 1

    @property
    def imgpad_id(self) -> int:
        """In the paper's Table 1, never generated here."""
        return self.vocab_size + 2

    @property
    def first_code_id(self) -> int:
        """Token id of code 0; code k is `first_code_id + k`."""
        return self.vocab_size + 3

    @property
    def last_id(self) -> int:
        """The highest token id: that of the last code."""
        return self.first_code_id + self.codebook_size - 1

    @property
    def num_new_tokens(self) -> int:
        """K + 3: rows of the new embeddings (8,195 in the paper)."""
        return self.codebook_size + 3

    @property
    def codes_per_image(self) -> int:
        """Codes between <imgbos> and <imgend>."""
        return self.image_grid**2


@strict
class ArmorConfig(ArmorFields, InternVLConfig):
    """Configuration of `ArmorForConditionalGeneration`, ARMOR on InternVL."""

    model_type = "armor"


AutoConfig.register("armor", ArmorConfig, exist_ok=True)


@cache
def config_class(base_name: str) -> type[ArmorFields]:
    """The class of ARMOR's configuration on a base, known to transformers' AutoConfig. Raises UserError for an unknown
    base."""
    prepare_torchvision()  # Llama's configuration imports it
    if base_name == "internvl":
        return ArmorConfig
    parent = named(find_base(base_name).config_class)
    fields = {"__module__": __name__, "model_type": armor_type(base_name), "base_name": base_name}
    made: type[ArmorFields] = strict(type(f"Armor{parent.__name__}", (ArmorFields, parent), fields))
    AutoConfig.register(fields["model_type"], made, exist_ok=True)
    return made


def make_config(settings: JsonObject) -> ArmorFields:
    """The configuration of a preset's settings, or of a config.json's. Raises UserError for what is no ARMOR's."""
    base_name = base_name_of(settings)
    if base_name is None:
        raise UserError(f"no ARMOR's configuration: its model_type is {settings.get('model_type')!r}")
    return config_class(base_name)(**{k: v for k, v in settings.items() if k not in ("base_name", "model_type")})
