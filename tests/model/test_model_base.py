"""The lowest layer: one-line errors and exit codes, whole files and folders, hashes, sub-seeds, devices."""

import errno
import hashlib
import os
import subprocess
import sys

import pytest
import typer

from armor_model.base.cli import run_app
from armor_model.base.devices import check_device, choose_device, peak_resident_bytes, torch_dtype
from armor_model.base.errors import ArmorError, RunFailed, UserError, did_you_mean, disk_is_full, unknown_name
from armor_model.base.files import (
    DRAFT,
    check_free,
    check_in_place,
    hold_folder,
    make_folder,
    whole_file,
    whole_folder,
    write_file,
    writing,
)
from armor_model.base.hashing import sha256_file, sha256_folder, sha256_json, sha256_text
from armor_model.base.seeds import sub_seed

# ---- errors and main -------------------------------------------------------------------------------------------------


def ends_with(error, capsys, **settings):
    """Exit code and stderr of a command that raises this."""
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        pass

    @app.command()
    def go(number: int = 0) -> None:
        if error is not None:
            raise error

    code = run_app(app, "prog", ["go"], **settings)
    return code, capsys.readouterr().err


def test_an_error_is_one_line_with_its_hint():
    error = UserError("no file\nat x", "type  y")
    assert str(error) == error.line() == "no file at x - type y"
    assert isinstance(error, ArmorError) and (error.exit_code, RunFailed("stopped").exit_code) == (2, 1)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("wrong", "type this"), 2, "prog: wrong - type this\n"),
        (RunFailed("stopped"), 1, "prog: stopped\n"),
        (KeyboardInterrupt(), 130, "prog: interrupted - continue with: prog go\n"),
        (typer.Abort(), 130, "prog: interrupted - continue with: prog go\n"),
        (
            OSError(errno.ENOSPC, "No space left", "x"),
            1,
            "prog: no space left on the disk for x: free some, then continue with: prog go\n",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "prog: cannot use x: Permission denied\n"),
        (typer.BadParameter("too small"), 2, "prog: Invalid value: too small - see prog go --help\n"),
    ],
)
def test_how_a_command_ends(error, code, line, capsys):
    assert ends_with(error, capsys) == (code, line)


def test_a_bug_keeps_its_traceback(capsys):
    for bug in (ZeroDivisionError("x"), OSError(errno.ECONNRESET, "reset")):
        with pytest.raises(type(bug)):
            ends_with(bug, capsys)
    code, err = ends_with(ZeroDivisionError("x"), capsys, failed=2)
    assert code == 2 and "Traceback" in err and "ZeroDivisionError" in err
    assert ends_with(RunFailed("stopped"), capsys, failed=2)[0] == 2


def test_wrong_words_are_told_the_command_they_belong_to(capsys):
    app = typer.Typer()
    app.command("draw")(lambda seed=0: None)
    app.command("chat")(lambda: 3)
    assert run_app(app, "prog", ["chat"]) == 3
    assert run_app(app, "prog", ["drew"]) == 2 and "Did you mean 'draw'?" in capsys.readouterr().err
    assert run_app(app, "prog", ["draw", "--sed", "1"]) == 2
    assert capsys.readouterr().err.endswith("- see prog draw --help\n")


def test_names_near_a_known_one():
    assert did_you_mean("mbb", ["MMB", "POPE"]) == " (did you mean MMB?)" and not did_you_mean("x", ["MMB"])
    assert unknown_name("benchmark", "POP", ["MMB", "POPE"]).line() == (
        "unknown benchmark 'POP' (did you mean POPE?) - known: MMB, POPE"
    )


