"""The nano recipe: bare questions, pictures read exactly, a quick run through every stage."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

from trainer.batches import collate
from trainer.data.records import IMAGE
from trainer.shapes.conversations import sample_conversation
from trainer.shapes.data import Codes, make_pool, to_pixels
from trainer.shapes.evaluation import Rate, asked_until, held_out_request, read_images
from trainer.shapes.lessons import (
    AFTER,
    ANY,
    CHOICE,
    COMPOSED,
    COMPOSITIONS,
    DECLINE,
    HARD,
    LOOKUP,
    PLAN,
    PLANNED,
    SHORT,
    TOLD,
    composed,
    orderly_request,
    sample_lesson,
)
from trainer.shapes.questions import MCQ_SUFFIX, plural
from trainer.shapes.requests import DRAW, SHOW_AND_SAY, TASKS, matches
from trainer.shapes.world import (
    CELL_NAMES,
    HELD_OUT,
    NUMBERS,
    OPPOSITE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    holds,
    is_held_out,
    render,
    sample_scene,
)


@pytest.mark.parametrize("lesson", [SHORT, LOOKUP, CHOICE, HARD, COMPOSED, PLAN, TOLD, DECLINE, AFTER])
def test_lessons_show_nothing_held_out(lesson):
    rng = np.random.default_rng(2)
    for number in range(200):
        record = sample_lesson(rng, lesson, number)
        human, gpt = (turn["value"] for turn in record["conversations"][-2:])
        assert len(record["conversations"]) == (4 if lesson == AFTER else 2)
        assert (human + gpt).count(IMAGE) == len(record["images"]) == (lesson in (SHORT, CHOICE, HARD, COMPOSED))
        assert (gpt in "ABCD") == (MCQ_SUFFIX in human)
        assert lesson == HARD or (gpt in "ABCD") == (lesson in (CHOICE, LOOKUP))
        assert not any(is_held_out(scene) for scene in record["images"])


def _singular(word: str) -> str:
    return next(shape for shape in SHAPES if word in (shape, plural(shape)))


def _read_request(phrase: str) -> list[list[tuple[str | None, str | None]]]:
    """(colour, shape) of each thing that the words name, part by part; None where the words leave it open."""
    parts = []
    for part in re.split(rf" (?:{'|'.join(RELATIONS)}|and) |, ", phrase):
        number, *color, noun = part.split()
        shape = None if noun in ("shape", "shapes") else _singular(noun)
        parts.append([(color[0] if color else None, shape)] * (1 if number == "a" else NUMBERS.index(number)))
    return parts


def _fulfils(scene: Scene, phrase: str) -> bool:
    """Some way to tell which thing is which makes every word true, with nothing left over."""
    parts = _read_request(phrase)
    wanted = [thing for part in parts for thing in part]
    if len(wanted) != len(scene.things):
        return False
    relation = next((r for r in RELATIONS if f" {r} " in phrase), None)
    first, second = len(parts[0]), len(parts[0]) + len(parts[-1 if len(parts) == 1 else 1])
    for things in permutations(scene.things):
        fits = all(c in (None, t.color) and s in (None, t.shape) for (c, s), t in zip(wanted, things, strict=True))
        if fits and (
            relation is None or all(holds(a, relation, b) for a in things[:first] for b in things[first:second])
        ):
            return True
    return False


def test_composed_images_fulfil_their_words():
    """The words read back independently."""
    rng = np.random.default_rng(8)
    phrases = set()
    for _ in range(400):
        phrase, scene = composed(rng)
        assert _fulfils(scene, phrase), (phrase, scene)
        phrases.add(phrase)
    for said in (*RELATIONS, "two", "three", "four", "a shape ", " shapes", "two red ", " and a "):
        assert any(said in phrase for phrase in phrases), said


@pytest.mark.parametrize("make", sorted(set(COMPOSITIONS), key=lambda make: make.__name__))
def test_every_kind_of_composed_request_keeps_its_word(make):
    rng = np.random.default_rng(13)
    for _ in range(200):
        a, b = (SHAPES[int(i)] for i in rng.permutation(len(SHAPES))[:2])
        phrase, scene = make(rng, a, b)
        assert _fulfils(scene, phrase), (phrase, scene)
        if ANY in phrase:  # three crosses would be a number of crosses in other words
            assert len({thing.shape for thing in scene.things}) > 1


def test_no_request_is_one_that_is_judged():
    """Not only pictures are held out: no words that drawing is judged by are ever learned from."""
    rng = np.random.default_rng(14)
    judged = {held_out_request(rng, task).phrase for task in TASKS for _ in range(400)}
    learned = {composed(rng)[0] for _ in range(4000)} | {orderly_request(rng).phrase for _ in range(4000)}
    assert len(judged) > 50 and len(learned) > 1000 and not judged & learned


def _read_plan(text: str) -> Scene:
    things = re.findall(r"a (\w+) (\w+) at the (\w+ \w+)", text)
    return Scene(tuple(Thing(color, shape, CELL_NAMES.index(cell)) for color, shape, cell in things))


def test_plans_put_what_is_asked_for_where_it_is_asked_for_and_nothing_held_out():
    rng = np.random.default_rng(9)
    for number in range(300):
        human, gpt = (t["value"] for t in sample_lesson(rng, PLAN, number)["conversations"])
        scene = _read_plan(gpt)
        asked = next(m[1] for w in PLANNED if (m := re.fullmatch(re.escape(w).replace(r"\{x\}", "(.*)"), human)))
        assert not is_held_out(scene) and _fulfils(scene, asked), (asked, gpt)


def test_what_is_told_is_answered_rightly():
    """Every answer follows from the words, read back here by another way than the lesson's."""
    rng = np.random.default_rng(10)
    kinds = Counter()
    for number in range(600):
        human, gpt = (t["value"] for t in sample_lesson(rng, TOLD, number)["conversations"])
        told, question = human.removeprefix("there is ").split(". ")
        pairs = [thing for part in _read_request(told) for thing in part]
        if match := re.match(r"how many (\w+) are there", question):
            named = [shape for part in _read_request(told) for _, shape in part]
            wanted = named if match[1] == "shapes" else [s for s in named if s == _singular(match[1])]
            assert match[1] == "shapes" or None not in named  # only what the words say is asked about
            assert int(gpt) == len(wanted)
        elif match := re.match(r"what color is the (\w+)", question):
            assert [c for c, s in pairs if s == match[1]] == [gpt]
        elif match := re.match(r"which shape is (\w+)", question):
            assert [s for c, s in pairs if c == match[1]] == [gpt]
        elif match := re.match(r"is there a (\w+) (\w+) in", question):
            assert gpt == ("yes" if match.groups() in pairs else "no")
        else:
            a, said, b = re.match(r"is the (\w+) (left of|right of|above|below) the (\w+)", question).groups()
            relation = next(r for r in RELATIONS if f" {r} " in told)
            ahead = told.index(a) < told.index(b)
            assert gpt == ("yes" if (said == relation) == ahead and said in (relation, OPPOSITE[relation]) else "no")
        kinds[question.split()[1]] += 1
    assert set(kinds) == {"many", "color", "shape", "there", "the"}


