"""The seal of a scored bundle: hashes by which a record that was edited is told from one that was measured.

It guards against accidents - an editor, a script, a half-copied folder -, not against a forger, who can seal again.
"""

from __future__ import annotations

import json
from pathlib import Path

from armor_eval.runs.schema import Run, Seal
from armor_model.base.files import write_file
from armor_model.base.hashing import sha256_file, sha256_json

SEALED = {"items": "items.jsonl", "scores": "scores.json"}


def write_run(folder: Path, run: Run, *, seal: bool) -> Run:
    """Write run.json as a whole, sealed over the files beside it where `seal`; returns the record as written."""
    run = run.model_copy(update={"seal": None})
    if seal:
        hashes = {part: sha256_file(folder / name) for part, name in SEALED.items() if (folder / name).is_file()}
        record = json.loads(run.model_dump_json())
        run = run.model_copy(update={"seal": Seal(**hashes, run=_record_hash(record))})
    write_file(folder / "run.json", run.model_dump_json(indent=1) + "\n")
    return run


def changed_files(folder: Path, run: Run) -> list[str]:
    """The files of a bundle that are not as they were when it was scored; a file that is gone is not a changed one.

    Empty for a bundle without a seal: of before there was one, or not scored yet.
    """
    if run.seal is None:
        return []
    changed = [
        name
        for part, name in SEALED.items()
        if (expected := getattr(run.seal, part)) is not None
        and (folder / name).is_file()
        and sha256_file(folder / name) != expected
    ]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8", errors="surrogatepass"))
    return changed if _record_hash(record) == run.seal.run else [*changed, "run.json"]


def _record_hash(record: dict[str, object]) -> str:
    """Of the record as JSON without its seal: a later version's new fields do not break the seals of older runs."""
    return sha256_json({name: value for name, value in record.items() if name != "seal"})
