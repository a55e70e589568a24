"""Proofs that take minutes: the published architecture from checkpoints, several processes, training from scratch."""

import os
import subprocess
import sys

import numpy as np
import pytest

from armor_eval.runs.bundle import read_bundle
from armor_eval.tasks.geneval import mask2former as M
from armor_eval.tasks.geneval.detectors import Mask2FormerDetector
from armor_eval.tasks.geneval.verdicts import Rules
from armor_eval.tasks.geneval.vocabulary import load_vocabulary
from armor_model.base.errors import RunFailed, UserError

pytestmark = pytest.mark.slow


def test_both_forms_from_one_mmdet_2_checkpoint(tmp_path, monkeypatch):
    """68.7 M random parameters under 2.x names, on small pictures; and the self-check stops a run with them."""
    import torch

    monkeypatch.setattr(M, "SCALE", (256, 160))
    torch.manual_seed(0)
    network = M.build_mmdet()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 68.74
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "sampling_offsets" not in name:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
    old = {}
    for name, value in network.state_dict().items():
        if "pixel_decoder.encoder.layers" in name:
            name = name.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
        if "transformer_decoder.layers" in name:
            name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
            name = name.replace(".ffn.", ".ffns.0.")
        old[name] = value
    path = tmp_path / "m2f.pth"
    torch.save({"state_dict": old, "meta": {}}, path)
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
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29617"]
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
