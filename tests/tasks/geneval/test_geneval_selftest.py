"""The selftest holds a detector to what was recorded: every fault it exists for is drift, rounding is not."""

import hashlib
import json

import numpy as np
import pytest

from armor_eval.cli import main
from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.tasks.geneval import colors, detectors, selftest
from armor_eval.tasks.geneval.colors import ColorAnswer
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_eval.tasks.geneval.selftest import images_for
from armor_model.base.errors import RunFailed

SHAPES, OFFICIAL = load_vocabulary("shapes"), load_vocabulary("official")


@pytest.fixture(scope="module")
def embedded():
    return EmbeddedDetector(SHAPES)


@pytest.fixture
def on_hand(embedded, monkeypatch):
    """The command with the module's detector, which a test may spoil."""
    monkeypatch.setattr(detectors, "load_detector", lambda *_, **__: embedded)
    return embedded


def selftest_of(*more):
    return main(["geneval", "selftest", "--device", "cpu", *more])


def test_the_images_are_the_same_everywhere():
    found = {v.name: images_for(v) for v in (SHAPES, OFFICIAL)}
    digest = hashlib.sha256(b"".join(image.tobytes() for image in found["geneval"].values())).hexdigest()
    assert digest == "4e1547616217c2f36c4d217ade4a01822dc851e0b5f2477730e65818b6d56629", (
        "references that users recorded would all drift"
    )
    committed = json.loads(selftest.path_for({"detector": "rtmdet-ins-shapes"}).read_text())
    assert [i["sha256"] for i in committed["images"]] == [
        hashlib.sha256(image.tobytes()).hexdigest() for image in found["shapes-geneval"].values()
    ]
    assert all(i.dtype == np.uint8 and i.ndim == 3 for images in found.values() for i in images.values())


def test_the_embedded_detector_sees_what_was_committed(on_hand, capsys, monkeypatch):
    assert selftest_of() == 0
    shown = capsys.readouterr().out
    assert "11 of 11 images as recorded" in shown and "DRIFT" not in shown
    monkeypatch.setattr(on_hand, "batch", 1)
    assert selftest_of("--json") == 0
    assert not any(json.loads(capsys.readouterr().out)["problems"].values())


def nothing(found):
    return Instances(found.labels[:0], found.scores[:0], found.boxes[:0], found.masks[:0])


def lower(by):
    return lambda f: Instances(f.labels, np.maximum(f.scores - np.float32(by), 0), f.boxes, f.masks)


def moved(by):
    return lambda f: Instances(f.labels, f.scores, f.boxes + np.float32(by), f.masks)


def renamed(f):
    return Instances((f.labels + 1) % len(SHAPES.classes), f.scores, f.boxes, f.masks)


def doubled(f):
    return Instances(*(np.concatenate([part, part[-1:]]) for part in (f.labels, f.scores, f.boxes, f.masks)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (nothing, "0 circle above 0.3, recorded 1"),
        (renamed, "1 square above 0.3, recorded 0"),
        (doubled, "2 circle above 0.3, recorded 1"),
        (lower(0.01), "recorded 0."),
        (moved(1.0), "px from where it was recorded"),
    ],
)
def test_a_detector_that_sees_otherwise_drifts(on_hand, monkeypatch, capsys, spoil, words):
    whole = on_hand.detect
    monkeypatch.setattr(on_hand, "detect", lambda images: [spoil(found) for found in whole(images)])
    assert selftest_of() == 1
    shown = capsys.readouterr().out
    assert "DRIFT" in shown and words in shown


@pytest.mark.parametrize("by", [0.001, -0.001])
def test_rounding_is_no_drift(on_hand, monkeypatch, by):
    whole = on_hand.detect
    monkeypatch.setattr(on_hand, "detect", lambda images: [lower(by)(moved(0.05)(f)) for f in whole(images)])
    seen = selftest.look(on_hand, PixelColors(SHAPES), SHAPES, "cpu")
    then = selftest.read_reference(selftest.path_for(seen.settings), seen)
    drifts = selftest.compare(seen, then)
    assert not any(one.problems for one in drifts)
    assert max(one.score for one in drifts) == pytest.approx(0.001, abs=1e-4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda images: [np.ascontiguousarray(i[..., ::-1]) for i in images],  # channels in the wrong order
        lambda images: [np.minimum(i.astype(int) + 40, 255).astype(np.uint8) for i in images],
        lambda images: [i[:, ::-1] for i in images],
    ],
)
def test_images_that_reach_the_detector_otherwise_drift(on_hand, monkeypatch, spoil):
    whole = on_hand.detect
    monkeypatch.setattr(on_hand, "detect", lambda images: whole(spoil(images)))
    assert selftest_of() == 1


