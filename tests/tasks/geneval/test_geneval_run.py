"""Whole runs through the embedded detector: right pictures are right, bad files counted, nothing lost in a kill."""

import json
import os
from pathlib import Path

import pytest
from geneval_world import PROMPTS, RECORDS, Renderer, metadata_line, spoil_folder, write_folder

from armor_eval.cli import main
from armor_eval.engine import Settings, evaluate
from armor_eval.runs.bundle import read_bundle
from armor_eval.shapes.colors import PixelColors
from armor_eval.shapes.detector import EmbeddedDetector
from armor_eval.tasks.geneval.colors import load_colors
from armor_eval.tasks.geneval.detections import score_file
from armor_eval.tasks.geneval.detectors import load_detector
from armor_eval.tasks.geneval.folders import scan_folder
from armor_eval.tasks.geneval.prompts import TASKS, load_vocabulary
from armor_eval.tasks.geneval.task import GenEvalTask
from armor_eval.tasks.geneval.verdicts import Rules
from armor_model.base.errors import RunFailed, UserError
from armor_model.base.hashing import sha256_file

VOCABULARY = load_vocabulary("shapes")


@pytest.fixture(scope="module")
def detector():
    return EmbeddedDetector(VOCABULARY)


def run(detector, model, out, batch_size=5, shard=None, **options):
    task = GenEvalTask(PROMPTS, detector, PixelColors(VOCABULARY), **{"limit": 12, "samples": 2} | options)
    return evaluate(task, model, out, Settings("shapes", ["test"], batch_size=batch_size, shard=shard))


def essence(out):
    _, items, scores = read_bundle(out)
    kept = [item.model_dump(exclude={"seconds"}) for item in sorted(items, key=lambda i: i.id)]
    return kept, [m.model_dump() for m in scores.metrics]


def test_a_perfect_drawer_is_judged_right_in_every_task(detector, tmp_path):
    done = run(detector, Renderer(), tmp_path / "run", limit=36)
    values = {m.name: m.value for m in done.scores.metrics}
    assert done.run.status == "complete" and done.run.subset.items == 72
    assert all(values[task] >= 0.9 for task in TASKS), values
    assert values["overall"] >= 0.97
    folder = tmp_path / "run"
    assert {p.name for p in (folder / "sheets").iterdir()} == {f"{task}.png" for task in TASKS}
    record = json.loads(next((folder / "images").glob("*/metadata.jsonl")).read_text())
    assert record == RECORDS[record["prompt"]]
    assert len(list((folder / "images").glob("*/samples/*.png"))) == 72
    stored = {line["image"]: line["correct"] for line in score_file(folder / "detections.jsonl", Rules())}
    _, items, _ = read_bundle(folder)
    assert stored == {item.output_images[0]: bool(item.score) for item in items}


def test_an_interrupted_run_ends_as_if_it_had_not_been(detector, tmp_path):
    whole = run(detector, Renderer(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(detector, Renderer(stop_after=10), tmp_path / "cut")
    journal = tmp_path / "cut" / "items.jsonl"
    assert 0 < len(journal.read_text().splitlines()) < 24
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])  # as if killed in the middle of a line
    (tmp_path / "cut" / "images" / "00000").mkdir(exist_ok=True)
    model = Renderer()
    run(detector, model, tmp_path / "cut")
    assert 0 < model.drawn < 24
    assert essence(tmp_path / "cut") == essence(tmp_path / "whole")
    again = run(detector, Renderer(stop_after=0), tmp_path / "whole")  # complete: nothing is drawn
    assert again.run.run_id == whole.run.run_id


def test_the_batch_size_does_not_change_a_verdict(detector, tmp_path):
    a, b = (run(detector, Renderer(), tmp_path / str(n), batch_size=n) for n in (3, 24))
    assert [m.value for m in a.scores.metrics] == [m.value for m in b.scores.metrics]


