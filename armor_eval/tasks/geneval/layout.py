"""GenEval's folder layout: `DIR/00000/metadata.jsonl` and `DIR/00000/samples/00000.png`, four images a prompt.

Every other GenEval tool reads this layout; so do we (`--images DIR`, folders.py beside this), and we write it into each
run's folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from armor_model.base.files import write_file
from armor_model.base.jsons import JsonObject

IMAGES = "images"
"""Folder of a run that holds its images."""
SAMPLES = 4
"""Images a prompt."""


def folder_name(prompt: int) -> str:
    return f"{prompt:05d}"


def sample_path(prompt: int, sample: int) -> str:
    """Path inside an images folder."""
    return f"{folder_name(prompt)}/samples/{sample:05d}.png"


def seed_of(base: int, prompt: int, sample: int) -> int:
    """An image's own seed, 31 bits: the same in any batch, subset or process."""
    digest = hashlib.sha256(f"{base}:{prompt}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def write_metadata(root: Path, prompt: int, record: JsonObject) -> None:
    """A prompt's record beside its images, unless it is there."""
    path = root / folder_name(prompt) / "metadata.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps(record) + "\n", sync=False)
