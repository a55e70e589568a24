"""A model's folder by its hub name: `ID[@REVISION]`, fetched if it is not cached; a local folder is taken as it is."""

from __future__ import annotations

from pathlib import Path

from armor_eval.runs.schema import ModelInfo
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_folder, sha256_text


def parse(kind: str, rest: str) -> tuple[str, str | None]:
    """`ID@REVISION` -> (ID, REVISION or None)."""
    if not rest:
        raise UserError(f"{kind}: names no model", hint=f"expected {kind}:OWNER/NAME or {kind}:FOLDER")
    name, _, revision = rest.partition("@")
    return name, revision or None


def snapshot(kind: str, name: str, revision: str | None, leave: list[str] | None = None) -> tuple[Path, str | None]:
    """Local folder of a hub repository, fetched if it is not cached, and its commit. UserError where there is none.

    `leave`: patterns of files that are not needed.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    if not name or name.count("/") != 1 or folder.is_absolute() or ".." in folder.parts:
        raise UserError(f"{kind}:{name} is neither a folder nor a hub name", hint=f"expected {kind}:OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision, ignore_patterns=leave))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        first = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot get {name} from the hub: {first}", hint=f"give a local folder: {kind}:FOLDER"
        ) from None
    return path, path.name


def locate(kind: str, rest: str, dtype: str | None = None, leave: list[str] | None = None) -> tuple[Path, ModelInfo]:
    """The folder of `KIND:ID[@REVISION]`, and the record of the model in it."""
    name, revision = parse(kind, rest)
    folder, commit = snapshot(kind, name, revision, leave)
    fingerprint = sha256_text(f"{kind}:{name}@{commit}") if commit else sha256_folder(folder)
    info = ModelInfo(spec=f"{kind}:{rest}", name=Path(name).name, fingerprint=fingerprint, dtype=dtype, revision=commit)
    return folder, info
