"""What a GenEval prompt set may talk about: classes, colours, relations; declared in `benchmarks/geneval/*.json`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from armor_eval.base.resources import benchmarks_dir
from armor_eval.runs.schema import Profile
from armor_model.base.errors import UserError

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@dataclass(frozen=True)
class Vocabulary:
    """The closed lists of one profile."""

    name: str
    """`geneval`, or another profile's."""
    profile: Profile
    classes: tuple[str, ...]
    """In the detector's order."""
    colors: tuple[str, ...]
    """In the colour classifier's order."""
    relations: tuple[str, ...]


def declaration(profile: str) -> dict:
    """The profile's JSON file as it is."""
    return json.loads((benchmarks_dir() / "geneval" / f"{profile}.json").read_text())


def load_vocabulary(profile: Profile) -> Vocabulary:
    """The profile's declared lists; `official`: the 80 class names of the published list, held to its hash."""
    data = declaration(profile)
    if "classes_file" in data:
        path = benchmarks_dir() / "geneval" / data["classes_file"]
        raw = path.read_bytes()
        found = hashlib.sha256(raw).hexdigest()
        if found != data["classes_sha256"]:
            raise UserError(f"{path} is not the official class list: sha256 {found}, expected {data['classes_sha256']}")
        classes = tuple(raw.decode().split("\n")[:-1]) if raw.endswith(b"\n") else tuple(raw.decode().split("\n"))
    else:
        classes = tuple(data["classes"])
    return Vocabulary(data["name"], profile, classes, tuple(data["colors"]), tuple(data["relations"]))
