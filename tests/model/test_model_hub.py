"""Checkpoints by hub id: fetched without pickles, pushed with a generated card; what fails is one line."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest

from armor_model import bundled, load, load_processor
from armor_model.base.errors import RunFailed, UserError
from armor_model.hub import CHECKPOINT, card, check_login, is_id, push
from armor_model.loading import check_checkpoint


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of folders: repositories by id, calls that were made."""
    repositories, calls = {"org/nano": bundled("armor-nano")}, []

    def snapshot_download(repo_id, allow_patterns=None):
        calls.append(("download", repo_id, tuple(allow_patterns)))
        if repo_id not in repositories:
            raise OSError(f"404: {repo_id} is not here\nsecond line")
        return str(repositories[repo_id])

    class Api:
        def whoami(self):
            calls.append(("whoami",))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))
            repositories[repo_id] = tmp_path / repo_id.replace("/", "--")

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, repositories[repo_id])
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_model_loads_by_its_id(hub):
    model, processor = load("org/nano")
    assert model.config.model_type == "armor" and processor.vq is not None
    assert hub[0] == ("download", "org/nano", CHECKPOINT) and not any(".bin" in p or ".ckpt" in p for p in CHECKPOINT)


def test_a_folder_is_never_looked_up(hub, tmp_path):
    shutil.copytree(bundled("armor-nano"), tmp_path / "org" / "mine")
    assert not is_id("org/mine") and not is_id("./org/nano") and not is_id(bundled("armor-nano"))
    check_checkpoint("org/mine")
    load_processor(tmp_path / "org" / "mine")
    assert hub == []


def test_an_id_that_is_not_there_is_one_line(hub):
    with pytest.raises(UserError, match="checkpoint org/none is neither a folder here nor to be had from the hub: 404"):
        check_checkpoint("org/none")


def test_what_was_pushed_loads_again_and_has_a_card(hub, tmp_path):
    folder = tmp_path / "run" / "model"
    shutil.copytree(bundled("armor-nano"), folder)
    (folder / "README.md").write_text(card(folder, {"stage": "2", "t2i": "24 readings of 24"}))
    check_login("me/armor")
    assert push(folder, "me/armor") == "https://hub/me/armor/commit/1"
    assert hub == [("whoami",), ("create", "me/armor", True, True)], "private unless somebody says otherwise"
    found = check_checkpoint("me/armor")
    text = (found / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: armor-eval\n") and "# run" in text
    assert "| stage | 2 |" in text and "| visual_head | 12,480 |" in text


def test_a_push_that_fails_names_the_folder(hub, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("403 Forbidden\nlong")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "whoami", refuse)
    with pytest.raises(RunFailed, match="was not pushed to me/armor: 403 Forbidden - the folder is whole"):
        push(bundled("armor-nano"), "me/armor")
    with pytest.raises(UserError, match="cannot push to me/armor: 403 Forbidden - log in with: hf auth login"):
        check_login("me/armor")
    with pytest.raises(UserError, match="is not ORG/NAME"):
        check_login("armor")
