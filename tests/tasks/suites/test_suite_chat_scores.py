"""Scores of chat-answer suites: the official scripts' numbers on their golden fixtures, and by hand on small ones."""

import json

import pytest
from paths import SHARED

from armor_eval.runs.schema import Item
from armor_eval.tasks.suites.declare import suites
from armor_eval.tasks.suites.items import Probe, SuiteItem
from armor_eval.tasks.suites.judges import Reading, UnreadReply
from armor_eval.tasks.suites.reductions import REDUCTIONS
from armor_eval.tasks.suites.wise import category

FIXTURES = SHARED / "suites" / "fixtures"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/suites is not here")


def scored(name: str, replies: list[tuple[str, str]], *, groups=None, fields=({},), cluster=None) -> dict[str, float]:
    """The suite's numbers over one image an entry: (item's id, the judge's reply)."""
    suite, items = suites()[name], []
    for at, (key, reply) in enumerate(replies):
        item = SuiteItem(key, "p", (Probe("1", "q"),), fields=fields[at % len(fields)])
        found = REDUCTIONS[suite.reduction].score(suite, item, [Reading(reply)])
        items.append(
            Item(
                id=f"{at}",
                cluster=cluster[at] if cluster else key,
                group=groups[at] if groups else None,
                prompt="p",
                prompt_sha256="x",
                score=found.score,
                status="ok",
                extras={"numbers": dict(found.numbers)},
            )
        )
    return {c.name: c.value(items) for c in REDUCTIONS[suite.reduction].composites(suite)}


def rows(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@needs_fixtures
@pytest.mark.parametrize(
    ("name", "file", "reply"),
    [
        ("wise-verified", "verified", "Score: {score:.0f}"),
        (
            "wise",
            "legacy",
            "Consistency: {consistency:.0f}\nRealism: {realism:.0f}\nAesthetic Quality: {aesthetic_quality:.0f}",
        ),
    ],
)
def test_wise_is_the_official_calculators(name, file, reply):
    stub = FIXTURES / "wise_stub"
    found = rows(stub / f"{file}_scores.jsonl")
    groups = [category(suites()[name].options["ends"], row["prompt_id"]) for row in found]
    numbers = scored(name, [(str(row["prompt_id"]), reply.format(**row)) for row in found], groups=groups)
    expected = json.loads((stub / "expected.json").read_text())[file]
    assert numbers["overall"] == pytest.approx(expected["overall"], abs=1e-12)
    for group, value in expected["categories"].items():
        assert numbers[group.lower()] == pytest.approx(value, abs=1e-12)


@needs_fixtures
@pytest.mark.parametrize("language", ["en", "zh"])
def test_text_scores_are_the_official_ones(language):
    stub = FIXTURES / "text_stub"
    expected = json.loads((stub / "expected.json").read_text())
    found = rows(stub / f"longtext_{language}.jsonl")
    replies = [(row["image"], row["ocr_results"]) for row in found]
    fields = [{"target": json.dumps(row["ocr_gt"])} for row in found]
    assert scored(f"longtext-{language}", replies, fields=fields)["text score"] == expected[language]["text_score"]
    name, golden = {"en": "oneig-text", "zh": "oneig-text-zh"}[language], expected[f"oneig_{language}"]
    numbers = scored(name, replies, fields=[{"target": " ".join(row["ocr_gt"])} for row in found])
    assert numbers["text score"] == golden["score"]
    assert (numbers["word accuracy"], numbers["exact"]) == (golden["WAC"], golden["CR"])


def test_a_long_target_weighs_more():
    fields = [{"target": '["a b c d e f g h"]'}, {"target": '["x", "y"]'}]
    numbers = scored("longtext-en", [("1", "a b c d e f g h"), ("2", "x")], fields=fields, groups=["sign", "label"])
    assert numbers["text score"] == pytest.approx(9 / 10) and numbers["label"] == pytest.approx(1 / 2)
    empty = [{"target": '["!!!"]'}]
    assert scored("longtext-en", [("1", "a")], fields=empty)["text score"] is None


def test_oneig_text_by_hand():
    numbers = scored(
        "oneig-text", [("1", "Open now"), ("2", "cat")], fields=[{"target": "Open now"}, {"target": "dog"}]
    )
    distance, exact, words = 3 / 2, 1 / 2, 2 / 3
    assert numbers["text score"] == pytest.approx(1 - distance * (1 - exact) * (1 - words) / 100)
    far = scored("oneig-text", [("1", "x" * 500)], fields=[{"target": "dog"}])
    assert far["text score"] == 0  # the distance ends at M


def test_an_edit_needs_both_halves():
    replies = [
        ("1", "Instruction: 10\nPreservation: 10"),
        ("2", "Instruction: 10\nPreservation: 0"),
        ("3", "**Instruction**: 4\n**Preservation**: 9, since"),
    ]
    numbers = scored("edit", replies)
    assert numbers["overall"] == pytest.approx((1 + 0 + 0.6) / 3)
    assert numbers["Instruction"] == pytest.approx(0.8) and numbers["Preservation"] == pytest.approx(1.9 / 3)
    for unread in ("Instruction: 11\nPreservation: 1", "Instruction: 5", "Instruction: 4.5\nPreservation: 3", ""):
        with pytest.raises(UnreadReply):
            scored("edit", [("1", unread)])


def test_alignment_reads_raw_parents_and_exact_yes():
    suite = suites()["oneig-alignment"]
    probes = (Probe("1", "a", ("Yes",)), Probe("2", "b", ("Yes",), ("1",)), Probe("3", "c", ("Yes",), ("2",)))
    item = SuiteItem("anime/0", "p", probes, group="anime")

    def score(*answers: str, cascade: str = suite.options["cascade"]) -> float:
        chosen = suite.model_copy(update={"options": {"cascade": cascade}})
        return REDUCTIONS["dependent"].score(chosen, item, [Reading(answer) for answer in answers]).score

    assert score("Yes", "Yes", "Yes") == 1 and score("Yes.", "Yes", "yes") == 0
    assert score("No", "Yes", "Yes") == pytest.approx(1 / 3)  # the grandchild sees its parent's raw Yes
    assert score("No", "Yes", "Yes", cascade="row-order") == 0
