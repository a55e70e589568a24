"""The prompts of the paper's section 6.2 as requests: official ones as printed, those of the shapes world alike."""

from __future__ import annotations

import json
from pathlib import Path

from armor_eval.base.data import benchmarks_dir
from armor_eval.profiles import ProfileSpec
from armor_eval.tasks.modality import SECTION
from armor_eval.tasks.modality.layouts import IMAGE
from armor_eval.tasks.modality.records import Record, Requests, image_in
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file, sha256_json
from armor_model.base.images import BadImageError


def side_by_side(profile: ProfileSpec, image: Path | None) -> tuple[Requests, list[str]]:
    """The requests, and remarks on what is left out: the paper's image of cookies is not published, official runs
    bring one of their own (`image`). UserError where it cannot be read."""
    declared = json.loads((benchmarks_dir() / "paper" / "side_by_side.json").read_text(encoding="utf-8"))[profile.name]
    records, remarks = [], []
    for entry in declared:
        shown = entry.get("scene") or (image.name if entry.get("image") and image is not None else None)
        if entry.get("image") and image is None:
            remarks.append("the first prompt needs an image (--image) and is left out")
            continue
        text = f"{IMAGE}\n{entry['text']}" if shown else entry["text"]
        record = {"id": entry["id"], "kind": "ti2ti" if shown else "t2ti", "images": [shown] if shown else []}
        record |= {"messages": [{"role": "user", "content": text}], "expect": {"text": True, "image": True}}
        records.append(Record.model_validate(record))
    if image is not None:
        try:
            image_in(image.parent)(image.name)
        except (OSError, BadImageError) as error:
            raise UserError(f"cannot read --image {image}: {error}") from None
    own = sha256_file(image) if image is not None else None
    opened = profile.part("reader").render if profile.guest is not None else image_in((image or Path()).parent)
    return Requests(SECTION, records, sha256_json([[r.model_dump() for r in records], own]), opened), remarks
