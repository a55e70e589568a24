"""The bundled detector: what it sees in fresh renders, and what it does not see in spoilt, empty and noisy pictures."""

import json

import numpy as np
import pytest

from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.shapes.detector_data import augment, sample_example
from armor_eval.shapes.rtmdet import detect_batch, run_batch
from armor_eval.shapes.train_detector import CARD, PRETRAINED, WEIGHTS, _counts, _multiset, build_model, load_trained
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.hashing import sha256_file

VOCABULARY = load_vocabulary("shapes")


@pytest.fixture(scope="module")
def detector():
    return EmbeddedDetector(VOCABULARY)


def exact(detector, kind, n, blurred=False):
    """Share of pictures with the exact (class, count) multiset at .3 and at .9."""
    rng = np.random.default_rng([2026, n])
    examples = [sample_example(rng, training=False, kind=kind) for _ in range(n)]
    if blurred:
        examples = [augment(rng, example) for example in examples]
    found = detector.detect([example.image for example in examples])
    pairs = list(zip(found, examples, strict=True))
    return [np.mean([_counts(f, t) == _multiset(e) for f, e in pairs]) for t in (0.3, 0.9)]


@pytest.mark.parametrize("kind, n", [("render", 200), ("half-drawn", 150), ("cut", 100)])
def test_exact_counts_at_both_thresholds(detector, kind, n):
    assert min(exact(detector, kind, n)) >= 0.97
    assert min(exact(detector, kind, n, blurred=True)) >= 0.93


@pytest.mark.parametrize("kind", ["blank", "noise"])
def test_nothing_is_seen_where_nothing_is(detector, kind):
    assert exact(detector, kind, 60) == [1.0, 1.0]


def test_it_is_small_and_its_card_tells_the_truth():
    card = json.loads((PRETRAINED / CARD).read_text())
    assert (PRETRAINED / WEIGHTS).stat().st_size < 8 * 2**20
    assert card["weights_sha256"] == sha256_file(PRETRAINED / WEIGHTS)
    fresh = card["figures"]["render, as rendered"]
    assert min(fresh["exact at 0.3"], fresh["exact at 0.9"]) >= 0.97


def test_batched_is_single_and_sizes_may_differ(detector):
    rng = np.random.default_rng(1)
    images = [sample_example(rng, kind="render").image for _ in range(5)]
    images.append(np.kron(images[0], np.ones((4, 4, 1), np.uint8)))  # 128x128
    together, alone = detector.detect(images), [detector.detect([p])[0] for p in images]
    for a, b in zip(together, alone, strict=True):
        assert (a.labels == b.labels).all() and np.abs(a.scores - b.scores).max(initial=0) < 1e-4
    assert together[5].masks.shape[1:] == (128, 128)
    assert sorted(together[5].labels) == sorted(together[0].labels)


def test_detections_are_mmdets_own(detector):
    """Against `test_step`, for 120 pictures of every kind, and on a size that is not square.

    Of two boxes around one thing whose scores are 1e-6 apart, either may be the one that is kept.
    """
    model = detector._model
    rng = np.random.default_rng(4)
    images = [augment(rng, sample_example(rng, training=False)).image for _ in range(120)]
    wide = [np.hstack([a, b]) for a, b in zip(images[:6], images[6:12], strict=True)]
    seen = equal = 0
    for batch in (images, wide):
        for a, b in zip(detect_batch(model, batch), run_batch(model, batch), strict=True):
            assert (a.labels == b.labels).all()
            assert np.abs(a.scores - b.scores).max(initial=0) < 1e-5
            far = np.abs(a.boxes - b.boxes).max(1, initial=0)
            assert far.max(initial=0) < 0.5
            assert (a.masks[far < 1e-4] == b.masks[far < 1e-4]).all()
            seen, equal = seen + len(far), equal + int((far < 1e-4).sum())
    assert seen > 150 and equal / seen > 0.98, (equal, seen)


def test_the_self_check_passes_and_notices_wrong_weights():
    import torch

    detector = EmbeddedDetector(VOCABULARY)
    detector.self_check(Rules())
    with torch.no_grad():
        detector._model.backbone.stem[0].conv.weight.mul_(-1)
    with pytest.raises(RunFailed, match="self-check"):
        detector.self_check(Rules())


def test_weights_of_something_else_are_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="not the embedded detector"):
        load_trained(build_model(), tmp_path / "x.safetensors", VOCABULARY.classes)
