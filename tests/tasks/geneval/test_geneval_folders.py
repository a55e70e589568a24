"""Image folders as other programs leave them: what is clear is read, what is left out is named, nothing is lost."""

import json
import os

import numpy as np
import pytest
from geneval_world import PROMPTS, Renderer, metadata_line, scene_for, write_folder

from armor_eval.engine import Settings, evaluate
from armor_eval.runs.bundle import Bundle, read_bundle
from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.tasks.drawn import drawn_elsewhere
from armor_eval.tasks.geneval.folders import scan_folder
from armor_eval.tasks.geneval.prompts import load_vocabulary, official_prompts, prompt_set, read_prompts
from armor_eval.tasks.geneval.task import GenEvalTask
from armor_model.base.errors import UserError
from trainer.shapes.world import render

VOCABULARY = load_vocabulary("shapes")
RECORDS = [
    {"tag": "single_object", "include": [{"class": shape, "count": 1}], "prompt": f"a drawing of one {shape}"}
    for shape in ("circle", "square", "triangle")
]
GIVEN = prompt_set("three", RECORDS)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "img", RECORDS, samples=2)


def samples(folder, i):
    return folder / f"{i:05d}" / "samples"


def each(change):
    def apply(folder):
        for i in range(3):
            change(folder, i)

    return apply


def rename(pattern):
    return each(
        lambda f, i: [file.rename(file.with_name(pattern.format(int(file.stem)))) for file in samples(f, i).iterdir()]
    )


def jpegs_beside(folder, i):
    other = render(scene_for(RECORDS[(i + 1) % 3], np.random.default_rng(i)))
    for k in range(2):
        other.save(samples(folder, i) / f"{k:05d}.jpg")


def move_up(folder, i):
    for file in samples(folder, i).iterdir():
        file.rename(folder / f"{i:05d}" / file.name)
    samples(folder, i).rmdir()


def into_ranks(folder, i):
    (folder / f"rank{i % 2}").mkdir(exist_ok=True)
    (folder / f"{i:05d}").rename(folder / f"rank{i % 2}" / f"{i:05d}")


def metadata(change):
    return lambda folder: (folder / "00001" / "metadata.jsonl").write_bytes(change(metadata_line(RECORDS[1]).encode()))


READ_WHOLE = {
    "sidecar json": (each(lambda f, i: (samples(f, i) / "00000.json").write_text("{}")), ".json files are no images"),
    "sidecar txt": (
        each(lambda f, i: (samples(f, i) / "00001.txt").write_text("a circle")),
        ".txt files are no images",
    ),
    "no ending": (each(lambda f, i: (samples(f, i) / "00000").write_text("")), "00000 files are no images"),
    "jpg beside png": (each(jpegs_beside), "00000, 00001, 00002: left out: a .jpg beside the .png of one number"),
    "grid beside": (each(lambda f, i: (f / f"{i:05d}" / "grid.png").write_bytes(b"x")), None),
    "grid within": (each(lambda f, i: (samples(f, i) / "grid.png").write_bytes(b"x")), "grid.png has no number"),
    "grid numbered": (
        each(lambda f, i: (samples(f, i) / "grid_0.png").write_bytes(b"x")),
        "grid_N beside those named N",
    ),
    "a folder within": (each(lambda f, i: (samples(f, i) / "00000").mkdir()), "00000 is a folder"),
    "a folder named as an image": (each(lambda f, i: (samples(f, i) / "2.png").mkdir()), "2.png is a folder"),
    "a superscript folder": (lambda f: (f / "\u00b2").mkdir(), "\u00b2: left out: its name is no number"),
    "a superscript file": (
        each(lambda f, i: (samples(f, i) / "\u00b3.png").write_bytes(b"")),
        "\u00b3.png has no number",
    ),
    "a hidden file": (each(lambda f, i: (samples(f, i) / "._00000.png").write_bytes(b"x")), None),
    "short names": (rename("{}.png"), None),
    "capitals": (rename("{:05d}.PNG"), None),
    "img_000.png": (rename("img_{:03d}.png"), None),
    "jpeg endings": (rename("{:05d}.jpeg"), None),
    "numbers from 7": (rename("{}7.png"), None),
    "beside the metadata": (each(move_up), None),
    "folders of processes": (each(into_ranks), None),
    "a byte-order mark": (metadata(lambda line: b"\xef\xbb\xbf" + line), None),
    "carriage returns": (metadata(lambda line: line.replace(b"\n", b"\r\n")), None),
    "written twice": (metadata(lambda line: line + line), None),
    "over several lines": (metadata(lambda line: json.dumps(json.loads(line), indent=1).encode()), None),
    "more keys": (metadata(lambda line: json.dumps({**json.loads(line), "seed": 3}).encode()), None),
}