def test_a_full_disk_behind_another_error():
    try:
        try:
            raise OSError(errno.EDQUOT, "quota")
        except OSError as cause:
            raise RuntimeError("write failed") from cause
    except RuntimeError as error:
        assert disk_is_full(error)
    assert disk_is_full(Exception("File too large (os error 27)"))  # as tokenizers says it
    assert not disk_is_full(RuntimeError("x")) and not disk_is_full(UserError("said (os error 28)"))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_is_old_or_new(tmp_path):
    path = tmp_path / "a.png"
    write_file(path, "old \ud800")
    assert path.read_bytes() == b"old \xed\xa0\x80"
    with pytest.raises(ZeroDivisionError), whole_file(path) as draft:
        assert draft.suffix == ".png"
        draft.write_bytes(b"half")
        raise ZeroDivisionError
    assert path.read_bytes().startswith(b"old") and [p.name for p in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(FileNotFoundError) as caught:
        write_file(tmp_path / "no" / "a", b"")
    assert caught.value.filename == str(tmp_path / "no" / "a")  # what the user named, not a draft


def test_a_folder_is_whole_or_absent(tmp_path):
    out, other = tmp_path / "run", tmp_path / f"{DRAFT}4194305-run-2"
    other.mkdir()
    (tmp_path / f"{DRAFT}4194305-run").mkdir()
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as draft:
        assert draft.parent == tmp_path and not (tmp_path / f"{DRAFT}4194305-run").exists()
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [other]  # a draft of another folder stays
    for text in ("first", "second"):
        with whole_folder(out, replaces="config.json") as draft:
            assert text == "first" or (out / "config.json").read_text() == "first"
            (draft / "config.json").write_text(text)
    assert (out / "config.json").read_text() == "second" and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(UserError, match="is not empty"), whole_folder(out):
        pass
    with pytest.raises(RunFailed, match="no room"), whole_folder(tmp_path / "b", no_space="no room") as draft:
        raise OSError(errno.ENOSPC, "full")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        for use in (check_free, make_folder):
            with pytest.raises(UserError, match="cannot write into"):
                use(path)
    assert list(make_folder(tmp_path / "c" / "d").iterdir()) == []


def test_a_folder_that_vanishes_while_it_is_written_fails_the_run(tmp_path):
    with pytest.raises(RunFailed, match="removed or replaced"), whole_folder(tmp_path / "up" / "a") as draft:
        (tmp_path / "up").rename(tmp_path / "away")
        (draft / "x").write_text("x")
    with pytest.raises(RunFailed, match="No such file"), writing(tmp_path / "up"):
        write_file(tmp_path / "up" / "b", "x")
    with pytest.raises(OSError, match="full"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "full")
    with (tmp_path / "log").open("w") as log:
        check_in_place(tmp_path / "log", log.fileno())
        write_file(tmp_path / "log", "another file")
        with pytest.raises(RunFailed, match="another file has its name"):
            check_in_place(tmp_path / "log", log.fileno())


def test_a_read_only_folder_is_seen_at_the_next_line(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # chmod stops no root, who runs the tests in containers
    with (tmp_path / "log").open("w") as log, pytest.raises(RunFailed, match="read-only"):
        check_in_place(tmp_path / "log", log.fileno())


def test_two_processes_in_one_folder(tmp_path):
    with (
        hold_folder(tmp_path, "prog go"),
        pytest.raises(UserError, match="another prog go is writing"),
        hold_folder(tmp_path, "prog go"),
    ):
        pass
    other = tmp_path / f"{DRAFT}{os.getppid()}-run"  # of a process that lives
    other.mkdir()
    with pytest.raises(UserError, match="is not empty"), whole_folder(tmp_path / "run") as draft:
        assert other.exists()
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.json").write_text("the other one was first")
    assert not draft.exists() and (tmp_path / "run" / "config.json").read_text() == "the other one was first"


# ---- hashes, seeds, devices ------------------------------------------------------------------------------------------


def test_hashes(tmp_path):
    (tmp_path / "a.json").write_text("x")
    digest = hashlib.sha256(b"x").hexdigest()
    assert sha256_file(tmp_path / "a.json") == sha256_text("x") == digest
    assert sha256_json({"b": 1, "a": "ü"}) == sha256_text('{"a": "ü", "b": 1}')
    before = sha256_folder(tmp_path)
    assert before == hashlib.sha256(b"a.json" + bytes.fromhex(digest)).hexdigest()
    (tmp_path / "card.md").write_text("not of the model")
    assert sha256_folder(tmp_path) == before
    (tmp_path / "b.safetensors").write_text("y")
    assert sha256_folder(tmp_path) != before


def test_sub_seeds_are_those_of_the_committed_runs():
    assert sub_seed(0, "red circle", 2) == int(sha256_text("0:red circle:2")[:8], 16)
    assert sub_seed(0, "t2ti") != sub_seed(0, "ti2t") and sub_seed(1, bits=31) == sub_seed(1) >> 1


def test_devices_and_types(monkeypatch):
    import torch

    assert choose_device("cpu") == "cpu" and torch_dtype(None) is None and torch_dtype("bfloat16") is torch.bfloat16
    with pytest.raises(UserError, match="cannot use device 'tpu9'"):
        check_device("tpu9")
    with pytest.raises(UserError, match="did you mean float32"):
        torch_dtype("flota32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device() == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device() == "cuda:1"


def test_the_lowest_layer_imports_nothing_else():
    """Beside what the interpreter itself begins with (Debian's has a `sitecustomize`)."""
    names = ("cli", "devices", "errors", "files", "hashing", "seeds")
    code = f"import sys; began = {{*sys.modules}}; [__import__(f'armor_model.base.{{n}}') for n in {names}]; " + (
        "print(*sorted({m.split('.')[0] for m in {*sys.modules} - began} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if not name.startswith("_")} <= {"armor_model"}


def test_peak_memory_is_this_process_alone():
    """A child of a process that held 256 MiB is not charged with them, as `ru_maxrss` would."""
    held = b"1" * 2**28
    code = "from armor_model.base.devices import peak_resident_bytes; print(peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held) / 2 < peak_resident_bytes()