def test_a_declined_request_is_answered_as_far_as_words_go():
    rng = np.random.default_rng(11)
    silent, said = 0, 0
    for number in range(200):
        human, gpt = (t["value"] for t in sample_lesson(rng, DECLINE, number)["conversations"])
        assert "sorry, i can not draw" in gpt
        alone = gpt.startswith("sorry")
        silent += alone
        if any(re.fullmatch(re.escape(w).replace(r"\{x\}", ".*"), human) for w in SHOW_AND_SAY):
            said += 1
            phrase = re.match(r"here (?:is|are) (.*?)\.", gpt)[1]
            assert phrase in human
        elif alone:
            assert any(re.fullmatch(re.escape(w).replace(r"\{x\}", ".*"), human) for w in DRAW)
    assert 70 < silent < 130 and said > 20


def test_orderly_images_follow_the_words():
    rng = np.random.default_rng(12)
    for _ in range(400):
        request = orderly_request(rng)
        assert matches(request.scene, request.things, request.relation) and not is_held_out(request.scene)
        if request.relation is None:
            named = [(color, shape) for color, shape, count in request.things for _ in range(count)]
            drawn = [(t.color, t.shape) for t in request.scene.things]
            assert all(a[1] == b[1] and a[0] in (None, b[0]) for a, b in zip(named, drawn, strict=True))


def test_images_are_read_back_exactly():
    rng = np.random.default_rng(3)
    scenes = [sample_scene(rng, training=False) for _ in range(100)]
    assert read_images([render(s) for s in scenes]) == scenes


def test_noise_and_a_blank_sheet_show_nothing():
    from PIL import Image

    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    assert read_images([noise, Image.new("RGB", (32, 32), "white")]) == [None, None]


