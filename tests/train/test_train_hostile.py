"""What other people's files hold: names that come twice, keys with dots, 16-bit grey, rotated photos, two programs."""

from __future__ import annotations

import contextlib
import fcntl
import io
import tarfile

import numpy as np
import pytest
import torch
from data_helpers import image, write_corpus
from PIL import Image

from armor_model.base.errors import UserError
from armor_model.images import open_image, to_pixels
from trainer.data.readers import SOURCES, read_tars
from trainer.data.records import Tally


def write_members(path, members: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def read(path) -> tuple[list[str], dict[str, int]]:
    tally = Tally()
    pairs = list(read_tars([path], SOURCES["webdataset"], tally))
    return [f"{p.key.partition('/')[2]}: {p.caption}" for p in pairs], dict(tally.dropped)


def sample(key: str, caption: str | None = None) -> list[tuple[str, bytes]]:
    return [(f"{key}.png", image()), (f"{key}.txt", (caption or f"caption {key}").encode())]


def test_a_member_that_comes_twice_costs_nothing_but_itself(tmp_path):
    members = [member for i in range(8) for member in sample(f"{i}")]
    members.insert(7, members[6])  # 3.png twice
    members += sample("7", "the same key again, later")
    keys, dropped = read(write_members(tmp_path / "0.tar", members))
    assert keys == [*(f"{i}: caption {i}" for i in range(8)), "7: the same key again, later"]
    assert dropped == {"duplicate_member": 1}


def test_keys_with_dots_are_samples_and_further_fields_are_not(tmp_path):
    members = [*sample("a"), *sample("a.b"), ("7.png", image()), ("7.mask.png", image()), ("7.txt", b"seven")]
    members += [("dir/x.y.PNG", image()), ("dir/x.y.txt", b"upper case"), ("noextension", b"")]
    keys, dropped = read(write_members(tmp_path / "0.tar", members))
    assert keys == ["a: caption a", "a.b: caption a.b", "7: seven", "dir/x.y: upper case"]
    assert dropped == {}


@pytest.mark.parametrize("drawn", [False, True])
def test_sixteen_bit_grey_keeps_its_greys(tmp_path, drawn):
    ramp = np.linspace(0, 65_535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    array = np.asarray(open_image(tmp_path / "grey.png", drawn=drawn), dtype=int)
    assert np.abs(array - (ramp / 257)[..., None]).max() <= 1
    assert len(np.unique(array)) > 200


def test_a_rotated_photo_is_drawn_upright_and_looked_at_as_the_benchmarks_are(tmp_path):
    image = Image.new("RGB", (40, 20), "white")
    image.paste((255, 0, 0), (0, 0, 10, 20))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: red comes to the top
    image.save(tmp_path / "photo.png", exif=exif)
    upright = open_image(tmp_path / "photo.png", drawn=True)
    assert upright.size == (20, 40) and upright.getpixel((10, 2)) == (255, 0, 0) != upright.getpixel((10, 38))
    assert open_image(tmp_path / "photo.png").size == (40, 20), "VLMEvalKit and InternVL do not turn"


def chameleon(image: Image.Image, target: int) -> np.ndarray:
    """Chameleon's preprocessing, written down from its description: (target, target, 3) uint8."""
    if image.mode != "RGB":
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        if (rgba[..., 3] < 255).any():
            share = rgba[..., 3:] / 255
            image = Image.fromarray((255 * (1 - share) + rgba[..., :3] * share).astype("uint8"))
        else:
            image = image.convert("RGB")
    ratio = target / min(image.width, image.height)
    image = image.resize((round(ratio * image.width), round(ratio * image.height)), Image.LANCZOS)
    x, y = (image.width - target) // 2, (image.height - target) // 2
    return np.asarray(image.crop((x, y, x + target, y + target)))


@pytest.mark.parametrize("size", [(640, 480), (480, 641), (333, 500), (256, 256), (100, 150)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pixels_to_draw_are_chameleons_bit_by_bit(size, mode):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA").convert(mode)
    want = torch.from_numpy(chameleon(image, 256).astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)
    assert torch.equal(to_pixels(image, 256), want)


def test_two_tokenizers_do_not_write_into_one_folder(tmp_path, capsys):
    from armor_model import bundled, load_processor
    from trainer.data.tokenizing import tokenize

    file = write_corpus(tmp_path)
    processor = load_processor(bundled("armor-nano"))
    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another armor-train tokenize is writing"):
            tokenize(file, tmp_path / "out", processor, "nano")
    assert not (tmp_path / "out/manifest.json").exists()
    assert tokenize(file, tmp_path / "out", processor, "nano")["complete"]


def test_a_replaced_folder_is_whole_old_or_whole_new_at_every_instant(tmp_path, monkeypatch):
    """Killed at any call that changes a folder: what a reader finds is one of the two, never nothing or a part."""
    import os
    import shutil
    from pathlib import Path

    from armor_model.base import files

    def names(folder: Path) -> list[str]:
        return sorted(f"{p.name}={p.read_text()}" for p in folder.iterdir())

    def write(out: Path, text: str) -> None:
        with files.whole_folder(out, "config.json") as draft:
            for name in ("config.json", "weights"):
                (draft / name).write_text(text)

    class Killed(BaseException):
        pass

    seen = set()
    for stop in range(20):
        out, calls = tmp_path / str(stop) / "model", iter(range(100))
        write(out, "old")

        def step(real, stop=stop, calls=calls):
            def call(*args, **kwargs):
                if next(calls) == stop:
                    raise Killed
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((Path, "rename"), (Path, "mkdir"), (os, "fsync"), (files, "_exchange")):
                patch.setattr(owner, name, step(getattr(owner, name)))
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
            with contextlib.suppress(Killed):
                write(out, "new")
        assert names(out) in (["config.json=old", "weights=old"], ["config.json=new", "weights=new"]), stop
        seen.add(names(out)[0])
    assert seen == {"config.json=old", "config.json=new"}
