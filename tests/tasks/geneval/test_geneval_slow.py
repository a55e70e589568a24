"""Proofs that take minutes: the published architecture from checkpoints, several processes, training from scratch."""

import os
import subprocess
import sys

import numpy as np
import pytest
from geneval_weights import small_clip, write_mask2former

from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.geneval import mask2former as M
from armor_eval.tasks.geneval.detectors import Mask2FormerDetector
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import RunFailed, UserError

pytestmark = pytest.mark.slow


def test_both_forms_from_one_mmdet_2_checkpoint(tmp_path, monkeypatch):
    """68.7 M random parameters under 2.x names, on small pictures; and the self-check stops a run with them."""
    import torch

    monkeypatch.setattr(M, "SCALE", (256, 160))
    path = tmp_path / "m2f.pth"
    old = write_mask2former(path)
    vocabulary = load_vocabulary("official")
    forms = [Mask2FormerDetector(form, vocabulary, path, "x", above=0.0) for form in ("mmdet", "transformers")]
    images = [np.random.default_rng(i).integers(0, 256, (64, 64 + 32 * (i == 2), 3), dtype=np.uint8) for i in range(3)]
    a, b = (form.detect(images) for form in forms)
    for left, right in zip(a, b, strict=True):
        assert len(left.labels) == len(right.labels) == 100
        assert np.abs(left.scores - right.scores).max() < 1e-3  # float32; the fast test compares in double
    with pytest.raises(RunFailed, match="self-check"):
        forms[0].self_check(Rules())
    torch.save({"state_dict": {k: v for k, v in old.items() if "backbone" in k}}, path)
    with pytest.raises(UserError, match="parameters missing"):
        Mask2FormerDetector("mmdet", vocabulary, path, "x").self_check(Rules())


def test_the_official_judge_behind_http(tmp_path, monkeypatch):
    """Mask2Former in mmdet and CLIP, filled at random: over HTTP the verdicts and soft scores of the judge itself."""
    import base64

    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    from PIL import Image
    from starlette.testclient import TestClient

    from armor_eval.base.images import read_image, write_image
    from armor_eval.tasks.geneval.judging import judge_images
    from armor_eval.tasks.geneval.prompts import Metadata
    from armor_eval.tasks.geneval.reward import Reward, make_app
    from armor_eval.tasks.geneval.verdicts import soft_score

    monkeypatch.setattr(M, "SCALE", (256, 160))
    write_mask2former(tmp_path / "m2f.pth", sure=30)  # else nothing is above what is kept
    vocabulary = load_vocabulary("official")
    detector = Mask2FormerDetector("mmdet", vocabulary, tmp_path / "m2f.pth", "x", batch=2)
    reward = Reward(vocabulary, detector, small_clip(vocabulary), Rules(threshold=0.05, counting_threshold=0.06))
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        noise = np.random.default_rng(i).integers(0, 256, (64, 96 if i == 2 else 64, 3), dtype=np.uint8)
        write_image(file, Image.fromarray(noise))
    images = [np.asarray(read_image(file, tmp_path)[0]) for file in files]
    # what chance sees most often is asked for, with a count and a colour, beside what it never sees
    seen = [
        max(f.by_class(vocabulary.classes, 0.05).items(), key=lambda each: len(each[1]))
        for f in detector.detect(images)
    ]
    asked = [{"class": name, "count": 1} for name, _ in seen]
    records = [{"tag": "single_object", "prompt": "p", "include": [each]} for each in asked]
    records += [{"tag": "colors", "prompt": "p", "include": [{**each, "color": "red"}]} for each in asked]
    records += [
        {"tag": "counting", "prompt": "p", "include": [{**each, "count": 2}], "exclude": [{**each, "count": 3}]}
        for each in asked
    ]
    metas = [Metadata.model_validate(record) for record in records]
    judged = judge_images(images * 3, metas, detector, reward.colors, reward.rules)
    sent = [base64.b64encode(file.read_bytes()).decode() for file in files] * 3
    with TestClient(make_app(reward), base_url="http://127.0.0.1:8766") as client:
        answer = client.post("/reward", json={"images": sent, "metadata": records}).json()
        health = client.get("/health").json()["judge"]
    assert answer["strict"] == [int(one.verdict.correct) for one in judged] and {0, 1} == set(answer["strict"])
    assert answer["reasons"] == [one.verdict.reason for one in judged]
    assert answer["scores"] == [
        soft_score(m, j.detections, j.colors, reward.rules) for m, j in zip(metas, judged, strict=True)
    ]
    assert health["detector"] == "mask2former-swin-s" and health["form"] == "mmdet" and health["threshold"] == 0.05


def test_two_processes_share_one_run(tmp_path):
    base = [
        "-m",
        "armor_eval",
        "geneval",
        "--model",
        "mock",
        "--profile",
        "shapes",
        "--limit",
        "12",
        "--batch-size",
        "5",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, prefix in (("one", []), ("two", launch)):
        command = [sys.executable, *prefix, *base, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
    (one, items_one, scores_one), (two, items_two, scores_two) = (
        read_bundle(tmp_path / n / "geneval") for n in ("one", "two")
    )
    assert (one.device.processes, two.device.processes) == (1, 2)
    assert len(items_one) == len(items_two) == 48
    drop = {"seconds"}
    assert [i.model_dump(exclude=drop) for i in items_one] == [i.model_dump(exclude=drop) for i in items_two]
    assert [m.value for m in scores_one.metrics] == [m.value for m in scores_two.metrics]


def test_a_short_training_learns(tmp_path):
    """120 steps: far from the bundled detector, but things on blank paper are mostly found."""
    from armor_eval.shapes.train_detector import CARD, WEIGHTS, Recipe, build_model, load_trained, train_and_save

    train_and_save(tmp_path, Recipe(steps=120, calibration=100), measured=60)
    assert (tmp_path / WEIGHTS).stat().st_size < 8 * 2**20 and (tmp_path / CARD).is_file()
    load_trained(build_model(), tmp_path / WEIGHTS, load_vocabulary("shapes").classes)
    with pytest.raises(UserError, match="embedded detector"):
        load_trained(build_model(), tmp_path / WEIGHTS, ("dog",))
