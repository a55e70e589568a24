"""Dialogues as training data: of the shapes world, clear of what is asked of it, and of files, what is left out."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from PIL import Image

from armor_model.losses import IGNORE, Sums
from trainer.batches import SEGMENTS, TURNS, Example, answer_parts, collate
from trainer.cli import main
from trainer.logs import LossMeter, loss_means
from trainer.shapes import dialogues, interleaved
from trainer.shapes.dialogues import KINDS, repeats, stream
from trainer.shapes.language import vocabulary, words
from trainer.shapes.requests import MIXED_HELD_OUT
from trainer.shapes.world import Scene, is_held_out


@pytest.fixture(scope="module")
def some():
    return list(islice(stream(3), 400))


def test_a_worlds_dialogues_are_of_every_kind_in_known_words(some):
    assert Counter(record["id"].rsplit("-", 1)[0] for record in some) == dict.fromkeys(KINDS, 100)
    assert some == list(islice(stream(3), 400)) != list(islice(stream(4), 400))
    told = " ".join(turn["value"] for record in some for turn in record["conversations"]).replace("<image>", "")
    assert set(words(told)) <= set(vocabulary())
    assert not any(is_held_out(scene) for record in some for scene in record["images"])
    turns = {len(record["conversations"]) // 2 for record in some}
    assert turns == {1, 2, 3, 4} and max(r["conversations"][1]["value"].count("<image>") for r in some) == 4


def test_every_answer_says_what_its_image_shows(some):
    """By the judge's own reading of claims, against the scene."""
    from armor_eval.shapes.interleaved import compared

    for record in some:
        told = [t for turn in record["conversations"] if turn["from"] == "gpt" for t in turn["value"].split("<image>")]
        told = [text for text in told if text.strip()]
        drawn = record["images"][-len(told) :]
        for text, scene in zip(told, drawn, strict=True):
            found = compared(text, scene.things, {"scene": str(scene)})
            assert found.text_right and found.image_right and found.agrees and found.nothing_beyond


def test_no_sentence_around_a_request_is_one_of_the_benchmarks():
    asked = {*interleaved.SINGLE, *interleaved.FRAMES, *interleaved.STORY, *MIXED_HELD_OUT}
    assert asked.isdisjoint({*dialogues.SINGLE, *dialogues.FRAMES, *dialogues.STORY})


def test_no_training_dialogue_repeats_a_frozen_request(some, monkeypatch):
    """The screen finds what is planted; without it some dialogues do show a frozen request's image."""
    frozen = interleaved.records()
    assert len(frozen) == 500
    for request in frozen:
        scenes = [Scene.parse(scene) for scene in request["images"]]
        turns = [{"from": "human", "value": request["messages"][-1]["content"]}]
        assert repeats({"conversations": turns, "images": scenes})
    assert not any(map(repeats, some))
    monkeypatch.setattr(dialogues, "repeats", lambda record: False)
    assert any(map(repeats, islice(stream(3), 400)))


INTERSYN = {
    "whole": [("What is it?", "A red cup.", "a red cup", "a.png"), ("And larger?", "Here.", "a large cup", "b.png")],
    "one turn undrawn": [("What is it?", "A cup.", "a red cup", "a.png"), ("And larger?", "It is.", "a cup", "")],
    "without images": [("What is it?", "A cup.", "a red cup", "")],
    "without text": [("What is it?", None, "a red cup", "a.png")],
    "file missing": [("What is it?", "A cup.", "a red cup", "gone.png")],
    "no image file": [("What is it?", "A cup.", "a red cup", "broken.png")],
}


def as_intersyn(name, turns):
    said = []
    for human, gpt, caption, image in turns:
        said += [{"from": "human", "value": human}, {"from": "gpt", "value": gpt, "caption": caption, "image": image}]
    return {"id": name, "topic": "cups", "conversations": said}


