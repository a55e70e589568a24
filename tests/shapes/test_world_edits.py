"""Editing requests of the shapes world: frozen, asked in plain words of the world, judged by what changed."""

import json
from collections import Counter

import pytest
from PIL import Image

from armor_eval.shapes import editing
from armor_eval.tasks.suites.editing import guest_requests
from trainer.shapes.language import vocabulary, words
from trainer.shapes.world import Scene, Thing

RECORDS = [json.loads(line) for line in editing.jsonl().splitlines()]
REQUEST = {"source": "red circle@0; blue square@3", "target": "green circle@0; blue square@3"}


def seen(text: str) -> list[Thing]:
    return list(Scene.parse(text).things)


def test_the_requests_are_the_declared_ones_in_words_that_the_world_has():
    assert Counter(record["kind"] for record in RECORDS) == dict.fromkeys(editing.WORDINGS, editing.EACH)
    assert {word for record in RECORDS for word in words(record["instruction"])} <= set(vocabulary())
    assert len({(record["source"], record["target"]) for record in RECORDS}) == len(RECORDS)
    assert 20 < sum(record["held_out"] for record in RECORDS) < 60


@pytest.mark.parametrize("record", RECORDS[:: editing.EACH // 2], ids=lambda record: record["id"])
def test_each_kind_changes_one_thing_and_nothing_else(record):
    source, target = (set(Scene.parse(record[name]).things) for name in ("source", "target"))
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
    verdict = editing.verdict(seen(found), REQUEST)
    assert (verdict.followed, verdict.preserved) == (followed, preserved)


def test_nothing_and_two_things_in_one_place_are_no_edit():
    nothing = editing.verdict([], REQUEST)
    assert (nothing.followed, nothing.preserved, nothing.seen) == (False, False, "nothing")
    doubled = [*seen("green circle@0; blue square@3"), Thing("blue", "square", 3)]
    assert editing.verdict(doubled, REQUEST).preserved == 0


@pytest.mark.slow
def test_the_detector_finds_every_target_right_and_every_source_unedited():
    judge = editing.DetectorJudge()
    requests, _ = guest_requests(editing.jsonl())
    sources = [editing.render(r.source) for r in requests]
    done = judge.judge(sources, [editing.render(r.record["target"]) for r in requests], requests)
    assert all(one.followed and one.preserved for one in done)
    assert all(one.preserved and not one.followed for one in judge.judge(sources, sources, requests))
    (blank,) = judge.judge(sources[:1], [Image.new("RGB", (32, 32), "white")], requests[:1])
    assert (blank.followed, blank.score, blank.seen) == (0, 0, "nothing")