def test_a_image_that_fails_is_counted_and_tried_again(detector, tmp_path):
    done = run(
        detector, Renderer(fails=["a photo of a circle"]), tmp_path / "run", limit=None, samples=1, batch_size=48
    )
    headline = next(m for m in done.scores.metrics if m.primary)
    assert done.run.status == "partial" and headline.value is None and "1 of 144" in headline.note
    assert done.scores.counts == {"ok": 143, "error": 1}
    mended = run(detector, Renderer(), tmp_path / "run", limit=None, samples=1, batch_size=48)
    assert mended.run.status == "complete" and mended.scores.counts == {"ok": 144}
    assert {"held-out overall", "images", "prompts"} <= {m.name for m in mended.scores.metrics}


def test_a_model_that_never_draws_stops_the_run(detector, tmp_path):
    with pytest.raises(RunFailed, match="no ink"):
        run(detector, Renderer(fails=RECORDS), tmp_path / "run")


def test_existing_images_good_and_bad(detector, tmp_path, capsys):
    records = [next(r for r in RECORDS.values() if r["tag"] == task) for task in TASKS]
    root = write_folder(tmp_path / "img", records)
    lost = spoil_folder(root)
    prompts = tmp_path / "six.jsonl"
    prompts.write_text("".join(map(metadata_line, records)))
    command = ["geneval", "--profile", "shapes", "--images", str(root), "--prompts", str(prompts)]
    assert main([*command, "--out", str(tmp_path / "run"), "--json"]) == 1
    shown = capsys.readouterr()
    (result,) = json.loads(shown.out)
    assert "1 images more than 4" in shown.err
    assert result["run"]["status"] == "partial" and result["scores"]["counts"] == {"ok": 24 - lost, "error": lost}
    _, items, _ = read_bundle(tmp_path / "run" / "geneval")
    reasons = {item.id: item.reason for item in items if item.status == "error"}
    for word in ("missing", "empty", "not an image", "damaged", "8-bit", "leads out", "200 to 1"):
        assert any(word in reason for reason in reasons.values()), (word, reasons)
    notes = {item.extras.get("picture") for item in items}
    assert {"L read as RGB", "RGBA read as RGB", "rotated by EXIF", "JPEG, not PNG"} <= notes


