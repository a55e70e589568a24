"""A checkpoint's own Python is not run unless `--trust-remote-code` says so, whatever is typed at a prompt."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import ROOT

from armor_model.base.errors import UserError

EVIL = "from pathlib import Path\n\nPath({marker!r}).touch()\n\n\nclass Evil:\n    pass\n"
MAP = {"AutoConfig": "evil.Evil", "AutoProcessor": "evil.Evil", "AutoTokenizer": ["evil.Evil", None]}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hostile code leaves its mark; whoever is asked whether to run it says yes."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    return tmp_path / "was-run"


def write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


def transformers_folder(folder: Path, code: str, **config: object) -> Path:
    write(folder / "evil.py", code)
    for name in ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        write(folder / name, {"auto_map": MAP})
    write(folder / "config.json", {"model_type": "evil", "auto_map": MAP} | config)
    write(folder / "model.safetensors", "")
    return folder


def hf(folder: Path, code: str) -> None:
    from armor_eval.models.hf import load

    load(str(transformers_folder(folder, code)), "official")._load()


def language(folder: Path, code: str) -> None:
    from armor_eval.models.language import load

    load(str(transformers_folder(folder, code)))


def diffusers_part(folder: Path, code: str) -> None:
    from armor_eval.models.diffusers import DiffusersModel

    write(folder / "unet" / "evil.py", code)
    write(folder / "model_index.json", {"_class_name": "StableDiffusionPipeline", "unet": ["evil", "Evil"]})
    DiffusersModel(str(folder), "cpu", None, None, {})._load()


def diffusers_pipeline(folder: Path, code: str) -> None:
    from armor_eval.models.diffusers import DiffusersModel

    write(folder / "evil.py", code)
    write(folder / "model_index.json", {"_class_name": ["evil", "Evil"]})
    DiffusersModel(str(folder), "cpu", None, None, {})._load()


def armor_processor(folder: Path, code: str) -> None:
    from armor_model import ArmorProcessor, bundled

    shutil.copytree(bundled("armor-nano"), folder)
    write(folder / "evil.py", code)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write(folder / "tokenizer_config.json", settings | {"auto_map": MAP, "tokenizer_class": "Evil"})
    ArmorProcessor.from_pretrained(folder)


@pytest.mark.parametrize("load", [hf, language, diffusers_part, diffusers_pipeline, armor_processor])
def test_code_in_a_checkpoint_is_not_run(load: Callable[[Path, str], None], marker: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        load(tmp_path / "checkpoint", EVIL.format(marker=str(marker)))
    assert not marker.exists()


OURS = {"ArmorProcessor", "config_class(base)", "model_class(base_name_of(known) or '')", "super()"}
"""Readers of ARMOR's own folders, by this project's classes, which generate with code of their own."""


def test_every_load_says_whether_code_is_run() -> None:
    silent = []
    for file in [path for part in ("armor_eval", "armor_model", "trainer") for path in (ROOT / part).rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        for node in (
            ast.walk(ast.parse(text)) if re.search("from_pretrained|trust_remote_code|custom_pip", text) else ()
        ):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            said = {word.arg for word in node.keywords}
            if node.func.attr == "from_pretrained" and not said & {"trust_remote_code", None}:
                of = ast.unparse(node.func.value)
                silent += [f"{file.relative_to(ROOT)}:{node.lineno} {of}"] if of not in OURS else []
            for word in node.keywords:  # True in the source would be a decision taken for the user
                if word.arg in ("trust_remote_code", "custom_pipeline") and ast.unparse(word.value) == "True":
                    silent.append(f"{file.relative_to(ROOT)}:{node.lineno} {word.arg}")
    assert silent == []
