"""A drawer that always does as asked, for tests: it reads a shapes prompt's record and renders a scene that fits."""

import json

import numpy as np
from PIL import Image

from armor_eval.base.images import write_image
from armor_eval.runs.schema import ModelInfo
from armor_eval.tasks.geneval.folders import write_metadata
from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts
from trainer.shapes.world import COLOR_NAMES, Scene, Thing, holds, render

PROMPTS = own_prompts(load_vocabulary("shapes"))
RECORDS = {record["prompt"]: record for record in PROMPTS.records}


def scene_for(record, rng):
    """A random scene that the record's prompt describes."""
    wanted = [(w["class"], w.get("color")) for w in record["include"] for _ in range(w["count"])]
    relation = next((w["position"][0] for w in record["include"] if "position" in w), None)
    while True:
        cells = rng.permutation(4)
        colors = [color or str(rng.choice(COLOR_NAMES)) for _, color in wanted]
        things = [Thing(c, s, int(cell)) for (s, _), c, cell in zip(wanted, colors, cells, strict=False)]
        if relation is None or holds(things[1], relation, things[0]):
            return Scene(tuple(things))


class Renderer:
    """Implements DrawsImages; `fails` names prompts whose picture is an exception, `stop_after` draws interrupts."""

    def __init__(self, fails=(), stop_after=None):
        self.info = ModelInfo(spec="renderer", name="renderer", fingerprint="renderer-1")
        self.fails, self.stop_after, self.drawn = set(fails), stop_after, 0

    def settings(self, decoding):
        return {"guidance": None}

    def draw(self, prompts, seeds, decoding):
        if self.stop_after is not None and self.drawn >= self.stop_after:
            raise KeyboardInterrupt
        self.drawn += len(prompts)
        return [
            RuntimeError("no ink") if p in self.fails else render(scene_for(RECORDS[p], np.random.default_rng(s)))
            for p, s in zip(prompts, seeds, strict=True)
        ]

    def close(self):
        pass


def write_folder(root, records, samples=4, seed=0):
    """An official-layout folder of right pictures."""
    rng = np.random.default_rng(seed)
    for i, record in enumerate(records):
        write_metadata(root, i, record)
        for k in range(samples):
            write_image(root / f"{i:05d}" / "samples" / f"{k:05d}.png", render(scene_for(record, rng)))
    return root


def spoil_folder(root):
    """One of each way a picture can be wrong, on folders 0..; returns how many pictures get no verdict."""
    sample = lambda i, k: root / f"{i:05d}" / "samples" / f"{k:05d}.png"  # noqa: E731
    sample(0, 0).unlink()  # missing
    sample(0, 1).write_bytes(b"")  # empty
    sample(0, 2).write_bytes(b"<html>not a picture</html>")
    whole = sample(0, 3).read_bytes()
    sample(0, 3).write_bytes(whole[: len(whole) // 2])  # truncated
    Image.new("I;16", (32, 32)).save(sample(1, 0))  # 16 bits
    outside = root.parent / "outside.png"
    outside.write_bytes(sample(1, 1).read_bytes())
    sample(1, 1).unlink()
    sample(1, 1).symlink_to(outside)
    Image.open(sample(1, 2)).convert("L").save(sample(1, 2))  # grey: read
    Image.open(sample(1, 3)).convert("RGBA").save(sample(1, 3))  # alpha: read
    Image.open(sample(2, 0)).save(sample(2, 4))  # one more than four
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(sample(2, 1)).save(sample(2, 1), format="PNG", exif=exif)  # rotated
    Image.open(sample(2, 2)).save(sample(2, 2), format="JPEG", quality=95)  # a JPEG under a PNG's name
    Image.new("RGB", (3000, 1)).save(sample(3, 0))  # nothing is left of it at a detector's size
    (root / "notes.txt").write_text("not a folder")
    return 7


def metadata_line(record):
    return json.dumps(record) + "\n"
