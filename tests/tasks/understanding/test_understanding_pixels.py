"""The pixels that a model is shown are those of the files that VLMEvalKit writes (`dump_image`) and InternVL opens."""

import base64
import io
import itertools

import numpy as np
import pytest
from harness_data import mme, png, task_of, write
from PIL import Image

from armor_eval.models.base import Answer
from armor_eval.models.mock import MockModel
from armor_eval.tasks.understanding import images
from armor_eval.tasks.understanding.declare import benchmarks
from armor_eval.vlmevalkit.official import quiet_vlmeval
from armor_model.images import open_image


def encoded(image: Image.Image, kind: str, **settings) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return base64.b64encode(buffer.getvalue()).decode()


def kinds() -> dict[str, str]:
    """Images of every mode that files hold, with and without transparency; of blocks, as JPEG likes them least."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), np.ones((3, 3, 1), dtype=np.uint8))
    rgb = Image.fromarray(pixels)
    palette, grey = rgb.quantize(16), rgb.convert("L")
    clear = Image.fromarray(np.dstack([pixels, rng.integers(0, 256, pixels.shape[:2], dtype=np.uint8)]))
    corner = tuple(int(v) for v in pixels[0, 0])
    return {
        "RGB": encoded(rgb, "PNG"),
        "JPEG": encoded(rgb, "JPEG", quality=90),
        "WEBP": encoded(rgb, "WEBP"),
        "RGB tRNS": encoded(rgb, "PNG", transparency=corner),
        "RGBA": encoded(clear, "PNG"),
        "P": encoded(palette, "PNG"),
        "P tRNS": encoded(palette, "PNG", transparency=3),
        "P alpha": encoded(palette, "PNG", transparency=bytes(range(0, 160, 10))),
        "GIF": encoded(palette, "GIF", transparency=2),
        "L": encoded(grey, "PNG"),
        "L tRNS": encoded(grey, "PNG", transparency=int(np.asarray(grey)[0, 0])),
        "1": encoded(grey.convert("1"), "PNG"),
        "LA": encoded(clear.convert("LA"), "PNG"),
    }


NAMES = (None, "a/x.png", "x.jpg", "x.JPEG", "x.webp")


@pytest.fixture(scope="module")
def dumped(tmp_path_factory):
    """(kind, name) -> the file that VLMEvalKit writes of it."""
    with quiet_vlmeval():
        from vlmeval.dataset.image_base import ImageBaseDataset

    class Dumps(ImageBaseDataset):
        def __init__(self, folder):
            self.img_root = str(folder)

        def evaluate(self, *_, **__):
            raise NotImplementedError

    files = {}
    for (kind, cell), name in itertools.product(kinds().items(), NAMES):
        line = {"index": 1, "image": cell, **({} if name is None else {"image_path": name})}
        files[kind, name] = Dumps(tmp_path_factory.mktemp("dump")).dump_image(line)[0]
    return files


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", kinds())
def test_pixels_are_those_of_vlmevalkits_file(kind, name, dumped):
    ours = images.decode(kinds()[kind], saved_as=name)
    theirs = Image.open(dumped[kind, name]).convert("RGB")
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    # What our own model reads of it, and of VLMEvalKit's file when that is shown by `armor-eval vlmeval`.
    assert np.array_equal(np.asarray(open_image(ours)), np.asarray(theirs))


def test_a_jpg_name_changes_pixels_and_a_png_name_none():
    cell = kinds()["RGB"]
    plain = np.asarray(images.decode(cell)).astype(int)
    assert np.array_equal(plain, np.asarray(images.decode(cell, saved_as="x.png")))
    assert np.abs(plain - np.asarray(images.decode(cell, saved_as="x.jpg"))).mean() > 1


def test_who_declares_it():
    assert {b.dataset for b in benchmarks().values() if b.saved_as == "image_path"} == {"MME", "MMMU_DEV_VAL"}


class Shown(MockModel):
    """Keeps the pixels it is asked about."""

    def __init__(self):
        super().__init__("shown")
        self.pixels = []

    def answer(self, questions, decoding):
        self.pixels += [np.asarray(open_image(p)) for q in questions for p in q.parts if not isinstance(p, str)]
        return [Answer(text="Yes") for _ in questions]


def test_vlmevalkits_runner_and_ours_show_the_same_pixels_of_mme(tmp_path, monkeypatch):
    frame = mme(1)
    frame["image_path"] = [
        p.replace(".png", ".jpg" if n % 4 < 2 else ".png") for n, p in enumerate(frame["image_path"])
    ]
    frame["image"] = [png(n // 2, 40) for n in range(len(frame))]
    frame.loc[2:3, "image"] = kinds()["L tRNS"]
    path = write(frame, tmp_path / "lmu" / "MME.tsv")
    table = task_of("MME", path).table
    ours = [open_image(one) for row in table.rows for one in row.images()]
    with quiet_vlmeval():
        from vlmeval.dataset import DATASET_CLASSES, build_dataset

        from armor_eval.vlmevalkit import model as vlmeval_model
        from armor_eval.vlmevalkit.runner import accept_any_data

        for owner in DATASET_CLASSES:  # what is taken out of it comes back for the tests behind this one
            if hasattr(owner, "DATASET_MD5"):
                monkeypatch.setattr(owner, "DATASET_MD5", dict(owner.DATASET_MD5))
        monkeypatch.setenv("LMUData", str(tmp_path / "lmu"))
        accept_any_data()
        data = build_dataset("MME")
        shown = Shown()
        monkeypatch.setattr(vlmeval_model.registry, "load", lambda *_: shown)
        model = vlmeval_model.ArmorVLM()
        model.set_dump_image(data.dump_image)
        for n in range(len(data.data)):
            model.generate_inner(model.build_prompt(data.data.iloc[n], "MME"), "MME")
    assert len(ours) == len(shown.pixels) == len(frame)
    assert all(np.array_equal(np.asarray(a), b) for a, b in zip(ours, shown.pixels, strict=True))