@pytest.mark.parametrize("kind", READ_WHOLE)
def test_what_is_clear_is_read_and_what_is_left_out_is_said(folder, kind):
    harm, note = READ_WHOLE[kind]
    whole = scan_folder(folder, VOCABULARY, GIVEN, 4)
    known = {pair: path.read_bytes() for pair, path in whole.files.items()}
    harm(folder)
    found = scan_folder(folder, VOCABULARY, GIVEN, 4)
    assert {pair: path.read_bytes() for pair, path in found.files.items()} == known
    assert found.prompts == GIVEN and found.lost is None
    assert any(note in line for line in found.notes) if note else not found.notes, found.notes
    assert len(found.notes) <= 1, "one line a reason, however many folders"


def test_names_that_say_two_things_are_not_guessed(folder):
    for file in list(samples(folder, 0).iterdir()):
        file.rename(file.with_name(f"{'ab'[int(file.stem)]}_{int(file.stem)}.png"))
    found = scan_folder(folder, VOCABULARY, GIVEN, 4)
    assert {i for i, _ in found.files} == {1, 2}
    assert "00000: left out: files named a_N, b_N: which are the samples is not clear" in found.notes


def test_metadata_of_two_prompts_is_left_out_and_the_others_are_read(folder):
    (folder / "00000" / "metadata.jsonl").write_text("".join(map(metadata_line, RECORDS[:2])))
    (folder / "00002" / "metadata.jsonl").write_text("{")
    found = scan_folder(folder, VOCABULARY, GIVEN, 4)
    assert {i for i, _ in found.files} == {1} and found.prompts == GIVEN
    assert any("metadata.jsonl: 2 records that differ" in line for line in found.notes)
    assert any("not one JSON object" in line for line in found.notes)


def test_a_folder_of_its_own_prompts_that_lost_one_is_partial(tmp_path, detector):
    odd = [{**r, "include": [{**r["include"][0], "count": 3}]} for r in RECORDS]
    folder = write_folder(tmp_path / "img", RECORDS, samples=1)
    for i, record in enumerate(odd):
        (folder / f"{i:05d}" / "metadata.jsonl").write_text(metadata_line(record))
    assert scan_folder(folder, VOCABULARY, None, 1).lost is None
    (folder / "00001" / "metadata.jsonl").unlink()
    found = scan_folder(folder, VOCABULARY, None, 1)
    assert len(found.prompts.records) == 2 and "1 folders could not be read" in found.lost
    finished = judge(found, tmp_path / "run", detector, samples=1)
    assert finished.run.status == "partial" and "1 folders could not be read" in finished.run.status_reason


def test_rewritten_prompts_are_the_same_items_in_other_words(folder):
    long = {**RECORDS[1], "prompt": "one square, alone on a wide white sheet", "Prompt": RECORDS[1]["prompt"]}
    (folder / "00001" / "metadata.jsonl").write_text(metadata_line(long))
    found = scan_folder(folder, VOCABULARY, GIVEN, 4)
    assert len(found.files) == 6 and found.prompts.name == "three-rewritten"
    assert found.prompts.records == [RECORDS[0], {**RECORDS[1], "prompt": long["prompt"]}, RECORDS[2]]
    assert "other words" in found.notes[0]


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda f: [file.unlink() for file in f.glob("*/samples/*")], "no image that belongs to a prompt"),
        (lambda f: [d.rename(f / f"x{d.name}") for d in f.iterdir()], "holds no numbered folders"),
        (lambda f: [file.unlink() for file in f.glob("*/metadata.jsonl")], "metadata.jsonl is missing"),
    ],
)
def test_a_folder_without_anything_to_read_is_one_line(folder, harm, words):
    harm(folder)
    with pytest.raises(UserError, match=words):
        scan_folder(folder, VOCABULARY, GIVEN, 4)


