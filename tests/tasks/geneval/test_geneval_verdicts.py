"""Verdicts: the official rules, by worked examples and against an independent reference on 20,000 detection sets."""

import json
from collections import Counter

import numpy as np
import pytest
from geneval_reference import reference_verdict, relation_set

from armor_eval.tasks.geneval.detections import Detected, read_detections, score_file, verdict_of
from armor_eval.tasks.geneval.prompts import Metadata, official_records
from armor_eval.tasks.geneval.verdicts import Rules, judge, passing, relations_of
from armor_model.base.errors import UserError

RECORDS = official_records()
BY_TAG = {}
for _record in RECORDS:
    BY_TAG.setdefault(_record["tag"], []).append(_record)
COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]


def random_case(rng, tag):
    """A prompt and detections around its decision boundaries: grid boxes (touching, nested), tied and edge scores."""
    meta = BY_TAG[tag][rng.integers(len(BY_TAG[tag]))]
    names = {need["class"]: need["count"] for need in meta["include"]}
    detections, colors = {}, {}
    for name, count in [*names.items(), ("person", 1)]:
        n = int(rng.choice([0, count - 1, count, count, count, count + 1, 18, 20], p=_P))
        low = rng.integers(0, 8, (n, 2)) * 8.0
        size = rng.choice([4.0, 8, 12, 16, 40], (n, 2))
        if rng.random() < 0.5:
            low, size = rng.random((n, 2)) * 200, rng.random((n, 2)) * 100
        pool = [0.95, 0.9, 0.90001, 0.5, 0.3, 0.300001, 0.2, 0.06] if rng.random() < 0.5 else [0.95, 0.97]
        scores = np.sort(rng.choice(pool, n))[::-1]
        if rng.random() < 0.1:
            rng.shuffle(scores)  # a file that is out of order is judged in its own order
        detections[name] = np.hstack([low, low + size, scores[:, None]]).tolist()
        wanted = [need.get("color") for need in meta["include"] if need["class"] == name and need.get("color")]
        likely = wanted[0] if wanted and rng.random() < 0.7 else None
        colors[name] = [likely if likely and rng.random() < 0.8 else str(rng.choice(COLORS)) for _ in range(n)]
    return meta, detections, colors


_P = [0.08, 0.12, 0.2, 0.2, 0.16, 0.12, 0.06, 0.06]


@pytest.mark.parametrize("n", [4_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_detection_sets_agree_with_the_reference(n):
    rng = np.random.default_rng(20250)
    tags = list(BY_TAG)
    seen = Counter()
    for i in range(n):
        meta, detections, colors = random_case(rng, tags[i % 6])
        expected = reference_verdict(meta, detections, colors)
        record = Detected(image="x.png", metadata=meta, detections=detections, colors=colors)
        got = verdict_of(record, Metadata.model_validate(meta), Rules())
        assert got.correct == expected, (meta, detections, colors, got)
        assert got.correct == (got.reason == "")
        seen[meta["tag"], expected] += 1
    # both answers occur often enough in every task for the agreement to mean something
    assert all(seen[tag, answer] >= n / 250 for tag in tags for answer in (True, False)), seen


def test_relations_agree_on_random_pairs_and_two_may_hold():
    rng = np.random.default_rng(3)
    both = 0
    for _ in range(5_000):
        low = rng.integers(0, 20, (2, 2)) * 1.0
        high = low + rng.integers(0, 12, (2, 2))
        a, b = np.hstack([low, high])
        found = relations_of(a.tolist(), b.tolist())
        assert found == relation_set(a, b)
        both += len(found) == 2
    assert both > 100


@pytest.mark.parametrize(
    "a, b, expected",
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), set()),  # the same place
        ((0, 0, 10, 10), (4, 0, 14, 10), set()),  # r / |o| is -0.5 exactly: strict
        ((0, 0, 10, 10), (4.1, 0, 14.1, 10), {"left of"}),
        ((0, 0, 10, 10), (30, 30, 40, 40), {"left of", "above"}),
        ((30, 0, 40, 10), (0, 0, 10, 10), {"right of"}),
        ((0, 30, 10, 40), (0, 0, 10, 10), {"below"}),  # y grows downwards
        ((0, 0, 2, 2), (0, 0, 20, 20), {"left of", "above"}),  # nested, off centre
    ],
)
def test_relation_by_hand(a, b, expected):
    assert relations_of(a, b) == expected


