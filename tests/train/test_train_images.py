"""Images by reference: what shards keep of them, where they may move, and a stage on ones that went bad."""

from __future__ import annotations

import json
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_helpers import gpt, human, image, write_corpus, write_lines

from armor_model import bundled, load_processor
from armor_model.base.errors import UserError
from armor_model.base.hashing import sha256_file
from armor_model.base.images import tile_count
from armor_model.images import image_size, tiles
from trainer.cli import main
from trainer.data.images import append, cut_tiles, exists, read_bytes
from trainer.data.shards import MANIFEST, Shards, schema
from trainer.data.tokenizing import tokenize


@pytest.fixture(scope="module")
def processor():
    return load_processor(bundled("armor-nano"))


def test_a_stretch_of_a_tar_is_an_image(tmp_path):
    images = {f"{i}.png": image((40 * i, 0, 0), (8 * i + 8, 9)) for i in range(4)}
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        places = [append(tar, name, data) for name, data in images.items()]
    for place, data in zip(places, images.values(), strict=True):
        reference = tmp_path / f"0.tar:{place}"
        assert exists(reference) and read_bytes(reference) == data
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert tar.getnames() == list(images)
    behind = tmp_path / "0.tar:99999:10"
    assert not exists(behind)
    with pytest.raises(UserError, match="reaches behind the file's end"):
        read_bytes(behind)
    odd = tmp_path / "a:1:2"
    odd.write_bytes(b"its own name")
    assert exists(odd) and read_bytes(odd) == b"its own name"
    with pytest.raises(UserError, match="no image at"):
        read_bytes(tmp_path / "gone.tar:0:5")


