"""Editing requests of the shapes world: frozen, asked in plain words of the world, judged by what changed."""

import json
from collections import Counter
from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.shapes import editing
from armor_eval.tasks.suites.declare import suites
from armor_eval.tasks.suites.rubric import Rubric
from trainer.shapes.language import vocabulary, words
from trainer.shapes.world import Scene, Thing, render

RECORDS = [json.loads(line) for line in editing.jsonl().splitlines()]
REQUEST = {"scene": "red circle@0; blue square@3", "target": "green circle@0; blue square@3"}


def seen(text: str) -> list[Thing]:
    return list(Scene.parse(text).things)


def test_the_requests_are_the_declared_ones_in_words_that_the_world_has():
    assert Counter(record["kind"] for record in RECORDS) == dict.fromkeys(editing.WORDINGS, editing.EACH)
    assert {word for record in RECORDS for word in words(record["instruction"])} <= set(vocabulary())
    assert len({(record["scene"], record["target"]) for record in RECORDS}) == len(RECORDS)
    assert 20 < sum(record["held_out"] for record in RECORDS) < 60


@pytest.mark.parametrize("record", RECORDS[:: editing.EACH // 2], ids=lambda record: record["id"])
def test_each_kind_changes_one_thing_and_nothing_else(record):
    source, target = (set(Scene.parse(record[name]).things) for name in ("scene", "target"))
    gone, new = source - target, target - source
    expected = {"remove": (1, 0), "add": (0, 1)}.get(record["kind"], (1, 1))
    assert (len(gone), len(new)) == expected
    if expected == (1, 1):
        changed = [k for k in Thing._fields if getattr(*gone, k) != getattr(*new, k)]
        assert changed == [{"recolor": "color", "reshape": "shape", "move": "cell"}[record["kind"]]]


@pytest.mark.parametrize(
    ("found", "followed", "preserved"),
    [
        ("green circle@0; blue square@3", True, True),
        ("red circle@0; blue square@3", False, True),  # nothing was done
        ("green circle@0", True, False),  # the rest is gone
        ("green circle@0; blue square@3; blue cross@1", True, False),  # something came
        ("green circle@0; blue square@2", True, False),  # the rest moved
        ("red circle@0; green circle@1; blue square@3", False, False),  # drawn beside, not changed
        ("green square@0; blue square@3", False, False),
    ],
)
def test_a_verdict_tells_following_from_preserving(found, followed, preserved):
    assert graded(seen(found)) == {"Instruction": followed, "Preservation": preserved}


def graded(things: list[Thing]) -> dict[str, int]:
    """The grades as the suite's rubric reads them."""
    return Rubric.model_validate(suites()["shapes-edit"].options["rubric"]).read(editing.grades(things, REQUEST))


def test_nothing_and_two_things_in_one_place_are_no_edit():
    assert graded([]) == {"Instruction": 0, "Preservation": 0} and "seen: nothing" in editing.grades([], REQUEST)
    assert graded([*seen("green circle@0; blue square@3"), Thing("blue", "square", 3)])["Preservation"] == 0


def drawn(folder: Path, scene: str) -> Path:
    """Every request's scene, `scene` or `target`, as the image that came out."""
    folder.mkdir()
    for record in RECORDS:
        render(Scene.parse(record[scene])).save(folder / f"{record['id']}.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("scene", "expected"), [("target", (1, 1, 1)), ("scene", (0, 0, 1))])
def test_the_command_scores_a_perfect_editor_1_and_one_that_copies_0(tmp_path, capsys, scene, expected):
    images = drawn(tmp_path / "images", scene)
    assert main(["draw", "--suite", "shapes-edit", "--images", str(images), "--out", str(tmp_path / "runs")]) == 0
    run, items, scores = read_bundle(tmp_path / "runs" / "shapes-edit")
    found = {metric.name: metric.value for metric in scores.metrics}
    assert (found["overall"], found["Instruction"], found["Preservation"]) == expected
    assert set(editing.WORDINGS) < set(found) and len(items) == len(RECORDS)
    assert (run.profile, run.reservations, run.judge.name) == ("shapes", [], "rtmdet-ins-shapes")


@pytest.mark.slow
def test_an_answer_without_an_image_edits_nothing_and_is_scored(tmp_path):
    """The stand-in answers a third of all requests with text alone."""
    command = ["draw", "--suite", "shapes-edit", "--model", "mock", "--limit", "15", "--out", str(tmp_path)]
    assert main(command) == 0
    _, items, scores = read_bundle(tmp_path / "shapes-edit")
    without = [item for item in items if not item.output_images]
    assert {item.reason for item in without} == {"the response holds no image"} and 0 < len(without) < 15
    assert {item.status for item in items} == {"ok"} and scores.withheld is None
    assert all(item.score == 0 for item in without)