def test_fast_pixels_are_what_the_processor_makes():
    from armor_model.images import to_pixels as one_image

    scene = sample_scene(np.random.default_rng(4))
    assert torch.allclose(to_pixels([scene])[0], one_image(render(scene), 32), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_judged_prompts_name_held_out_combinations(task):
    request = held_out_request(np.random.default_rng(5), task)
    assert not request.keys.isdisjoint(HELD_OUT)


def test_a_conversation_is_asked_up_to_its_last_turn():
    """Small talk before a drawing request is no drawing request (which `modality` counts as one, as it always did)."""
    rng, talked = np.random.default_rng(6), 0
    for number in range(200):
        record = sample_conversation(rng, ("t2i", "t2ti", "ti2t")[number % 3], number)
        turns, asked = record["conversations"], asked_until(record, -1)
        assert [m["role"] for m in asked] == ["user", "assistant"] * (len(turns) // 2 - 1) + ["user"]
        said = "".join(part.get("text", "") for part in asked[-1]["content"])
        assert said == turns[-2]["value"].removeprefix("<image>").strip("\n")
        talked += len(turns) > 2
    assert talked > 5


def test_wilson_interval_of_a_perfect_score_is_not_a_point():
    low, high = Rate(20, 20).interval
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(0.839, abs=0.002)  # 20 / (20 + 1.96 squared)


def test_condition_dropout_leaves_generations_unconditional_prompt():
    """What guidance compares with at generation is what dropout trains."""
    from armor_model.generation.api import UNCONDITIONAL
    from trainer.shapes.recipe import build, default_recipe

    model, processor = build(default_recipe())
    pool = make_pool(processor, Codes(processor.vq), "t2i", 20, 0)
    bare = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    spans = [e for e in pool if e.prompt_span]
    assert spans
    for example in spans:
        emptied = example.without_prompt()
        assert emptied.input_ids[: len(bare)].tolist() == bare
        assert int(emptied.input_ids[len(bare)]) == model.config.imgbos_id
    assert collate(spans, 0, model.config.imgbos_id).images == len(spans)


def test_the_recipe_runs_through_every_stage_and_leaves_a_checkpoint(tmp_path, caplog):
    from armor_model import load
    from armor_model.loading import image_defaults
    from trainer.shapes.card import card_text, measure, save_nano, write_card
    from trainer.shapes.recipe import default_recipe, scaled, train_nano

    recipe = scaled(default_recipe(), 0.002)
    stages = [replace(stage, how=replace(stage.how, batch_size=16)) for stage in recipe.stages]
    recipe = replace(recipe, pools=dict.fromkeys(recipe.pools, 16), stages=tuple(stages))
    work = tmp_path / "work"
    with caplog.at_level("INFO", "trainer.shapes"):
        outcome = train_nano(recipe, work)
    told = [one.message for one in caplog.records if one.name == "trainer.shapes.walk"]
    assert len(told) == 10 and told[8].startswith("9/11 stage 3: ") and "loss text" in told[8] and "left" in told[8]
    assert [r.name for r in outcome.reports] == ["vqgan", "vision", "data", "base", "base", "base", "1", "2", "3", "3"]
    shutil.rmtree(work / "6-3")  # as if killed before the last stage
    again = train_nano(recipe, work)
    for name, value in outcome.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name
    assert [r.losses.get("loss/text") for r in again.reports] == [r.losses.get("loss/text") for r in outcome.reports]
    folder = tmp_path / "model"
    save_nano(outcome, folder)
    assert image_defaults(folder) == {"image_temperature": 0.5}
    scores = measure(folder, {"questions": 2, "modality": 2, "drawings": 2}, 0)
    write_card(folder, recipe, outcome, scores, "armor-train nano")
    model, _ = load(folder)
    assert model.dtype == torch.float32
    record = json.loads((folder / "training.json").read_text())
    assert (folder / "README.md").read_text() == card_text(record)
    assert set(scores["drawings"]) == set(TASKS)


@pytest.mark.slow
def test_the_command_ends_with_one_json_object(tmp_path, capsys):
    from trainer.cli import main

    assert main(["nano", "--out", str(tmp_path / "nano"), "--scale", "0.002", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["scores"]["mean"].keys() >= {"questions", "modality", "drawings"}
    assert re.findall(r"(\d+)/10 \w", told.err) == [str(n) for n in range(1, 11)] and "{" not in told.err
    assert main(["nano-seeds", str(tmp_path / "nano"), "--json"]) == 0
    assert [one["seed"] for one in json.loads(capsys.readouterr().out)] == [0]


def test_the_time_left_is_what_is_expected_times_how_slow_it_is_here(monkeypatch, caplog):
    """Steps that a resumed run finds done take no time, and do not make the rest look fast."""
    from trainer.shapes import walk

    now = iter([0.0, 2.0, 4.0, 100.0, 100.0, 103.0])
    monkeypatch.setattr(walk.time, "perf_counter", lambda: next(now))
    way = walk.Walk([walk.Phase("a", 3, 1.0), walk.Phase("b", 10, 5.0), walk.Phase("c", 1, 10.0)], bar=False)
    with caplog.at_level("INFO", "trainer.shapes"):
        way.at(1)
        way.at(2)  # 2 s for a unit of 1: half as fast as expected
        way.done("done")
        way.at(9)  # found done
        way.at(9)
        way.done("done")  # 3 s for a unit of 5
    assert [one.message for one in caplog.records] == ["1/3 a: done; about 2 min left", "2/3 b: done; about 6 s left"]


def test_a_terminal_shows_one_bar_over_all_phases(monkeypatch, capsys):
    from trainer.shapes import walk

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    way = walk.Walk([walk.Phase("data", 4, 1.0), walk.Phase("base", 4, 3.0)])
    assert way.seen
    way.at(4)
    way.done("4 conversations")
    way.at(2, "loss text 0.5")
    way._bar.refresh()
    way.close()
    shown = capsys.readouterr().err
    assert "1/2 data: 4 conversations\n" in shown and "2/2 base  62% |" in shown and "loss text 0.5" in shown


@pytest.mark.parametrize("release", [".", "release-1"])
def test_the_reported_seeds_are_what_their_records_say(release, capsys):
    """reports/armor-nano: the tables are those of the records beside them."""
    from trainer.cli import main

    folder = ROOT / "reports" / "armor-nano" / release
    files, twins = sorted(folder.glob("seed-*.json")), sorted(folder.glob("twin-*.json"))
    assert main(["nano-seeds", *map(str, files + twins)]) == 0
    said = (folder / "README.md").read_text()
    assert all(table.strip() in said for table in capsys.readouterr().out.split("\n\n"))


def test_the_bundled_checkpoint_is_a_reported_one():
    from armor_model import bundled
    from trainer.shapes.card import card_text

    checkpoint = Path(bundled("armor-nano"))
    record = json.loads((checkpoint / "training.json").read_text())
    reported = ROOT / "reports" / "armor-nano" / f"seed-{record['recipe']['seed']}.json"
    assert record == json.loads(reported.read_text())
    assert (checkpoint / "README.md").read_text() == card_text(record)


def test_twins_are_compared_by_seed():
    from trainer.shapes.card import GROUPS, seeds_text

    def record(seed, twin, drawn):
        rate = {"value": drawn, "n": 60, "ci95": [0.0, 1.0]}
        scores = {group: {"a": rate} for group in GROUPS} | {"mean": dict.fromkeys(GROUPS, drawn)}
        return {"recipe": {"seed": seed, "random_backbone": twin}, "cpu_seconds": 1.0, "scores": scores}

    trained = [record(0, False, 0.9), record(1, False, 0.8), record(2, False, 0.7)]
    text = seeds_text([*trained, record(1, True, 0.5), record(0, True, 0.4), record(7, True, 0.0)])
    # differences .5 and .3: mean .4, half width 12.706 * .1
    assert "| mean over seeds 0, 1 | trained base | random backbone | difference, 95 % over seeds |" in text
    assert "| a | 0.85 | 0.45 | +0.40 [-0.87, +1.67] |" in text
    assert "the median is seed 1" in text and "seed 7" not in text
    assert "| seed 7, random backbone |" in seeds_text([record(7, True, 0.0)])


@pytest.mark.parametrize("held", ["training.json", "thesis.tex"])
def test_a_folder_with_something_in_it_is_refused_before_training(tmp_path, capsys, held):
    from trainer.cli import main

    (tmp_path / held).write_text("")
    assert main(["nano", "--out", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err and (tmp_path / held).exists()


def test_a_full_disk_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    """safetensors has an error of its own for it, which is no OSError."""
    from trainer import cli
    from trainer.shapes import recipe

    class SafetensorError(Exception):
        pass

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(recipe, "train_nano", full)
    assert cli.main(["nano", "--out", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("armor-train: no space left") and said.count("\n") == 1


def test_no_record_of_a_training_is_named(tmp_path, capsys):
    from trainer.cli import main

    (tmp_path / "training.json").write_text("{}")
    assert main(["nano-seeds", str(tmp_path)]) == 2
    assert "is no record of" in capsys.readouterr().err
