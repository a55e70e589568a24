"""Read and write a checkpoint folder: config.json, model*.safetensors, tokenizer, processor_config.json, vq/."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armor_model import bundled
from armor_model.base.errors import UserError, reason_of
from armor_model.base.files import refuse_pointer
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import read_table
from armor_model.bases import base_name_of
from armor_model.hub import KIND, fetch, is_id

if TYPE_CHECKING:
    import torch

    from armor_model.config import ArmorFields
    from armor_model.modeling import ArmorModel
    from armor_model.processing import ArmorProcessor, ProcessorSettings

PICKLES = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")


def checkpoint_json(folder: Path, name: str | None = None, file: str = "config.json") -> JsonObject:
    """A JSON file of a checkpoint's folder, which is called `name` to the user. Raises UserError."""
    if not (folder / file).exists():
        raise UserError(f"{name or folder} is not a checkpoint: it has no {file}")
    return read_table(folder / file)


def check_checkpoint(folder: str | Path) -> Path:
    """The folder, or a hub id's files, if it looks like an ARMOR checkpoint. Raises UserError, in one line, if not;
    of a hub id before its weights are fetched."""
    name = str(folder) if is_id(folder) else None
    folder = Path(folder) if name is None else fetch(name, "checkpoint", KIND)
    if not folder.is_dir():
        raise UserError(f"no checkpoint folder at {folder}")
    kind = checkpoint_json(folder, name).get("model_type")
    if base_name_of({"model_type": kind}) is None:
        said = f"{name or folder} is not an ARMOR checkpoint: its model_type is {kind!r}"
        raise UserError(said, hint="make one with: armor-model build")
    if name is not None:
        folder = fetch(name, "checkpoint")
    for file in (*folder.glob("model*.safetensors"), *folder.glob("vq/*.safetensors")):
        refuse_pointer(file)
    if not any(folder.glob("model*.safetensors")):
        if any(file for pattern in PICKLES for file in folder.glob(pattern)):
            raise UserError(
                f"{folder} holds pickled weights, which can run code when loaded; only safetensors are read"
            )
        raise UserError(f"{folder} has no model*.safetensors")
    return folder


IMAGE_DEFAULTS = ("image_temperature", "image_top_k", "image_top_p")
"""What of drawing a checkpoint's generation_config.json can set."""


def image_defaults(folder: str | Path) -> dict[str, float]:
    """How a checkpoint asks to be drawn with, where nothing else is said: those of IMAGE_DEFAULTS that its
    generation_config.json names. Raises UserError for what is no number."""
    file = Path(folder) / "generation_config.json"
    settings = read_table(file) if file.exists() else {}
    named = {name: settings[name] for name in IMAGE_DEFAULTS if name in settings}
    for name, value in named.items():
        kind, word = (int, "whole number") if name == "image_top_k" else (int | float, "number")
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 <= value < math.inf:
            raise UserError(f"{file}: {name} is {value!r}, not a {word} of 0 or more")
    return named


def find_model(name: str | None) -> Path:
    """The checkpoint folder that `--model` names, a path, a hub id or `armor-nano`, which travels with the package and
    is meant where nothing is named; looked at before anything heavy is imported. Raises UserError."""
    return check_checkpoint(bundled() if name in (None, "armor-nano") else name)


def load_model(
    folder: str | Path, dtype: torch.dtype | str | None = None, device: str | None = None, **kwargs: Any
) -> ArmorModel:
    """Load and check every weight: a missing, unknown or mis-shaped one is a UserError that names it.

    Args:
        folder: the checkpoint.
        dtype: of the weights; by default as saved.
        device: where to put the model; `device_map` may be given instead, as to transformers.
        kwargs: for transformers' `from_pretrained`.
    """
    import torch

    from armor_model.modeling import model_class

    folder = check_checkpoint(folder)
    known = read_table(folder / "config.json")
    model = model_class(base_name_of(known) or "").from_pretrained(folder, dtype=dtype or "auto", **kwargs)
    if dtype is None and model.dtype == torch.float16 and device in (None, "cpu") and "device_map" not in kwargs:
        model = model.float()  # half precision saves the file's space; a CPU computes in single
    return model.to(device) if device else model


def new_model(config: ArmorFields) -> ArmorModel:
    """The untrained ARMOR of a configuration."""
    from armor_model.modeling import model_class

    return model_class(config.base_name)(config)


def load_processor(folder: str | Path) -> ArmorProcessor:
    """The processor of a checkpoint, with its image tokenizer where there is one."""
    from armor_model.base.runtime import prepare_torchvision

    prepare_torchvision()
    from transformers import AutoTokenizer

    from armor_model.config import config_class
    from armor_model.processing import FILE, ArmorProcessor, ProcessorSettings
    from armor_model.vq import ImageTokenizer

    folder = Path(folder)
    try:
        settings = ProcessorSettings(**checkpoint_json(folder, file=FILE))
    except TypeError as error:
        raise UserError(f"{folder / FILE} cannot be read: {error}") from error
    kind = config_class(settings.base)  # registered: AutoTokenizer asks for it
    if (folder / "config.json").exists():
        _check_settings(folder, settings, kind)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for a damaged tokenizer; the advice is the same
        raise UserError(f"the tokenizer in {folder} cannot be read: {reason_of(error)}") from error
    vq = ImageTokenizer.load(folder / "vq") if (folder / "vq").is_dir() else None
    if vq is not None and (vq.grid, vq.codebook_size) != (settings.image_grid, settings.codebook_size):
        raise UserError(
            f"{folder / 'vq'} is of another model: {vq.grid} x {vq.grid} codes out of {vq.codebook_size}, "
            f"{settings.image_grid} x {settings.image_grid} out of {settings.codebook_size} in config.json"
        )
    return ArmorProcessor(tokenizer, settings, vq)


def _check_settings(folder: Path, settings: ProcessorSettings, kind: type[ArmorFields]) -> None:
    """Raises UserError where config.json cannot be read, which AutoTokenizer would tell as a fault of the tokenizer, or
    where the processor's token ids are of another model's: answers would be nonsense, drawings an error."""
    from armor_model.processing import FILE

    try:
        config = kind.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for a field of a wrong type
        raise UserError(f"{folder / 'config.json'} cannot be read: {reason_of(error)}") from error
    for name in ("vocab_size", "codebook_size", "image_grid"):
        if (said := getattr(settings, name)) != (known := getattr(config, name)):
            raise UserError(f"{folder / FILE}: {name} is {said!r}, {known!r} in config.json")


def load(
    folder: str | Path, device: str | None = None, dtype: torch.dtype | str | None = None, **kwargs: Any
) -> tuple[ArmorModel, ArmorProcessor]:
    """Model (in evaluation mode) and processor of a checkpoint folder, or of a hub id; see `load_model`."""
    folder = check_checkpoint(folder)
    processor = load_processor(folder)
    model = load_model(folder, dtype=dtype, device=device, **kwargs)
    if processor.vq is not None:
        processor.vq.to(model.device)
    return model, processor


def save(model: ArmorModel, processor: ArmorProcessor, folder: str | Path) -> None:
    """Write a whole checkpoint folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