def test_a_prompt_file_is_known_by_its_content_not_its_bytes(tmp_path):
    official, vocabulary = official_prompts(), load_vocabulary("official")
    lines = [json.dumps(record) for record in official.records]
    for name, text in (("no final newline", "\n".join(lines)), ("mark", "\ufeff" + "\r\n".join(lines) + "\r\n\r\n")):
        (tmp_path / name).write_text(text, newline="")
        found = read_prompts(tmp_path / name, vocabulary)
        assert (found.name, found.sha256, found.official) == ("geneval", official.sha256, True)
    (tmp_path / "other").write_text("\n".join(lines[1:]))
    assert not read_prompts(tmp_path / "other", vocabulary).official


# --- whole runs ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    return EmbeddedDetector(VOCABULARY)


def draw(model, out, detector, samples=2, batch_size=2, limit=None):
    task = GenEvalTask(PROMPTS, detector, PixelColors(VOCABULARY), samples=samples, limit=limit)
    return evaluate(task, model, out, Settings("shapes", ["test"], batch_size=batch_size))


def judge(found, out, detector, samples=2, limit=None):
    task = GenEvalTask(found.prompts, detector, PixelColors(VOCABULARY), images=found, samples=samples, limit=limit)
    return evaluate(task, drawn_elsewhere(found), out, Settings("shapes", ["test"], batch_size=2))


@pytest.mark.parametrize("harm", ["missing", "unreadable"])
def test_a_first_shard_that_is_missing_does_not_stop_the_others(folder, tmp_path, detector, harm):
    for file in samples(folder, 0).iterdir():
        file.unlink() if harm == "missing" else file.write_bytes(b"<html>")
    found = scan_folder(folder, VOCABULARY, GIVEN, 2)
    done = judge(found, tmp_path / "run", detector)
    assert done.run.status == "partial" and done.scores.counts == {"error": 2, "ok": 4}
    assert "2 of 6 images have no verdict" in done.run.status_reason


def test_an_empty_or_cut_image_of_our_own_is_drawn_again(tmp_path, detector):
    run = {"samples": 2, "batch_size": 3, "detector": detector, "limit": 6}
    whole = draw(Renderer(), tmp_path / "whole", **run)
    cut = Renderer(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        draw(cut, tmp_path / "cut", **run)
    _, items, _ = read_bundle(tmp_path / "cut")
    files = [tmp_path / "cut" / item.output_images[0] for item in items]
    assert len(files) >= 5
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-20])
    files[2].write_bytes(bytes(files[2].stat().st_size))  # a machine that lost power leaves zeros
    files[3].unlink()
    kept = files[4].stat().st_mtime_ns
    done = draw(Renderer(), tmp_path / "cut", **run)
    assert done.run.status == "complete" and files[4].stat().st_mtime_ns == kept
    for file in (tmp_path / "whole" / "images").glob("*/samples/*.png"):
        assert (tmp_path / "cut" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes()
    assert [m.value for m in done.scores.metrics] == [m.value for m in whole.scores.metrics]


def test_an_image_is_on_the_disk_before_its_item_is_journalled(tmp_path, detector, monkeypatch):
    synced, fsync, append = set(), os.fsync, Bundle.append

    def noting(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def checking(self, item):
        file = self.path / item.output_images[0]
        for path in (file, file.parent, file.parent.parent):
            assert path.stat().st_ino in synced, path
        append(self, item)

    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(Bundle, "append", checking)
    draw(Renderer(), tmp_path / "drawn", detector, samples=1, limit=6)
    found = scan_folder(tmp_path / "drawn" / "images", VOCABULARY, PROMPTS, 1)
    judge(found, tmp_path / "copied", detector, samples=1, limit=6)
