"""The command line answers at once, keeps its surface, and prints a user's mistake in one line."""

import json
import subprocess
import sys

import pytest

from armor_eval import __version__
from armor_eval.cli import COMMANDS, main

HEAVY = ("torch", "numpy", "pandas", "pydantic", "vlmeval", "transformers", "matplotlib", "scipy")
HERE = {
    "demo": ["--out", "--seed", "--json"],
    "understanding": [
        "--bench",
        "--model",
        "--profile",
        "--limit",
        "--out",
        "--data",
        "--any-data",
        "--batch-size",
        "--seed",
        "--max-new-tokens",
        "--mask-imgbos",
        "--blind",
        "--judge",
        "--judge-url",
        "--judge-model",
        "--judge-max-tokens",
        "--judge-request-json",
        "--request-json",
        "--baselines",
        "--retention",
        "--trust-remote-code",
        "--json",
    ],
    "vlmeval": ["--checkpoint", "--max-new-tokens", "--any-data"],
    "list": ["--json"],
    "doctor": ["--json"],
}
"""The options that scripts may rely on: one that goes away or is renamed is noticed here."""


def child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from armor_eval.cli import main\n"
        "assert main(['--help']) == 0\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = child(code)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_list_names_every_measurement_and_model(capsys):
    import json

    from armor_eval.cli import COMMANDS
    from armor_eval.models.registry import KINDS
    from armor_eval.tasks.suites.declare import suites
    from armor_eval.tasks.understanding.declare import benchmarks

    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    beside = ("geneval", "modality", "interleaved", "judge", "ablate-heads", "ablate-stages")
    assert set(beside) < set(COMMANDS)
    assert all(name in shown for name in (*benchmarks(), *beside))
    assert all(kind.shows in shown for kind in KINDS.values())
    assert main(["list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [*benchmarks(), *beside, *suites()]


def test_the_help_says_how_to_start_several_processes(capsys):
    assert main(["understanding", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "torchrun --nproc-per-node N" in shown and "accelerate launch --multi_gpu" in shown


@pytest.mark.parametrize("command", ["list", "doctor"])
def test_small_commands_do_without_torch_and_vlmeval(command):
    code = (
        f"import sys\nfrom armor_eval.cli import main\nmain([{command!r}, '--json'])\n"
        "heavy = [m for m in ('torch', 'vlmeval', 'pandas', 'transformers') if m in sys.modules]\n"
        "print('HEAVY', heavy, file=sys.stderr)"
    )
    assert "HEAVY []" in child(code).stderr


def test_every_command_is_listed_with_a_line(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"│ {name} " in shown


@pytest.mark.parametrize("command", HERE)
def test_command_surface(command, capsys):
    assert command in COMMANDS
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in HERE[command]:
        assert option in shown, f"{command} lost {option}"


@pytest.mark.parametrize(
    ("argv", "needle"),
    [
        (["understand"], "did you mean understanding"),
        (["understanding", "--bench", "MMBB"], "did you mean MMB?"),
        (["understanding", "--bench", "mmbench_dev_n"], "did you mean MMBench_DEV_EN?"),
        (["understanding", "--bench", "MMB", "--profile", "shape"], "did you mean shapes?"),
        (["understanding", "--bench", "MMB", "--model", "mok:A"], "did you mean mock?"),
        (["understanding", "--bench", "MMB", "--model", "mock", "--data", "nowhere"], "neither a folder nor a file"),
        (["understanding", "--bench", "MMB", "--limit", "0"], "--limit"),
        (["understanding", "--bench", ","], "names nothing"),
        (["understanding", "--bnch", "MMB"], "--bnch"),
        (["understanding", "--limit", "3"], "--bench"),
        (["vlmeval", "--any-data"], "nothing for VLMEvalKit to do"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(argv, needle, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr()
    assert needle in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "Traceback" not in said.err


def test_missing_official_file_names_file_source_and_option(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LMUData", str(tmp_path))
    assert main(["understanding", "--bench", "POPE", "--model", "mock"]) == 2
    said = capsys.readouterr().err
    assert "POPE.tsv" in said and "https://" in said and "--data" in said


def test_no_space_and_ctrl_c_have_their_own_codes(capsys, monkeypatch):
    import errno

    import armor_eval.cli as cli

    def fails_with(error):
        def build(_):
            def app(**__):
                raise error

            return app

        return build

    monkeypatch.setattr(cli, "build_app", fails_with(OSError(errno.ENOSPC, "No space left on device", "runs/x")))
    assert main(["list"]) == 1
    assert "no space left" in capsys.readouterr().err
    monkeypatch.setattr(cli, "build_app", fails_with(KeyboardInterrupt()))
    assert main(["list", "--json"]) == 130
    assert "armor-eval list --json" in capsys.readouterr().err
    monkeypatch.setattr(cli, "build_app", fails_with(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        main(["list"])
    monkeypatch.setattr(cli, "build_app", fails_with(FileExistsError(errno.EEXIST, "File exists", "README.md")))
    assert main(["list"]) == 2
    assert capsys.readouterr().err == "armor-eval: cannot use README.md: File exists\n"


@pytest.mark.parametrize(
    "argv", [["geneval", "train-detector", "--out"], ["modality", "side-by-side", "--model", "x", "--out"]]
)
def test_a_target_that_cannot_be_written_is_told_before_the_work(argv, tmp_path, capsys, monkeypatch):
    def worked(*_args, **_kwargs):
        raise AssertionError("worked")

    monkeypatch.setattr("armor_eval.shapes.train_detector.train", worked)
    monkeypatch.setattr("armor_eval.models.registry.load", worked)
    (tmp_path / "file").touch()
    assert main([*argv, str(tmp_path / "file" / "x")]) == 2
    error = capsys.readouterr().err
    assert "cannot write into" in error and error.count("\n") == 1


def test_a_usage_text_keeps_its_lines_and_the_version_is_told(capsys):
    for argv in ([], ["baseline"]):
        assert main(argv) == 2
        said = capsys.readouterr()
        assert said.err.startswith("Usage: armor-eval")
        assert said.err.count("\n") > 5
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"armor-eval {__version__}\n"


def test_list_json_names_the_nine(capsys):
    assert main(["list", "--json"]) == 0
    names = [b["name"] for b in json.loads(capsys.readouterr().out) if b.get("in_paper")]
    assert names == ["MMMU", "MME-P", "MME", "MMVet", "MMB", "SEED", "HallusionBench", "POPE", "LLaVABench"]


def test_python_m_is_the_command():
    done = subprocess.run([sys.executable, "-m", "armor_eval", "--help"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "understanding" in done.stdout


def test_what_vlmevalkit_skips_is_a_failure_unless_the_answers_were_all_that_was_wanted():
    from armor_eval.vlmevalkit.runner import failure

    assert failure({"status": "done", "skip_reason": "invalid_dataset"}) == "skipped, invalid_dataset"
    assert failure({"status": "done", "error_message": "out of memory"}) == "out of memory"
    assert failure({"status": "done", "skip_reason": "mode_infer"}) is None
    assert failure({"status": "infer"}) is None