def test_other_colours_and_other_pixels_drift(on_hand, monkeypatch, capsys):
    class Red(PixelColors):
        def name(self, crops):
            return [ColorAnswer("red", 1.0) for _ in crops]

    with monkeypatch.context() as patch:
        patch.setattr(colors, "load_colors", lambda *_, **__: Red(SHAPES))
        assert selftest_of() == 1
    assert "is red, recorded green" in capsys.readouterr().out
    drawn = images_for(SHAPES)
    drawn["one"] = drawn["one"].copy()
    drawn["one"][0, 0, 0] = 254
    monkeypatch.setattr(selftest, "images_for", lambda _: drawn)
    assert selftest_of() == 1
    assert "one: the image itself has other pixels" in capsys.readouterr().out


# --- weights that a user has -----------------------------------------------------------------------------------------


class Sharp:
    """A detector of COCO's names that reports the darkest pixels' box as a clock: its weights are one number."""

    def __init__(self, weights="a" * 64, score=0.7):
        self.classes, self.score = OFFICIAL.classes, score
        self.settings = {"detector": "mask2former-swin-s", "form": "mmdet", "weights_sha256": weights}

    def detect(self, images):
        return [self._one(image) for image in images]

    def _one(self, image):
        mask = image.sum(2) < 120
        rows, columns = np.nonzero(mask)
        if not len(rows) or self.score == 0:
            return Instances.nothing(image.shape[:2])
        box = np.array([[columns.min(), rows.min(), columns.max(), rows.max()]], np.float32)
        label = np.array([OFFICIAL.classes.index("clock")])
        return Instances(label, np.array([self.score], np.float32), box, mask[None])

    def self_check(self, rules):
        pass


@pytest.fixture
def user(monkeypatch, tmp_path):
    """A user's own weights: a function that puts other ones in place."""
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(colors, "load_colors", lambda *_, **__: None)

    def use(detector):
        monkeypatch.setattr(detectors, "load_detector", lambda *_, **__: detector)

    use(Sharp())
    return use


def official(*more):
    return selftest_of("--profile", "official", *more)


def test_a_reference_is_recorded_once_and_the_next_selftest_holds_against_it(user, tmp_path, capsys):
    assert official() == 2
    said = capsys.readouterr().err
    assert "no reference of these weights" in said and "--record" in said and said.count("\n") == 1
    assert official("--record") == 0
    (file,) = (tmp_path / "cache" / "selftest").iterdir()
    assert file.name == f"mask2former-swin-s-{'a' * 12}-none.json" and "recorded 9 images" in capsys.readouterr().err
    assert official() == 0 and "9 of 9 images as recorded" in capsys.readouterr().out
    user(Sharp(score=0.68))
    assert official() == 1 and "clock scores 0.680, recorded 0.700" in capsys.readouterr().out
    user(Sharp(score=0.0))  # the card that returns nothing
    assert official() == 1 and "0 clock above 0.3, recorded 1" in capsys.readouterr().out
    user(Sharp(weights="b" * 64))
    assert official() == 2  # other weights have a reference of their own
    assert official("--reference", str(file)) == 2 and "is of another detector" in capsys.readouterr().err


def test_a_machine_that_sees_nothing_records_nothing(user, tmp_path, capsys):
    user(Sharp(score=0.0))
    assert official("--record") == 1
    assert "saw nothing in any image: not recorded" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_detector_that_fails_its_self_check_records_nothing(user, tmp_path, monkeypatch):
    def fails(self, rules):
        raise RunFailed("wrong weights")

    monkeypatch.setattr(Sharp, "self_check", fails)
    assert official("--record") == 1 and not (tmp_path / "cache").exists()


def test_mistakes_are_one_line(on_hand, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{}")
    for options, words in (
        (["--record"], "comes with the program"),
        (["--reference", str(tmp_path / "bad.json")], "is no selftest reference"),
        (["--detector", "mmdt"], "did you mean mmdet"),
        (["--profile", "shape"], "profile"),
    ):
        assert selftest_of(*options) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
