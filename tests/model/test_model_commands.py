"""The command line's mistakes: nothing is written over, every number has bounds, every refusal is one line."""

import json
import struct
import zlib
from pathlib import Path

import convert_reference as reference
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from armor_model import ArmorError, GenerationSettings, bundled, generate, save
from armor_model.base.files import DRAFT
from armor_model.cli import app
from armor_model.convert.build import build
from armor_model.convert.export import export
from armor_model.convert.shards import write
from armor_model.images import open_image


@pytest.fixture
def armor(pair, tmp_path):
    save(*pair, tmp_path / "armor")
    return tmp_path / "armor"


@pytest.fixture
def base(tmp_path, tokenizer):
    """A tiny InternVL as published."""
    config = reference.config("qwen2", vocab=len(tokenizer))
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    save_file({k: v.contiguous() for k, v in reference.checkpoint(config).items()}, folder / "model.safetensors")
    return folder


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def said(*arguments):
    """The ArmorError that a command ends with: main() prints it in one line and exits with 2."""
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(done.exception, ArmorError), (done.exception, done.output)
    assert len(str(done.exception).splitlines()) == 1
    return str(done.exception)


# ---- nothing is written over -----------------------------------------------------------------------------------------


def test_nothing_is_written_over(armor, base, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    for folder in (armor, base, tmp_path / "notes"):
        before = content(folder)
        assert "is not empty" in said("export-internvl", "--model", armor, "--out", folder)
        assert "is not empty" in said("build", "--base", base, "--out", folder)
        assert content(folder) == before


def test_a_repeated_export_leaves_no_older_shards(armor, tmp_path):
    out = tmp_path / "plain"
    export(armor, out)
    with pytest.raises(ArmorError, match="not empty"):
        export(armor, out, max_shard=20_000)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert not [file for file in out.glob("*.json") if str(armor) in file.read_text()], "no path of this machine"
    with pytest.raises(ArmorError, match="holds weights"):
        write([], out)


def test_an_empty_folder_is_filled_and_a_failure_leaves_it_empty(armor, base, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    monkeypatch.chdir(out)
    (base / "model.safetensors").rename(base / "away")
    with pytest.raises(ArmorError, match=r"has no \*\.safetensors"):
        build(str(base), None, Path())
    assert not list(out.iterdir())
    (out / f"{DRAFT}4194305").mkdir()  # what a kill leaves behind
    export(armor, Path())
    assert out.stat().st_ino == before  # a mount could not be replaced
    assert not list(out.glob(f"{DRAFT}*")) and {"config.json", "model.safetensors"} <= {p.name for p in out.iterdir()}


def test_a_kill_leaves_no_checkpoint(armor, base, tmp_path, monkeypatch):
    """Whenever it comes: all is written into a draft, renamed whole; out of one in a folder that is there already (a
    mount, say) config.json is the last to move."""
    moved, rename = [], Path.rename

    def watched(path, target):
        whole = path.name.startswith(DRAFT) and (path / "config.json").exists() and not target.exists()
        assert whole or (path.parent.name.startswith(DRAFT) and not (target.parent / "config.json").exists())
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watched)
    for make in (lambda out: export(armor, out), lambda out: build(str(base), None, out)):
        moved.clear()
        make(tmp_path / f"new{id(make)}")
        assert len(moved) == 1 and moved[0].startswith(DRAFT)
        moved.clear()
        (tmp_path / f"there{id(make)}").mkdir()
        make(tmp_path / f"there{id(make)}")
        assert len(moved) > 4 and moved[-1] == "config.json"


def test_a_failed_command_leaves_no_folder(base, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("armor_model.convert.build._save_processor", full)
    assert "no space left" in said("build", "--base", base, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_paths_that_are_of_the_wrong_kind(armor, base, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("a file")
    assert "is a file" in said("build", "--base", file, "--out", tmp_path / "out")
    for out in (file, file / "below"):
        assert "cannot write into" in said("build", "--base", base, "--out", out)
        assert "cannot write into" in said("export-internvl", "--model", armor, "--out", out)
        for command in (["generate", "a"], ["chat"]):
            assert "cannot write into" in said(*command, "--model", armor, "--out", out)
    assert file.read_text() == "a file"
    (base / "config.json").unlink()
    (base / "config.json").mkdir()
    assert "cannot be read" in said("build", "--base", base, "--out", tmp_path / "out")


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "0.0000000001"])
def test_shard_sizes(armor, base, tmp_path, given):
    out = tmp_path / "out"
    assert "--shard-gb must be" in said("export-internvl", "--model", armor, "--out", out, "--shard-gb", given)
    assert "--shard-gb must be" in said("build", "--base", base, "--out", out, "--shard-gb", given)
    assert not out.exists()


@pytest.mark.parametrize("given", ["--no-images", "--max-images=0"])
def test_an_image_that_is_asked_for_and_forbidden_is_told_in_the_commands_words(tmp_path, given):
    done = CliRunner().invoke(app, ["generate", "a", "--draw", given, "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ArmorError) and "--draw" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [
        "--batch-size=0",
        "--batch-size=-1",
        "--max-new-tokens=0",
        "--max-images=-1",
        "--temperature=-1",
        "--temperature=nan",
        "--temperature=inf",
        "--image-temperature=nan",
        "--top-k=-1",
        "--image-top-k=-1",
        "--top-p=0",
        "--top-p=nan",
        "--top-p=1.1",
        "--image-top-p=-1",
        "--guidance=-1",
        "--guidance=nan",
        "--guidance=inf",
        "--seed=-1",
        "--seed=99999999999999999999",
    ],
)
def test_numbers_out_of_bounds_are_refused(armor, tmp_path, given):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["generate", "a", "--model", str(armor), "--out", str(out), "--draw", given])
    assert done.exit_code == 2 or isinstance(done.exception, ArmorError), (done.exception, done.output)
    assert not out.exists()


def test_every_option_has_a_help_text():
    from typer.main import get_command

    for name, command in get_command(app).commands.items():
        for option in command.params:
            assert option.help, (name, option.name)


def test_a_library_caller_meets_the_same_bounds(pair, conversations):
    with pytest.raises(ArmorError, match="batch_size must be at least 1"):
        generate(*pair, conversations[:1], batch_size=0)


def test_the_context_bounds_what_is_allocated(pair, conversations):
    """However many tokens are asked for: room for the context is all that an answer can use."""
    few, many = (GenerationSettings(max_new_tokens=n, temperature=1.0, max_images=1) for n in (1024, 10**13))
    ours, theirs = (generate(*pair, conversations[:1], s, seeds=[3])[0] for s in (few, many))
    assert ours.tokens == theirs.tokens


def test_params_of_the_bundled_model_are_those_of_its_checkpoint():
    from armor_model import load

    done = CliRunner().invoke(app, ["params", "--config", "armor-nano", "--json"])
    model, _ = load(bundled("armor-nano"))
    assert json.loads(done.output)["total"] == sum(p.numel() for p in model.parameters())


def test_params_of_what_is_no_configuration(tmp_path):
    for text in ("[]", "{}", '{"text_config": [], "vision_config": 1, "codebook_size": 2}', '{"text_config": 1'):
        (tmp_path / "config.json").write_text(text)
        assert "is not an ARMOR configuration" in said("params", "--config", tmp_path)


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        struct.error("unpack requires\na buffer of 4 bytes"),
        IndexError(),
        KeyError("mode"),
        OverflowError("big"),
        RecursionError("deep"),
        Image.DecompressionBombError("pixels"),
        zlib.error("bad"),
        SyntaxError("broken PNG"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["open", "load"])
def test_whatever_pillow_raises_is_one_line(tmp_path, monkeypatch, error, where):
    def fails(*_, **__):
        raise error

    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)
    monkeypatch.setattr(*((Image, "open") if where == "open" else (Image.Image, "convert")), fails)
    with pytest.raises(ArmorError, match=r"a\.png") as caught:
        open_image(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["open", "new"])
def test_memory_and_ctrl_c_are_no_fault_of_the_image(tmp_path, monkeypatch, error, name):
    def fails(*_, **__):
        raise error

    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 4)).save(path)
    monkeypatch.setattr(Image, name, fails)
    with pytest.raises(error):
        open_image(path)


@pytest.mark.parametrize("words", [["generate", "hi", "--batch-size", "0"], ["generat"], ["generate", "--seed", "1"]])
def test_a_usage_error_is_one_line_and_exit_2(words, monkeypatch, capsys):
    from armor_model.cli import main

    monkeypatch.setattr("sys.argv", ["armor-model", *words])
    code = main()
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("armor-model: ") and error.count("\n") == 1
