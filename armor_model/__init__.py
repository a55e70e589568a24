"""ARMOR: an existing multimodal model that answers in text, images, or both.

Names are loaded on first use, so that `import armor_model` costs nothing and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from armor_model.base.errors import UserError

_HOME = {
    "ArmorConfig": "config",
    "ArmorError": "base.errors",
    "ArmorForConditionalGeneration": "modeling",
    "ArmorOutput": "modeling",
    "ArmorProcessor": "processing",
    "ChameleonVQ": "vq",
    "GenerationSettings": "generation",
    "ImageTokenizer": "vq",
    "PatchVQ": "vq",
    "PrefixCache": "generation",
    "Response": "generation",
    "UserError": "base.errors",
    "build_vq": "vq",
    "build_word_tokenizer": "template",
    "draw": "generation",
    "generate": "generation",
    "load": "loading",
    "load_processor": "loading",
    "new_model": "loading",
    "preset": "presets",
    "preset_names": "presets",
    "save": "loading",
    "stream": "generation",
}

__version__ = "0.1.0"
"""Of the three programs: they are released together."""

__all__ = [*_HOME, "bundled"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def bundled(name: str = "armor-nano") -> Path:
    """The folder of a checkpoint that travels with the package.

    Raises:
        UserError: there is no such checkpoint, or it has not been written yet.
    """
    folder = Path(__file__).resolve().parent / "pretrained" / name
    if not (folder / "config.json").is_file():
        have = sorted(p.parent.name for p in folder.parent.glob("*/config.json"))
        raise UserError(f"no bundled checkpoint named {name!r}", hint=f"bundled: {', '.join(have) or 'none'}")
    return folder
