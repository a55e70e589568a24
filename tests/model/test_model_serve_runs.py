"""`armor-model serve` as a command, measured by our own `openai:` adapter: the same items and scores as in process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from ports import free_port

pytest.importorskip("uvicorn", reason="the server's tests need pip install 'armor-eval[serve]'")
pytestmark = pytest.mark.slow

STARTS_WITHIN = 900


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    log = tmp_path_factory.mktemp("serve") / "log"
    port = free_port()
    command = [sys.executable, "-m", "armor_model", "serve", "--port", str(port)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
        try:
            ends = time.monotonic() + STARTS_WITHIN
            while server.poll() is None and time.monotonic() < ends:
                with contextlib.suppress(OSError):  # not there yet, or too busy to answer
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                time.sleep(0.5)
            else:
                pytest.fail(f"armor-model serve did not start: {log.read_text()[-2000:]}")
            yield f"openai:http://127.0.0.1:{port}/v1#armor-nano"
            server.send_signal(signal.SIGTERM)
            assert server.wait(120) in (0, 143, -signal.SIGTERM), log.read_text()[-2000:]
        finally:
            server.kill()
            server.wait()


def pixels(folder, name):
    path = next(folder.rglob(Path(name).name))  # named by its content
    return np.asarray(Image.open(path), dtype=int)


@pytest.mark.parametrize(
    "argv",
    [
        ["understanding", "--bench", "all", "--profile", "shapes", "--limit", "20"],
        ["geneval", "--profile", "shapes", "--limit", "6"],
        ["modality", "--profile", "shapes", "--limit", "20"],
    ],
    ids=lambda argv: argv[0],
)
def test_the_same_items_and_scores_as_in_process(address, argv, tmp_path):
    from armor_eval.cli import main
    from armor_eval.runs.bundle import read_bundle

    codes = [
        main([*argv, "--model", model, "--out", str(tmp_path / name)])
        for name, model in (("served", address), ("here", "armor-nano"))
    ]
    assert codes[0] == codes[1]
    runs = sorted(path.parent.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("run.json"))
    assert len(runs) == (9 if "all" in argv else 1)
    for run in runs:
        served, here = (read_bundle(tmp_path / name / run) for name in ("served", "here"))
        kept = [{it.id: (it.output, len(it.output_images), it.score) for it in items} for _, items, _ in (served, here)]
        assert kept[0] == kept[1], run
        theirs = {it.id: it.output_images for it in served[1]}
        for it in here[1]:
            for ours, other in zip(it.output_images, theirs[it.id], strict=True):
                apart = pixels(tmp_path / "here", ours) - pixels(tmp_path / "served", other)
                # which images are decoded together decides the last bit (1 pixel in 80 images)
                assert abs(apart).max() <= 1
        assert len(here[1]) >= 6 and served[2].metrics == here[2].metrics, run
