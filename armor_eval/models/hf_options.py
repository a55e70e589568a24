"""What `--model-args` may say to a transformers model, and decoding that is what the run says.

Nothing here imports torch or transformers before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from armor_eval.models.options import refuse_unknown
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.jsons import JsonObject, JsonView
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

SOURCE = ("revision", "subfolder")
"""Where the files are: for configuration, processor and model alike."""
LOADING = (
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "load_in_4bit",
    "load_in_8bit",
    "max_memory",
    "offload_folder",
    "variant",
    "use_safetensors",
    "tp_plan",
)
"""For the model's `from_pretrained`; `load_in_4bit` and `load_in_8bit` are bitsandbytes' two usual configurations."""
GENERATING = ("cache_implementation", "compile")
"""For `generate`: `cache_implementation=static` keeps the cache in fixed buffers, `compile=true` compiles steps on
them."""
PROMPTING = ("chat_template",)
"""Which of several named chat templates."""
STRUCTURE = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "transformers_version",
    }
)
"""Fields of a generation configuration that belong to the architecture, not to the choice of tokens."""


@dataclass(frozen=True)
class ModelArgs:
    """`--model-args`, sorted by who reads them."""

    source: JsonObject = field(default_factory=dict)
    loading: JsonObject = field(default_factory=dict)
    chat_template: str | None = None
    generating: JsonObject = field(default_factory=dict)
    images: JsonObject = field(default_factory=dict)
    """The rest: for the image processor (`min_pixels`, `max_pixels`, `size` ...), checked when its class is known."""

    @classmethod
    def sort(cls, arguments: JsonView) -> ModelArgs:
        source, loading, generating = (
            {k: v for k, v in arguments.items() if k in keys} for keys in (SOURCE, LOADING, GENERATING)
        )
        rest = {k: v for k, v in arguments.items() if k not in (*SOURCE, *LOADING, *GENERATING, *PROMPTING)}
        if (cache := generating.get("cache_implementation", "static")) != "static":
            raise UserError(f"--model-args cache_implementation={cache}", "expected static, or leave it out")
        if (compiled := generating.get("compile", False)) not in (True, False):
            raise UserError(f"--model-args compile={compiled}", "expected true or false")
        if compiled and "cache_implementation" not in generating:
            raise UserError(
                "--model-args compile=true compiles steps on fixed buffers", "add cache_implementation=static"
            )
        return cls(source, loading, arguments.get("chat_template"), generating, rest)

    def check_images(self, image_processor: BaseImageProcessor) -> None:
        """UserError for an argument that neither the loading nor this image processor knows."""
        declared = getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {})
        refuse_unknown("hf:", self.images, {*declared, *SOURCE, *LOADING, *GENERATING, *PROMPTING})

    def for_model(self) -> JsonObject:
        """Keyword arguments for `AutoModelForImageTextToText.from_pretrained`."""
        arguments = dict(self.loading)
        bits = {k: v for k in ("load_in_4bit", "load_in_8bit") if (v := arguments.pop(k, None))}
        if bits:
            from transformers import BitsAndBytesConfig

            arguments["quantization_config"] = BitsAndBytesConfig(**bits)
        return arguments

    def for_generate(self, model: PreTrainedModel) -> JsonObject:
        """Keyword arguments for the loaded model's `generate`. UserError for what it cannot honour."""
        if "cache_implementation" not in self.generating:
            return {}
        compiled = bool(self.generating.get("compile", False))
        if not model._can_compile_fullgraph:
            wrong = f"{type(model).__name__} cannot keep its cache in fixed buffers"
            raise UserError(wrong, "leave cache_implementation=static out")
        if compiled and model.device.type != "cuda":
            raise UserError(f"compile=true needs a GPU, the model is on {model.device}", "leave compile out")
        return {"cache_implementation": "static", "disable_compile": not compiled}


def neutralise(model: PreTrainedModel, ends: list[int], pad: int | None) -> JsonObject:
    """Make greedy search mean greedy search: a checkpoint's own generation_config chooses no tokens any more.

    Its ids and caches stay, with these end tokens; every other field of transformers' GenerationConfig goes back to the
    default, in the model and in a language model inside of it (BLIP-2 generates through one). Returns {field: the
    checkpoint's value} of what was set back, for the record.
    """
    from transformers import GenerationConfig

    default = GenerationConfig().to_dict()
    dropped: JsonObject = {}
    for own in {id(c): c for m in model.modules() if (c := getattr(m, "generation_config", None)) is not None}.values():
        for name, value in own.to_dict().items():
            if name in default and name not in STRUCTURE and not name.startswith("_") and value != default[name]:
                dropped.setdefault(name, value)
                setattr(own, name, default[name])
        own.eos_token_id, own.pad_token_id = ends or None, pad
    return dropped


def kept_fields(model: PreTrainedModel) -> JsonObject:
    """What of the checkpoint's generation_config is still in force and can choose a token."""
    own = model.generation_config.to_dict()
    names = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")
    return {name: own[name] for name in names if own.get(name)}


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All ids that end an answer: the generation_config's, its language model's, and the tokenizer's."""
    text = model.config.get_text_config(decoder=True)
    ids: set[object] = set()
    for value in (model.generation_config.eos_token_id, getattr(text, "eos_token_id", None), tokenizer.eos_token_id):
        ids |= set(value) if isinstance(value, (list, tuple)) else {value}
    return sorted(i for i in ids if isinstance(i, int))


def check_folder(folder: Path) -> None:
    """UserError where a folder is no transformers checkpoint, from config.json and file names: nothing is imported."""
    try:
        config = json_of((folder / "config.json").read_text())
    except FileNotFoundError:
        raise UserError(f"cannot load hf:{folder}: it has no config.json", "expected a transformers folder") from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot load hf:{folder}: config.json cannot be read: {error}") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind == "armor":
        raise UserError(f"hf:{folder} is an ARMOR checkpoint", f"did you mean --model {folder}?")
    if not any(next(folder.glob(pattern), None) for pattern in ("*.safetensors", "*.bin", "*.safetensors.index.json")):
        raise UserError(f"cannot load hf:{folder}: it has no weights (*.safetensors)")


def check_type(config: PretrainedConfig, name: str, trust_remote_code: bool) -> None:
    """UserError where transformers has no image-text-to-text class for the configuration and none is brought along."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    brings_code = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if config.model_type in KNOWN or (brings_code and trust_remote_code):
        return
    near = did_you_mean(config.model_type, KNOWN)
    raise UserError(
        f"cannot load hf:{name}: transformers has no image-text-to-text class for {config.model_type!r}{near}",
        "--trust-remote-code runs the code it brings" if brings_code else "expected a model that reads images and text",
    )