@pytest.mark.parametrize(
    "spoil, word",
    [
        (lambda root, record: (root / "00000" / "metadata.jsonl").unlink(), "is missing"),
        (lambda root, record: put(root, {**record, "filename": "../../secret.png"}), "leads out"),
        (
            lambda root, record: put(root, {**record, "include": [{"class": "sqare", "count": 1}]}),
            "did you mean square",
        ),
        (lambda root, record: (root / "00000" / "metadata.jsonl").write_text("{"), "not one JSON object"),
    ],
)
def test_a_folder_that_cannot_be_trusted_is_refused_in_one_line(tmp_path, capsys, spoil, word):
    record = next(iter(RECORDS.values()))
    root = write_folder(tmp_path / "img", [record], samples=1)
    spoil(root, record)
    command = ["geneval", "--profile", "shapes", "--images", str(root), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def put(root, record):
    (root / "00000" / "metadata.jsonl").write_text(metadata_line(record))


def test_a_half_drawn_folder_is_partial_and_says_how_much(tmp_path):
    root = write_folder(tmp_path / "img", list(RECORDS.values())[:3], samples=2)
    found = scan_folder(root, VOCABULARY, None, 4)
    assert found.prompts.name == "shapes-geneval" and len(found.files) == 6


@pytest.mark.parametrize(
    "command, word",
    [
        (["geneval", "--model", "mock", "--detector", "mmdt"], "did you mean mmdet"),
        (["geneval", "--model", "mock", "--profile", "shapes", "--detector", "mmdet"], "profile official"),
        (["geneval", "--model", "mock", "--detector", "embedded"], "shapes world only"),
        (["geneval", "--model", "mock"], "sha256 beginning"),
        (["geneval", "--model", "mock", "--detector-weights", "/no/such.pth"], "no such file"),
        (["geneval", "--model", "mock", "--images", "x"], "leave --model out"),
        (["geneval", "--images", "/no/such/folder"], "not a folder"),
        (["geneval", "--device", "foo"], "cannot use device 'foo'"),
        (["geneval", "--device", "cuda:77"], "cannot use device 'cuda:77'"),
        (["geneval", "--guidance", "inf"], "inf is no number"),
        (["geneval", "--guidance", "nan"], "--guidance"),
        (["geneval", "score", "--detections", "/no/such.jsonl"], "cannot read"),
        (["geneval", "score", "--detections", os.devnull], "holds no images"),
        (["geneval", "score", "--detections", os.devnull, "--threshold", "nan"], "'--threshold'"),
        (["geneval", "score", "--detections", os.devnull, "--threshold", "7"], "'--threshold'"),
        (["geneval", "score", "--detections", os.devnull, "--counting-threshold", "-5"], "'--counting-threshold'"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(command, word, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ARMOR_EVAL_CACHE", str(tmp_path))
    assert main(command) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_mock_draws_blocks_and_scores_nothing(tmp_path, capsys):
    command = ["geneval", "--model", "mock", "--profile", "shapes", "--limit", "6", "--samples", "1"]
    assert main([*command, "--out", str(tmp_path / "run"), "--overlays"]) == 0
    assert "subset of 6 of 144 items" in capsys.readouterr().out
    assert len(list((tmp_path / "run" / "geneval" / "overlays").glob("*/samples/*.png"))) == 6
    _, _, scores = read_bundle(tmp_path / "run" / "geneval")
    assert next(m for m in scores.metrics if m.primary).value == 0


def test_another_scorer_setting_does_not_mix_with_a_finished_run(detector, tmp_path):
    run(detector, Renderer(), tmp_path / "run", limit=6)
    with pytest.raises(UserError, match="scorer"):
        run(detector, Renderer(), tmp_path / "run", limit=6, rules=Rules(threshold=0.4))


def test_a_finished_run_is_shown_and_a_merge_is_scored_without_any_weights(tmp_path, monkeypatch, capsys):
    command = ["geneval", "--model", "mock", "--profile", "shapes", "--limit", "6", "--batch-size", "5"]
    shards = [str(tmp_path / f"{i}of2") for i in (1, 2)]
    assert main([*command, "--out", str(tmp_path / "whole"), "--overlays"]) == 0
    for i, folder in enumerate(shards, 1):
        assert main([*command, "--overlays", "--shard", f"{i}/2", "--out", folder]) == 0
        assert not (Path(folder) / "scores.json").exists()
    monkeypatch.setattr("armor_eval.shapes.detector.build_model", lambda: pytest.fail("the detector was loaded"))
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "whole"), "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["run"]["status"] == "complete"
    assert main(["merge", *shards, "--out", str(tmp_path / "joined")]) == 0
    assert essence(tmp_path / "joined" / "geneval") == essence(tmp_path / "whole" / "geneval")
    whole, joined = (
        {f.relative_to(root): f.read_bytes() for name in ("images", "overlays") for f in (root / name).rglob("*.*")}
        for root in (tmp_path / "whole" / "geneval", tmp_path / "joined" / "geneval")
    )
    assert joined == whole and len(whole) == 2 * 24 + 6


def test_published_weights_are_not_read_for_a_run_s_record(tmp_path, monkeypatch):
    """Only hashed: what the record says is known before Mask2Former and CLIP are in memory."""
    (tmp_path / "weights").write_bytes(b"no weights")
    vocabulary = load_vocabulary("official")
    given = {"weights": tmp_path / "weights", "download": False, "device": "cpu"}
    detector = load_detector("mmdet", vocabulary, batch=None, **given)
    colors = load_colors(vocabulary, **given)
    digest = sha256_file(tmp_path / "weights")
    assert detector.settings["weights_sha256"] == colors.settings["colors_weights_sha256"] == digest
    with pytest.raises(UserError, match="cannot be read"):
        detector.self_check(Rules())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--detector-weights", "x"], "leave --detector-weights out"),
        (["--clip-weights", "x"], "leave --clip-weights out"),
        (["--request-json", "{}"], "openai:URL#NAME"),
        (["--shard", "3/2"], "--shard 2/4"),
        (["--images", "x", "--request-json", "{}"], "leave --request-json out"),
    ],
)
def test_an_option_without_effect_is_refused(options, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["geneval", "--profile", "shapes", *options]) == 2
    assert words in capsys.readouterr().err and list(tmp_path.iterdir()) == []
