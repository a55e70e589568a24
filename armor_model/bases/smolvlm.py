"""SmolVLM and Idefics3 as a base: a SigLIP tower over tiles, a pixel shuffle, a Llama decoder.

An image is resized so that its longest edge fits, cut into square tiles row by row, each named in the text by its row
and column, and followed by the whole image in one tile. Positions are plain counts, of seen features and generated
codes as of text.

Idefics3 is the same model with a vocabulary of Llama 3.1's. The first SmolVLMs were published as Idefics3 too: which of
the two an `idefics3` folder is, its tokenizer says (armor_model/convert/build.py).

Sizes of presets are the published config.json's, SmolVLM's from memory, Idefics3-8B-Llama3's from excerpts of the hub's
page of it (revision 92a708a): no file could be opened here (2026-11). A test holds the totals that follow against the
published ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError
from armor_model.bases import (
    BaseModel,
    ChatFormat,
    Origin,
    Settings,
    by_rules,
    decoder_sizes,
    native_settings,
    published_preset,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

    from armor_model.processing import ArmorProcessor, ProcessorSettings

TEXT, VISION, CONNECTOR = "model.text_model", "model.vision_model", "model.connector"
RULES = [(r"(lm_head|model\.(text_model|vision_model|connector))\..+", [(r"\g<0>", "")])]
SETTINGS = ("text_config", "vision_config", "image_token_id", "scale_factor")
AROUND, GLOBAL, TILE = "<fake_token_around_image>", "<global-img>", "<row_{}_col_{}>"
MOST = 4
"""Published longest edge in tiles, where preprocessor_config.json does not say it."""


def _preset(
    text: tuple[int, int, int, int, int, int, float],
    vision: tuple[int, ...],
    scale: int,
    vocab: int,
    image_token: int,
    base: str = "smolvlm",
) -> Settings:
    width, layers, heads, kv_heads, ffn, context, theta = text
    decoder = decoder_sizes("llama", vocab, width, layers, heads, kv_heads, ffn, context, theta, 1e-5, width // heads)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "image_size", "patch_size")
    tower = {"model_type": f"{base}_vision", **dict(zip(names, vision, strict=True))}
    return published_preset(decoder, tower, image_token, base_name=base, scale_factor=scale)


_SIGLIP_B, _SIGLIP_SO = (768, 12, 12, 3072, 512, 16), (1152, 27, 16, 4304, 384, 14)


@dataclass(frozen=True)
class SmolVLM(BaseModel):
    """See armor_model.bases.BaseModel, whose members these are."""

    name: str
    model_types: tuple[str, ...]
    config_class: str
    model_class: str
    chat: ChatFormat
    presets: Mapping[str, Settings]
    processor: str
    """transformers' processor classes begin with it."""
    decoder_path: str = TEXT
    vision_paths: tuple[str, ...] = (VISION,)
    projector_paths: tuple[str, ...] = (CONNECTOR,)
    tokenizer_hint: str = "the base's own id on the hub"

    def decoder(self, core: PreTrainedModel) -> PreTrainedModel:
        """A Llama."""
        return core.text_model

    def vision_blocks(self, core: PreTrainedModel) -> Iterable[nn.Module]:
        """SigLIP's."""
        return core.vision_model.encoder.layers

    def image_features(self, core: PreTrainedModel, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Tiles (rows + 1, columns, 3, S, S) of each image (see `preprocess`) to features (tiles * each tile's, D)."""
        import torch

        tiles = [image.flatten(0, 1)[: _tiles(image)] for image in images]
        [features] = core.get_image_features(torch.cat(tiles)[None], return_dict=True).pooler_output
        each = len(features) // sum(map(len, tiles))
        return features.split([each * len(part) for part in tiles])

    def blank(self, config: PretrainedConfig) -> Tensor:
        """One tile, the whole image. Not of zeros, which these classes take for padding and leave out."""
        import torch

        size = config.vision_config.image_size
        return torch.ones(1, 1, 3, size, size)

    def processor_settings(self, config: PretrainedConfig, published: Settings) -> Settings:
        """A tile's side and features, and the longest edge; small models see one tile."""
        vision = config.vision_config
        size = vision.image_size
        longest = (published.get("size") or {}).get("longest_edge") or (MOST * size if size >= 224 else size)
        if (side := (published.get("max_image_size") or {}).get("longest_edge", size)) != size:
            raise UserError(f"the base's processor cuts tiles of {side} pixels, its vision tower takes {size}")
        features = (size // vision.patch_size) ** 2 // config.scale_factor**2
        return {"image_size": size, "image_seq_length": features, "pixels": {"longest": longest}}

    def preprocess(self, image: Image, settings: ProcessorSettings, max_tiles: int | None) -> Tensor:
        """(rows + 1, columns, 3, S, S): the tiles row by row; the last row's first tile is the whole image, and its
        others are empty. (1, 1, 3, S, S) for an image that fits into one tile."""
        import numpy as np
        import torch
        from PIL.Image import Resampling

        size, lanczos = settings.image_size, Resampling.LANCZOS
        image = image.resize(longest_edge(image.width, image.height, settings.pixels["longest"]), lanczos)
        columns, rows = whole_tiles(image.width, image.height, size)
        image = image.resize((columns * size, rows * size), lanczos)
        split = (columns, rows) != (1, 1)
        pixels = np.zeros((rows * split + 1, columns, size, size, 3), dtype=np.uint8)
        if split:
            pixels[:rows] = np.array(image).reshape(rows, size, columns, size, 3).swapaxes(1, 2)
        pixels[-1, 0] = np.array(image.resize((size, size), lanczos) if split else image)
        return torch.from_numpy(pixels).permute(0, 1, 4, 2, 3).float().div_(255).sub_(0.5).div_(0.5)

    def shape(self, width: int, height: int, settings: ProcessorSettings) -> tuple[int, ...]:
        """(rows + 1, columns, 3, S, S), or (1, 1, 3, S, S)."""
        size = settings.image_size
        columns, rows = whole_tiles(*longest_edge(width, height, settings.pixels["longest"]), size)
        return rows * ((columns, rows) != (1, 1)) + 1, columns, 3, size, size

    def image_text(self, pixels: Tensor, settings: ProcessorSettings) -> tuple[str, list[int]]:
        """Each tile behind its name; the whole image last."""
        rows, columns = len(pixels) - 1, pixels.shape[1]
        lines = [
            "".join(f"{AROUND}{TILE.format(r + 1, c + 1)}<image>" for c in range(columns)) + "\n" for r in range(rows)
        ]
        text = "".join(lines) + ("\n" if rows else "") + f"{AROUND}{GLOBAL}<image>{AROUND}"
        return text, [settings.image_seq_length] * _tiles(pixels)

    def small(self, head_dim: int, vision_width: int, patch: int) -> Settings:
        """SigLIP over a Llama."""
        return {
            "vision_config": {
                "model_type": f"{self.name}_vision",
                "hidden_size": vision_width,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 2 * vision_width,
                "image_size": 32,
                "patch_size": patch,
            },
            "text_config": {"model_type": "llama"},
            "scale_factor": 2,
        }

    def read_config(self, config: Settings) -> tuple[str, Settings]:
        """Layout `native`."""
        fields = {key: config[key] for key in SETTINGS if key in config}
        if isinstance(fields.get("vision_config"), dict):
            fields["vision_config"] = {**fields["vision_config"], "model_type": f"{self.name}_vision"}
        settings = native_settings(self.config_class, fields, SETTINGS)
        if (kind := settings["text_config"]["model_type"]) != "llama":
            raise UserError(f"text tower {kind} is not supported: {self.name} has a llama")
        return "native", settings

    def origins(self, keys: Iterable[str], layout: str) -> dict[str, Origin]:
        """Published names are transformers' own."""
        return by_rules(keys, RULES, f"a checkpoint of {self.name}")

    def published_files(self, processor: ArmorProcessor) -> dict[str, Settings]:
        """For SmolVLMProcessor or Idefics3Processor."""
        s = processor.settings
        image = {
            "image_processor_type": f"{self.processor}ImageProcessor",
            "processor_class": f"{self.processor}Processor",
            "size": {"longest_edge": s.pixels["longest"]},
            "max_image_size": {"longest_edge": s.image_size},
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 1,
            "do_image_splitting": True,
        }
        whole = {"processor_class": f"{self.processor}Processor", "image_seq_len": s.image_seq_length}
        return {"preprocessor_config.json": image, "processor_config.json": whole}

    def parameters(self, config: Settings) -> dict[str, int]:
        """SigLIP, and the connector's one matrix."""
        v, D = config["vision_config"], config["text_config"]["hidden_size"]
        d, f, patches = v["hidden_size"], v["intermediate_size"], (v["image_size"] // v["patch_size"]) ** 2
        block = 4 * d + 4 * d * d + 4 * d + 2 * d * f + f + d
        embeddings = 3 * v["patch_size"] ** 2 * d + d + patches * d
        return {
            "vision": embeddings + v["num_hidden_layers"] * block + 2 * d,
            "projector": d * config["scale_factor"] ** 2 * D,
        }


def longest_edge(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height with the longest edge given, the other even, as the published processor rounds it."""
    aspect = width / height
    if width >= height:
        short = int(longest / aspect)
        return longest, max(1, short + short % 2)
    short = int(longest * aspect)
    return max(1, short + short % 2), longest


def whole_tiles(width: int, height: int, size: int) -> tuple[int, int]:
    """Columns and rows of tiles that an image is resized to fill, as the published processor rounds them."""
    aspect = width / height
    if width >= height:
        columns = math.ceil(width / size)
        return columns, math.ceil(int(columns * size / aspect) / size)
    rows = math.ceil(height / size)
    return math.ceil(int(rows * size * aspect) / size), rows


def _tiles(pixels: Tensor) -> int:
    """Tiles of a preprocessed image, the whole one included."""
    return (len(pixels) - 1) * pixels.shape[1] + 1


def _chat(begin: str, specials: tuple[str, ...]) -> ChatFormat:
    return ChatFormat(
        begin=begin,
        turn="{role}:",
        before_text=" ",
        roles={"system": "System", "user": "User", "assistant": "Assistant"},
        end="<end_of_utterance>",
        after="\n",
        image_token="<image>",
        image_mark="<image>",
        after_image="",
        specials=(begin, "<end_of_utterance>", "<image>", AROUND, *specials),
        system_prompts={"none": None},
    )


_CLASSES = "transformers.models.{0}.{1}_{0}:{2}"
SMOLVLM = SmolVLM(
    name="smolvlm",
    model_types=("smolvlm", "idefics3"),
    config_class=_CLASSES.format("smolvlm", "configuration", "SmolVLMConfig"),
    model_class=_CLASSES.format("smolvlm", "modeling", "SmolVLMForConditionalGeneration"),
    chat=_chat("<|im_start|>", (GLOBAL, *(TILE.format(r, c) for r in range(1, MOST + 1) for c in range(1, MOST + 1)))),
    presets={
        "smolvlm-256m": _preset((576, 30, 9, 3, 1536, 8192, 1e5), _SIGLIP_B, 4, 49280, 49190),
        "smolvlm-500m": _preset((960, 32, 15, 5, 2560, 8192, 1e5), _SIGLIP_B, 4, 49280, 49190),
        "smolvlm-2.2b": _preset((2048, 24, 32, 32, 8192, 8192, 273768.0), _SIGLIP_SO, 3, 49280, 49190),
    },
    processor="SmolVLM",
)
_8B = _preset((4096, 32, 32, 8, 14336, 131072, 5e5), (*_SIGLIP_SO[:4], 364, 14), 2, 128259, 128257, "idefics3")
_8B["text_config"]["rope_parameters"] |= {  # Llama 3.1's
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
IDEFICS3 = SmolVLM(
    name="idefics3",
    model_types=("idefics3",),
    config_class=_CLASSES.format("idefics3", "configuration", "Idefics3Config"),
    model_class=_CLASSES.format("idefics3", "modeling", "Idefics3ForConditionalGeneration"),
    chat=_chat("<|begin_of_text|>", ()),  # names of tiles are words: the vocabulary has three tokens more than Llama's
    presets={"idefics3-8b": _8B},
    processor="Idefics3",
)