def test_thresholds_are_strict_and_the_limit_counts_in_order():
    boxes = [[0, 0, 1, 1, score] for score in (0.3, 0.31, 0.9, 0.2, 0.5)]
    assert passing(boxes, 0.3, 16) == [1, 2, 4]
    assert passing(boxes, 0.3, 2) == [1, 2]


def test_counting_is_exact_through_exclude():
    meta = Metadata.model_validate(next(r for r in BY_TAG["counting"] if r["include"][0]["count"] == 3))
    name = meta.include[0].name
    for n, right in ((2, False), (3, True), (4, False), (20, False)):
        verdict = judge(meta, {name: [[0, 0, 9, 9, 0.95]] * n}, lambda *_: [], Rules())
        assert verdict.correct is right, verdict
    lukewarm = {name: [[0, 0, 9, 9, 0.95]] * 3 + [[0, 0, 9, 9, 0.9]] * 3}
    assert judge(meta, lukewarm, lambda *_: [], Rules()).correct


def test_colour_is_asked_only_for_the_top_objects():
    meta = Metadata.model_validate(BY_TAG["colors"][0])
    wanted = meta.include[0]
    boxes = {wanted.name: [[0, 0, 9, 9, 0.8], [0, 0, 9, 9, 0.7]]}
    asked = []

    def color_of(name, indices):
        asked.append((name, indices))
        return [wanted.color] * len(indices)

    assert judge(meta, boxes, color_of).correct
    assert asked == [(wanted.name, [0])]


def test_reasons_are_words():
    meta = Metadata.model_validate(BY_TAG["position"][0])
    target, subject = meta.include
    assert "expected at least 1" in judge(meta, {}, lambda *_: []).reason
    assert f"no {target.name}" in judge(meta, {subject.name: [[0, 0, 9, 9, 0.8]]}, lambda *_: []).reason


def stored_line(**changes):
    record = {"image": "0.png", "metadata": BY_TAG["colors"][0], "detections": {}, "colors": {}} | changes
    return json.dumps(record) + "\n"


def test_scoring_a_file(tmp_path):
    wanted = BY_TAG["colors"][0]["include"][0]
    name, color = wanted["class"], wanted["color"]
    path = tmp_path / "d.jsonl"
    path.write_text(
        stored_line(detections={name: [[0, 0, 9, 9, 0.8]]}, colors={name: [color]}) + "\n" + stored_line(image="1.png")
    )
    lines = list(score_file(path, Rules()))
    assert [line["correct"] for line in lines] == [True, False]
    assert lines[1]["reason"] and lines[1]["image"] == "1.png"
    assert not next(iter(score_file(path, Rules(threshold=0.8))))["correct"]


@pytest.mark.parametrize(
    "line, word",
    [
        ("{", "not JSON"),
        (stored_line(detections={"dog": [[0, 0, 1, 1]]}), "detections.dog.0"),
        (stored_line(detections={"dog": [[0, 0, 1, 1, float("nan")]]}), "finite"),
        (stored_line(metadata={"tag": "x"}), "tag"),
        (stored_line(detections={BY_TAG["colors"][0]["include"][0]["class"]: [[0, 0, 1, 1, 0.9]]}), "colour"),
        ("[1]", "record"),
        (stored_line(image="first.png"), "image 'first.png' stands in line 1 already"),
    ],
)
def test_a_bad_detections_file_names_its_line(tmp_path, line, word):
    path = tmp_path / "d.jsonl"
    path.write_text(stored_line(image="first.png") + line)
    with pytest.raises(UserError) as error:
        list(score_file(path, Rules()))
    assert "d.jsonl:2" in error.value.line() and word in error.value.line()


def test_a_missing_detections_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        list(read_detections(tmp_path / "no.jsonl"))
