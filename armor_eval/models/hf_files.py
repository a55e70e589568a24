"""Whether a transformers model can be asked at all, by its configuration and file names; nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.parsing import json_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


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
