"""The Hugging Face hub: checkpoints fetched by id, and pushed with a card that is generated from what they are.

armor-model chat --model ORG/NAME
armor-eval understanding --model ORG/NAME@REVISION --bench all
armor-train stage ... --push-to-hub ORG/NAME
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from armor_model.base.errors import RunFailed, UserError, reason_of
from armor_model.base.jsons import JsonView
from armor_model.base.parsing import read_table
from armor_model.bases import base_name_of
from armor_model.presets import summary

CHECKPOINT = ("*.json", "*.safetensors", "tokenizer*", "*.txt", "*.model", "*.jinja", "vq/*")
"""Files of a checkpoint; a repository's pickles are not even downloaded."""
KIND = ("config.json", "model_index.json")
"""Files that tell what a repository holds, before its weights are fetched."""


def is_id(name: str | Path) -> bool:
    """Whether a name is a hub id rather than a path: ORG/NAME or ORG/NAME@REVISION, of which there is nothing here."""
    text = str(name)
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and not Path(text).exists()


def fetch(name: str, what: str, patterns: Sequence[str] | None = CHECKPOINT, leave: Sequence[str] = ()) -> Path:
    """A local folder, or that of a hub id's files, fetched where they are not cached; its name is then their commit.
    Raises UserError that says `what` is wanted.

    patterns: only such files; None: all but those of `leave`.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{what} {name} is a file; a folder is wanted")
    if not is_id(name):
        raise UserError(f"no {what} at {name}")
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    only = None if patterns is None else list(patterns)
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=only, ignore_patterns=list(leave))
        )
    except Exception as error:  # the hub client raises many kinds; all mean that the files are not to be had
        raise UserError(
            f"{what} {name} is neither a folder here nor to be had from the hub: {reason_of(error)}"
        ) from error


def check_login(repository: str) -> None:
    """Raises UserError where nobody is logged in who could push: seen before a training, not behind it."""
    from huggingface_hub import HfApi

    if repository.count("/") != 1:
        raise UserError(f"--push-to-hub {repository} is not ORG/NAME")
    try:
        HfApi().whoami()
    except Exception as error:  # as above
        raise UserError(f"cannot push to {repository}: {reason_of(error)}", "log in with: hf auth login") from error


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a checkpoint's folder, and create its repository if need be; the commit's address. Raises RunFailed."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload an ARMOR checkpoint")
    except Exception as error:  # as above
        raise RunFailed(
            f"{folder} was not pushed to {repository}: {reason_of(error)}", "the folder is whole"
        ) from error
    return str(done)


def name_of(folder: Path) -> str:
    """What a checkpoint is called: its folder's name; of one that a training wrote, `run2/model`, the run's: else all
    stages' models had one name."""
    folder = folder.resolve()
    return (folder.parent.name if folder.name == "model" else "") or folder.name


def card(folder: Path, training: JsonView | None = None, place: Path | None = None) -> str:
    """README.md of a checkpoint: what it is by its configuration, and what it was trained on and to.

    training: names and values of a table, as the run record has them. place: where the folder will lie, whose name the
    card bears; by default where it is.
    """
    config = read_table(folder / "config.json")
    sizes, base = summary(config), base_name_of(config) or "an unknown base"
    rows = [f"| {name} | {n:,} |" for name, n in {**sizes["parts"], "total": sizes["total"]}.items()]
    lines = [
        "---",
        "library_name: armor-eval",
        "pipeline_tag: any-to-any",
        f"tags: [armor, {base}, text-to-image]",
        "---",
        "",
        f"# {name_of(place or folder)}",
        "",
        f"An ARMOR (arXiv 2503.06542) on {base}: its answers may hold images. Generated from the checkpoint and the "
        "record of its training; no benchmark was run for this card.",
        "",
        "| part | parameters |",
        "|---|---|",
        *rows,
        "",
    ]
    if training:
        lines += ["| training | |", "|---|---|", *(f"| {name} | {value} |" for name, value in training.items()), ""]
    lines += ["    armor-model chat --model ORG/NAME", "    armor-eval understanding --model FOLDER --bench all", ""]
    return "\n".join(lines)