@pytest.fixture
def mixed(tmp_path):
    """A file of good and bad dialogues, with its images."""
    for name in "ab":
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    rows = [as_intersyn(name, turns) for name, turns in INTERSYN.items()]
    rows += [{"id": "roles", "conversations": list(reversed(rows[0]["conversations"]))}]
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_build_data_takes_dialogues_in_and_counts_what_it_leaves_out(mixed, tmp_path, capsys):
    from armor_model import bundled, load_processor
    from trainer.data.records import Tally, read_conversations
    from trainer.data.tokenizing import tokenize

    out = tmp_path / "out"
    assert main(["build-data", "--dialogues", str(mixed), "--dialogues", "shapes-v1=8", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    found = report["readers"]["dialogues"]
    assert (found["read"], found["kept"]) == (15, 10)
    assert report["screens"]["noted"] == {"turns_left_out": 1} and "kept 1 with turns left out" in told
    assert found["dropped"] == {"bad_image": 1, "missing_image": 1, "no_turns": 3}
    assert "bad_image 1, missing_image 1, no_turns 3" in told and report["conversations"] == {"t2ti": 8, "ti2ti": 2}
    mixed.unlink()
    for name in "ab":
        (tmp_path / f"{name}.png").unlink()  # copied
    kept = list(read_conversations(out / "conversations.jsonl", Tally()))
    assert [(len(r["conversations"]), len(r["images"])) for r in kept[:2]] == [(4, 2), (2, 1)]
    folder = bundled("armor-nano")
    manifest = tokenize(out / "conversations.jsonl", tmp_path / "s", load_processor(folder), "armor-nano")
    assert manifest["read"]["kept"] == 10


def test_intersyns_generator_keeps_its_images_in_a_folder_beside_its_file(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images" / "00000_0000000003_caption_0.png")
    row = as_intersyn("00000_0000000003", [("What is it?", "A cup.", "a red cup", "00000_0000000003_caption_0.png")])
    (tmp_path / "data_test_00000.jsonl").write_text(json.dumps(row))
    words = ["build-data", "--dialogues", str(tmp_path / "data_test_00000.jsonl"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / "report.json").read_text())["conversations"] == {"t2ti": 1}


def test_dialogues_that_repeat_a_prompt_are_counted_or_left_out(mixed, tmp_path):
    (tmp_path / "p.txt").write_text("what is it\n")
    words = ["build-data", "--dialogues", str(mixed), "--prompts", str(tmp_path / "p.txt"), "--out"]
    assert main([*words, str(tmp_path / "noted")]) == 0
    report = json.loads((tmp_path / "noted" / "report.json").read_text())["readers"]["dialogues"]
    assert report["noted"] == {"contaminated_exact": 2, "turns_left_out": 1} and report["kept"] == 2
    assert main([*words, str(tmp_path / "dropped"), "--drop-contaminated"]) == 2


@pytest.mark.parametrize("source", ["shapes-v2=9", "shapes-v1=none", "shapes-v1=0", "gone.jsonl"])
def test_what_is_no_source_of_dialogues_is_one_line(source, tmp_path, capsys):
    assert main(["build-data", "--dialogues", source, "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and source in line


BOS, CODE, END, STOP = 50, 53, 51, 3


def answer(*pieces):
    """A turn's (ids, head of each): three given tokens, then words, and images of two codes."""
    said = [(9, "")] * 3
    for piece in pieces:
        said += [(piece, "t")] if isinstance(piece, int) else [(BOS, "t"), (CODE, "v"), (CODE, "v"), (END, "v")]
    return [*said, (STOP, "t")]


def example(kind, *turns):
    said = [token for turn in turns for token in turn]
    labels = [[token if by == head else IGNORE for token, by in said[1:]] + [IGNORE] for head in "tv"]
    return Example(kind, torch.tensor([token for token, _ in said]), *map(torch.tensor, labels))


def test_positions_know_their_segment_and_turn():
    """Text, image, text, image, then an answer of an image alone, then one of text."""
    talk = example("t2ti", answer(1, 2, "image", 4, "image"), answer("image"), answer(1))
    segments, turns = answer_parts(talk, BOS)
    asked = (talk.text_labels != IGNORE) | (talk.image_labels != IGNORE)
    told = [(SEGMENTS[s], TURNS[t]) for s, t in zip(segments[asked], turns[asked], strict=True)]
    text, after = ("before_image", "turn_1"), ("after_image", "turn_1")
    first, second = ("image_1", "turn_1"), ("image_2", "turn_1")
    assert told[:13] == [text] * 3 + [first] * 3 + [after] * 2 + [second] * 3 + [after] + [("before_image", "turn_2")]
    assert told[13:] == [("image_1", "turn_2")] * 3 + [("after_image", "turn_2")] + [("before_image", "turn_3")] * 2
    many = example("t2ti", answer(*["image"] * 6), *[answer(1)] * 5)
    segments, turns = answer_parts(many, BOS)
    assert segments.max() == len(SEGMENTS) - 1 and turns.max() == len(TURNS) - 1


@pytest.mark.parametrize("pack_to", [None, 60])
def test_losses_are_told_by_segment_and_turn(pack_to):
    """Losses that are the label's own id: each mean is one of labels, packed or not. A plain text has no breakdown."""
    talks = [example("t2ti", answer(1, "image", 4), answer("image")), example("t2t", answer(2))]

    def means(talks):
        batch, meter = collate(talks, 0, BOS, pack_to), LossMeter()
        each = [labels[labels != IGNORE].double() for labels in (batch.text_labels, batch.image_labels)]
        meter.add(Sums(each[0].sum(), each[1].sum(), *each), batch, 1.0)
        return loss_means(meter.sums)

    found = means(talks)
    assert found["text/before_image"] == (1 + BOS + BOS + 2 + STOP) / 5
    assert found["text/after_image"] == (4 + STOP + STOP) / 3 and found["text/turn_2"] == (BOS + STOP) / 2
    assert found["text/t2ti"] == (1 + BOS + 4 + STOP + BOS + STOP) / 6 and found["text/t2t"] == (2 + STOP) / 2
    assert found["image/turn_1"] == found["image/turn_2"] == (CODE + CODE + END) / 3 and "image/image_1" not in found
    assert set(means(talks[1:])) == {"text", "text/t2t"}


def test_stage_3_takes_dialogues_of_several_images(tmp_path, capsys):
    """From build-data to the run's record: t2ti and ti2ti are read, and losses told by segment and turn everywhere."""
    from armor_eval.runs.bundle import read_bundle
    from trainer.curves import read_losses

    data, shards, out = (str(tmp_path / name) for name in ("data", "shards", "run"))
    assert main(["build-data", "--dialogues", "shapes-v1=16", "--out", data]) == 0
    assert main(["tokenize", f"{data}/conversations.jsonl", "--model", "armor-nano", "--out", shards]) == 0
    words = f"--mix t2ti=12,ti2ti=4 --batch-size 16 --eval-data {shards} --eval-limit 8 --profile shapes --out {out}"
    assert main(["stage", "--stage", "3", "--model", "armor-nano", "--data", shards, *words.split()]) == 0
    told = {"text/before_image", "text/after_image", "image/image_1", "image/image_2", "text/turn_1", "image/turn_2"}
    first, *_, last = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert {f"loss/{name}" for name in (*told, "text/ti2ti", "text/t2ti")} <= set(first) | set(last)
    assert any(name.endswith("text/after_image") and not name.startswith("loss/") for name in (*first, *last))
    assert told <= set(read_losses(tmp_path / "run" / "log.jsonl"))
    _, _, scores = read_bundle(tmp_path / "run")
    assert {f"loss/{name}" for name in told} <= {metric.name for metric in scores.metrics}