@pytest.mark.parametrize("size", [(448, 448), (512, 512), (640, 480), (100, 900), (3000, 700), (20, 20)])
def test_tiles_are_counted_without_cutting_them(size):
    from PIL import Image

    for largest, thumbnail in ((12, True), (6, False), (1, True)):
        want = len(tiles(Image.new("RGB", size), 32, largest, thumbnail))
        assert tile_count(*size, largest, 32, thumbnail) == want


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_size_is_told_of_whole_images_only(kind):
    data = image(size=(211, 97), kind=kind)
    assert image_size(data) == (211, 97)
    with pytest.raises(UserError):
        image_size(data[: len(data) * 2 // 3])


def test_a_shard_knows_its_images_by_relative_path_size_and_hash(tmp_path, processor):
    (tmp_path / "data").mkdir()
    corpus, out = write_corpus(tmp_path / "data"), tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    (row,) = (r for r in pq.read_table(out / "shard-000000.parquet").to_pylist() if r["images"])
    sha256 = sha256_file(tmp_path / "data/a.png")
    assert row["images"] == [{"path": "a.png", "width": 32, "height": 32, "sha256": sha256}]
    want = Shards([out], processor).pools()["ti2t"][0].pixels()
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "shards"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = tmp_path / "elsewhere" / "shards"
    assert all(map(torch.equal, Shards([moved], processor).pools()["ti2t"][0].pixels(), want))
    shutil.move(tmp_path / "elsewhere" / "data", tmp_path / "images")
    with pytest.raises(UserError, match=r"are missing.* - --image-root says where they lie now"):
        Shards([moved], processor)
    found = Shards([moved], processor, tmp_path / "images").pools()["ti2t"][0].pixels()
    assert len(found) == len(want) and all(map(torch.equal, found, want))


def test_records_may_be_relative_to_another_folder(tmp_path, processor):
    (tmp_path / "pictures").mkdir()
    corpus = write_corpus(tmp_path / "pictures").rename(tmp_path / "c.jsonl")
    found = tokenize(corpus, tmp_path / "shards", processor, "nano", image_root=tmp_path / "pictures")
    assert found["read"]["kept"] == 4
    assert Shards([tmp_path / "shards"], processor).pools()["ti2t"][0].pixels()[0].shape[0] == 1


def test_shards_of_version_2_are_still_read_and_not_gone_on_with(tmp_path, processor):
    corpus, out = write_corpus(tmp_path), tmp_path / "shards"
    tokenize(corpus, out, processor, "nano")
    pools = Shards([out], processor).pools()
    want = {kind: pool[0] for kind, pool in pools.items()}
    shard = out / "shard-000000.parquet"
    rows = pq.read_table(shard).to_pylist()
    for row in rows:
        row["images"] = [str(tmp_path / image["path"]) for image in row["images"]]
    old = schema().set(5, pa.field("images", pa.list_(pa.string())))
    pq.write_table(pa.Table.from_pylist(rows, schema=old), shard)
    manifest = json.loads((out / MANIFEST).read_text())
    manifest["settings"]["version"] = 2
    del manifest["settings"]["image_root"]
    manifest["shards"][0]["sha256"] = sha256_file(shard)
    (out / MANIFEST).write_text(json.dumps(manifest))
    for kind, example in want.items():
        got = Shards([out], processor).pools()[kind][0]
        assert torch.equal(got.input_ids, example.input_ids) and got.prompt_span == example.prompt_span
        assert got.pixels is None or all(map(torch.equal, got.pixels(), example.pixels()))
    with pytest.raises(UserError, match="by an earlier version; tokenize into another directory"):
        tokenize(corpus, out, processor, "nano")


@pytest.mark.parametrize("harm", ["other content", "cut", "gone"])
def test_an_image_that_went_bad_says_so(tmp_path, harm):
    file, data = tmp_path / "a.png", image()
    file.write_bytes(data)
    known = [(file, sha256_file(file))]
    processor = load_processor(bundled("armor-nano"))
    assert len(cut_tiles(known, 4, processor)) == 1
    with pytest.raises(UserError, match="4 positions, and 8 when it was tokenised"):
        cut_tiles(known, 8, processor)
    if harm == "other content":
        file.write_bytes(image((1, 2, 3)))
    elif harm == "cut":
        file.write_bytes(data[:50])
        known = [(file, None)]  # as of version 2: found when it is decoded
    else:
        file.unlink()
    said = {"other content": "has changed", "cut": "is not an image|is damaged", "gone": "no image at"}
    with pytest.raises(UserError, match=said[harm]):
        cut_tiles(known, 4, processor)


def test_a_stage_on_images_that_went_bad_ends_with_the_counts_that_are_known(tmp_path, capsys, monkeypatch):
    """Of 24 images three are harmed after tokenising: 2 and 3 are neighbours, so 2 costs two replacements."""
    from trainer import loader

    monkeypatch.setattr(loader, "PAUSES", (0,))
    records = []
    for i in range(24):
        (tmp_path / f"{i}.png").write_bytes(image((9 * i, 0, 0)))
        talk = [human("<image>\nwhat is it?"), gpt("red")]
        records.append({"id": str(i), "conversations": talk, "image": f"{i}.png"})
    corpus = write_lines(tmp_path / "c.jsonl", [*records, "{broken", {"id": "x", "conversations": []}])
    where = ["--model", "armor-nano"]
    assert main(["tokenize", str(corpus), "--out", str(tmp_path / "s"), *where, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["read"]["dropped"] == {"no_turns": 1, "not_json": 1}
    (tmp_path / "2.png").write_bytes(image()[:70])
    (tmp_path / "3.png").write_bytes(image((1, 1, 1)))
    (tmp_path / "17.png").write_bytes(b"no image")
    words = ["stage", "--stage", "3", *where, "--data", str(tmp_path / "s"), "--mix", "ti2t=24", "--batch-size", "8"]
    assert main([*words, "--steps", "3", "--bad-images", "0.01", "--out", str(tmp_path / "run")]) == 0
    images = json.loads((tmp_path / "run/result.json").read_text())["images"]
    assert (images["read"], images["retried"], images["replaced"]) == (24 + 4, 0, 4)
    capsys.readouterr()
    assert main([*words, "--steps", "3", "--out", str(tmp_path / "strict")]) == 1
    assert "conversations had bad images, more than 0.10% of 1,000" in capsys.readouterr().err


def test_bad_images_of_the_held_out_data_are_counted_and_over_the_limit_the_run_stops(tmp_path, capsys, monkeypatch):
    """Six of eight are asked for; three are harmed, so five are measured, at each of two evaluations."""
    from trainer import loader

    monkeypatch.setattr(loader, "PAUSES", ())
    for i in range(8):
        (tmp_path / f"{i}.png").write_bytes(image((9 * i, 0, 0)))
    talk = [human("<image>\nwhat is it?"), gpt("red")]
    held = [{"id": str(i), "conversations": talk, "image": f"{i}.png"} for i in range(8)]
    texts = [{"id": str(i), "conversations": [human("hi"), gpt("hello")]} for i in range(4)]
    where = ["--model", "armor-nano"]
    for name, records in (("held", held), ("texts", texts)):
        file = write_lines(tmp_path / f"{name}.jsonl", records)
        assert main(["tokenize", str(file), "--out", str(tmp_path / f"s-{name}"), *where]) == 0
    words = [
        "stage",
        "--stage",
        "3",
        *where,
        "--data",
        str(tmp_path / "s-texts"),
        "--mix",
        "t2t=4",
        "--batch-size",
        "4",
    ]
    words += ["--steps", "2", "--eval-data", str(tmp_path / "s-held"), "--eval-every", "1", "--eval-limit", "6"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    for harm, number in ((b"no image", 0), (image((1, 1, 1)), 2), (b"", 3)):
        (tmp_path / f"{number}.png").write_bytes(harm)
    assert main([*words, "--bad-images", "0.01", "--out", str(tmp_path / "run")]) == 0
    whole, found = (
        json.loads((tmp_path / run / "result.json").read_text())["heldout_images"] for run in ("whole", "run")
    )
    assert (whole["read"], whole["replaced"]) == (2 * 6, 0)
    assert (found["read"], found["retried"], found["replaced"]) == (2 * 8, 0, 2 * 3)
    assert "an image of the held-out data is bad, another record takes its place" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "strict")]) == 1
    said = capsys.readouterr().err
    assert "3 of 8 held-out conversations had bad images, more than 0.10% of 1,000" in said and "Traceback" not in said
