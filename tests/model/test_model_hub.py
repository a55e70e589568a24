"""Checkpoints by hub id: fetched without pickles, pushed with a generated card; what fails is one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import huggingface_hub
import pytest
from hub_server import HubServer

from armor_eval.models import registry
from armor_eval.models.armor import load_folder
from armor_eval.models.drawing import locate
from armor_model import bundled, load, load_processor
from armor_model.base.errors import RunFailed, UserError
from armor_model.hub import card, check_login, is_id, name_of, push
from armor_model.loading import check_checkpoint


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A server of folders: armor-nano beside a pickle, an earlier revision of it, and somebody's transformers model."""
    nano, other = tmp_path / "served" / "nano", tmp_path / "served" / "other"
    shutil.copytree(bundled("armor-nano"), nano)
    (nano / "pytorch_model.bin").write_bytes(b"a pickle")
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "llava"}))
    (other / "model.safetensors").write_bytes(b"many gigabytes")
    with HubServer({"org/nano": {"main": nano, "v1": bundled("armor-nano")}, "org/other": {"main": other}}) as server:
        server.used_by(monkeypatch, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def uploads(monkeypatch, hub):
    """Calls of the hub client's writing side, whose uploads the server then has."""
    calls = []

    class Api:
        def whoami(self):
            calls.append(("whoami",))

        def create_repo(self, repo_id, private, exist_ok):
            calls.append(("create", repo_id, private, exist_ok))

        def upload_folder(self, repo_id, folder_path, commit_message):
            hub.repositories[repo_id] = {"main": folder_path}
            return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return calls


def test_a_model_loads_by_its_id_and_no_pickle_is_fetched(hub):
    model, processor = load("org/nano")
    assert model.config.model_type == "armor" and processor.vq is not None
    assert "model.safetensors" in hub.asked and "pytorch_model.bin" not in hub.asked


def test_a_revision_is_named_behind_the_id(hub):
    assert check_checkpoint("org/nano@v1").name == hub.commit("org/nano", "v1")
    assert check_checkpoint("org/nano").name == hub.commit("org/nano", "main")
    with pytest.raises(UserError, match="checkpoint org/nano@v2 is neither a folder here nor to be had from the hub"):
        check_checkpoint("org/nano@v2")


def test_the_harness_measures_a_model_by_its_id_and_records_the_commit(hub):
    here, there = registry.load("armor-nano", "shapes"), registry.load("org/nano@v1", "shapes")
    assert (there.info.spec, there.info.name) == ("org/nano@v1", "nano")
    assert there.info.revision == hub.commit("org/nano", "v1")
    assert there.info.fingerprint == here.info.fingerprint and there.info.parameters == here.info.parameters


def test_another_kind_of_model_is_told_before_its_weights_are_fetched(hub):
    with pytest.raises(UserError, match=r"org/other is no ARMOR checkpoint - did you mean --model hf:org/other\?"):
        registry.load("org/other", "official")
    with pytest.raises(UserError, match="org/other is not an ARMOR checkpoint: its model_type is 'llava'"):
        check_checkpoint("org/other")
    assert set(hub.asked) == {"config.json"}


@pytest.mark.slow
def test_commands_take_an_id(hub, tmp_path):
    """As typed, in processes of their own, which know the hub by HF_ENDPOINT."""
    pair = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
    (tmp_path / "c.jsonl").write_text("\n".join([json.dumps(pair)] * 4))
    stage = "stage --stage 3 --data s --mix t2t=4 --batch-size 4 --steps 1 --out run"
    typed = (
        ("trainer", "tokenize c.jsonl --out s"),
        ("trainer", stage),
        ("armor_eval", "understanding --bench POPE --profile shapes --limit 2 --out runs"),
    )
    for module, words in typed:
        command = [sys.executable, "-m", module, *words.split(), "--model", "org/nano"]
        env = {**os.environ, **hub.environment(tmp_path / "cache")}
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/*/run.json")
    assert json.loads(run.read_text())["model"]["revision"] == hub.commit("org/nano", "main")
    assert (tmp_path / "run/model/model.safetensors").is_file()


def test_a_folder_is_never_looked_up(hub, tmp_path):
    shutil.copytree(bundled("armor-nano"), tmp_path / "org" / "mine")
    assert not is_id("org/mine") and not is_id("./org/nano") and not is_id(bundled("armor-nano"))
    check_checkpoint("org/mine")
    load_processor(tmp_path / "org" / "mine")
    assert hub.asked == []


def test_an_id_that_is_not_there_is_one_line(hub):
    with pytest.raises(
        UserError, match="checkpoint org/none is neither a folder here nor to be had from the hub: 404 Client Error"
    ):
        check_checkpoint("org/none")


def test_what_was_pushed_loads_again_and_has_a_card(uploads, tmp_path):
    folder = tmp_path / "run" / "model"
    shutil.copytree(bundled("armor-nano"), folder)
    (folder / "README.md").write_text(card(folder, {"stage": "2", "t2i": "24 readings of 24"}))
    check_login("me/armor")
    assert push(folder, "me/armor") == "https://hub/me/armor/commit/1"
    assert uploads == [("whoami",), ("create", "me/armor", True, True)], "private unless somebody says otherwise"
    found = check_checkpoint("me/armor")
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: armor-eval\n") and "# run" in text
    assert "| stage | 2 |" in text and "| visual_head | 12,480 |" in text
    assert load_folder(folder, str(folder), "shapes").info.name == "run", "else all stages' models are called model"
    assert name_of(tmp_path / "armor-8b") == "armor-8b"


def test_a_push_that_fails_names_the_folder(uploads, monkeypatch):
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


def test_a_drawing_models_id_is_fetched_by_the_same_door(hub):
    folder, info = locate("diffusers", "org/other@main", leave=["*.safetensors"])
    assert [path.name for path in folder.iterdir()] == ["config.json"] and "model.safetensors" not in hub.asked
    assert (info.name, info.revision) == ("other", hub.commit("org/other", "main"))
    prints = {locate("diffusers", f"org/nano@{revision}", leave=["*"])[1].fingerprint for revision in ("main", "v1")}
    assert len(prints) == 2, "a revision is a model of its own"
    for rest in ("", "org/none", "nowhere", "../x/y"):
        with pytest.raises(UserError) as caught:
            locate("diffusers", rest)
        assert "diffusers" in caught.value.line() and "\n" not in caught.value.line()
