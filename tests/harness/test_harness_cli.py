"""The command line answers at once, keeps its surface, and prints a user's mistake in one line."""

import json
import os
import subprocess
import sys
import time

import pytest

from armor_eval.cli import COMMANDS, main

HEAVY = ("torch", "numpy", "pandas", "pydantic", "vlmeval", "transformers", "matplotlib", "scipy")
HERE = {
    "demo": ["--out", "--seed", "--json"],
    "understanding": [
        "--bench", "--model", "--profile", "--limit", "--out", "--data", "--any-data", "--batch-size", "--seed",
        "--max-new-tokens", "--mask-imgbos", "--blind", "--judge-url", "--judge-model", "--baselines", "--retention",
        "--trust-remote-code", "--json",
    ],
    "vlmeval": ["--checkpoint", "--max-new-tokens", "--any-data"],
    "list": ["--json"],
    "doctor": ["--json"],
}  # fmt: skip
"""The options that scripts may rely on: one that goes away or is renamed is noticed here."""


def child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_help_imports_nothing_heavy_and_is_fast():
    code = (
        "import sys, time\n"
        "from armor_eval.cli import main\n"
        "assert main(['--help']) == 0\n"
        "print('SECONDS', time.process_time())\n"
        f"print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = child(code)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    # CPU seconds from the interpreter's start on: what the command takes on a machine that does nothing else.
    best = min(float(child(code).stdout.split("SECONDS")[1].split()[0]) for _ in range(3))
    assert best < 0.3


def test_list_names_every_measurement_and_model(capsys):
    import json

    from armor_eval.cli import COMMANDS
    from armor_eval.models.registry import KINDS
    from armor_eval.understanding.declare import benchmarks

    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    beside = ("geneval", "modality", "ablate-heads", "ablate-stages")
    assert set(beside) < set(COMMANDS)
    assert all(name in shown for name in (*benchmarks(), *beside))
    assert all(kind.shows in shown for kind in KINDS.values())
    assert main(["list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == [*benchmarks(), *beside]


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
        assert f"  {name} " in shown


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
        (["understanding"], "--bench"),
        (["vlmeval"], "nothing for VLMEvalKit to do"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(argv, needle, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr()
    assert needle in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert "Traceback" not in said.err


def test_the_version_and_a_device_that_is_not_there(capsys, tmp_path):
    from armor_eval import __version__

    assert main(["--version"]) == 0 and capsys.readouterr().out == f"armor-eval {__version__}\n"
    assert main(["geneval", "--model", "mock", "--profile", "shapes", "--device", "foo", "--limit", "6", "--samples",
                 "1", "--out", str(tmp_path / "x")]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert "--device foo" in error and error.count("\n") == 1


def test_a_group_without_a_command_shows_its_usage(capsys):
    assert main(["baseline"]) == 2
    assert capsys.readouterr().err.count("\n") > 5


def test_a_run_of_another_kind_is_never_replaced(capsys, tmp_path):
    """By the ablations least of all, which write their bundle at the end."""
    out = tmp_path / "run"
    assert main(["understanding", "--bench", "POPE", "--model", "mock", "--profile", "shapes", "--limit", "4",
                 "--out", str(out)]) == 0  # fmt: skip
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    for command in (["ablate-heads", "--quick"], ["ablate-stages", "--quick"]):
        assert main([*command, "--out", str(out)]) == 2
        assert "holds another run: POPE" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before


def test_what_an_ablation_is_told_wrongly_is_one_line(capsys, tmp_path):
    """With --quick too: the file's fields win over the quick ones."""
    (tmp_path / "wrong.toml").write_text('arms = ["foo"]\nsteps = -5\n')
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for words, said in (
        (["--config", str(tmp_path / "wrong.toml")], "steps"),
        (["--config", str(tmp_path / "binary.toml")], "cannot read"),
        (["--seeds", "-1"], "seeds are 0 or more"),
    ):
        assert main(["ablate-heads", "--quick", "--out", str(tmp_path / "out"), *words]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.strip().splitlines()) == 1, error


def test_retention_is_one_document_and_checked_first(capsys, tmp_path):
    out = tmp_path / "run"
    command = ["understanding", "--bench", "POPE", "--model", "mock", "--profile", "shapes", "--limit", "40",
               "--out", str(out)]  # fmt: skip
    assert main([*command, "--retention", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err and not out.exists()
    assert main(command) == 0
    capsys.readouterr()
    assert main([*command, "--json", "--retention", str(out)]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["kept"] for row in document["retention"][:-1]] == [100.0] and document["runs"]


def test_vlmevalkits_skips_are_failures(monkeypatch, capsys):
    """A misspelt dataset is skipped by VLMEvalKit, exit 0."""
    done = child(
        "import sys\n"
        "from armor_eval.cli import main\n"
        "sys.exit(main(['vlmeval', '--', '--data', 'MMBench_DEV_ENN', '--model', 'ARMOR', '--work-dir', '/nowhere/x']))"
    )
    assert done.returncode == 1 and "invalid_dataset" in done.stderr, done.stderr[-500:]


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


def test_list_json_names_the_nine(capsys):
    assert main(["list", "--json"]) == 0
    names = [b["name"] for b in json.loads(capsys.readouterr().out) if b["in_paper"]]
    assert names == ["MMMU", "MME-P", "MME", "MMVet", "MMB", "SEED", "HallusionBench", "POPE", "LLaVABench"]


def test_python_m_is_the_command():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "armor_eval", "--help"], capture_output=True, text=True, timeout=60, env=os.environ
    )
    assert done.returncode == 0 and "understanding" in done.stdout and time.monotonic() - began < 30
