"""armor-nano's lessons of conversations: what they say is true, and no frozen sentence or request is in them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from armor_eval.shapes import conversation
from armor_eval.shapes.truth import answer
from trainer.data.records import kind_of, sides
from trainer.shapes import interleaved, reworded, talk, wordings
from trainer.shapes.language import vocabulary, words
from trainer.shapes.lessons import APART, DIALOGUES, LESSONS, OUTSIDE, TALK, TALK_BASE, sample_lesson
from trainer.shapes.questions import describe
from trainer.shapes.world import COLOR_NAMES, Scene, is_held_out


def some(lesson: str, count: int = 150) -> list[dict]:
    rng = np.random.default_rng(5)
    return [sample_lesson(rng, lesson, number) for number in range(count)]


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_is_of_its_type_and_shows_nothing_held_out(lesson):
    records = some(lesson)
    assert not any(is_held_out(scene) for record in records for scene in record["images"])
    for record in records:
        sides(record)  # one image for each mark, in order
    kinds = {kind_of(record["conversations"]) for record in records}
    wanted = {"refuse": {"t2t", "ti2t"}, "ti2ti": {"ti2ti", "t2i"}}.get(LESSONS[lesson], {LESSONS[lesson]})
    assert kinds <= wanted


@pytest.mark.parametrize("lesson", DIALOGUES)
def test_no_conversation_repeats_a_frozen_request(lesson):
    assert not any(interleaved.repeats(record) for record in some(lesson, 400))


def test_answers_about_a_drawing_are_true_of_the_newest_one():
    asked = 0
    for lesson in (TALK, TALK_BASE):
        for record in some(lesson, 300):
            scenes, newest = iter(record["images"]), None
            for turn in record["conversations"]:
                for _ in range(turn["value"].count("<image>")):
                    newest = next(scenes)
                text = turn["value"].removeprefix("<image>\n")
                if turn["from"] == "human":
                    question = text
                    continue
                try:
                    gold = answer(newest, question) if isinstance(newest, Scene) else None
                except ValueError:
                    continue
                if gold is not None and text in ("yes", "no", *"01234") and "there is" not in question:
                    asked += 1
                    assert text == gold or "plus" in question or "more" in question, (question, newest)
    assert asked > 100


def test_a_follow_up_is_what_its_words_say():
    rng = np.random.default_rng(1)
    blue = Scene.parse("red circle@2")
    found = {talk.follow_up(rng, blue) for _ in range(400)}
    assert all(
        str(target) == "blue circle@2" for text, target in found if text in ("make it blue.", "now draw a blue one.")
    )
    assert any(text == "make it blue." for text, _ in found)
    turned = {text.split()[-1].strip("."): str(target) for text, target in found if text.startswith("make it a ")}
    assert turned and turned == {shape: f"red {shape}@2" for shape in turned}


def test_a_colour_and_a_shape_that_are_both_there_are_not_always_one_thing():
    records = some(APART)
    assert 50 < sum(record["conversations"][1]["value"] == "yes" for record in records) < 100
    for record in records:
        question = record["conversations"][0]["value"].removeprefix("<image>\n")
        scene = record["images"][0]
        color, shape = question.split()[3:5]
        assert answer(scene, question) == record["conversations"][1]["value"], (question, describe(scene))
        assert color in {t.color for t in scene.things} and shape in {t.shape for t in scene.things}


def test_no_wording_comes_near_a_held_out_one():
    made = wordings.wordings()
    assert {wish: len(each) > 500 for wish, each in made.items()} == dict.fromkeys(made, True)
    every = [wording for each in made.values() for wording in each]
    assert wordings.apart(every) == every
    assert wordings.apart(["i want you to draw {x} now.", "please draw {x}."], ["i want you to draw {x}."]) == [
        "please draw {x}."
    ]


def test_new_wordings_of_the_conversations_are_new():
    known = {text for name in dir(talk) for text in _texts(getattr(talk, name)) if isinstance(text, str)}
    told = {
        turn["value"].removeprefix("<image>\n")
        for lesson in (TALK, OUTSIDE)
        for r in some(lesson, 500)
        for turn in r["conversations"]
    }
    new = [w for each in (conversation.CHANGES[True], conversation.QUESTIONS[True]) for ws in each.values() for w in ws]
    assert known.isdisjoint(new)
    asked = {r["messages"][-1] for r in conversation.records() if r["form"] == "new"}
    assert asked.isdisjoint(told)


PLAIN = {
    "color": "what color is the {shape}?",
    "where": "where is the {shape}?",
    "which": "which shape is {color}?",
    "number": "how many shapes are there?",
    "number of": "how many {shapes} are there?",
    "is there": "is there a {color} {shape} in the picture?",
    "relation": "is the {shape} {relation} the {other}?",
}
"""Each kind of reworded question as the judge of conversations reads it."""


def test_reworded_questions_are_answered_truly(monkeypatch):
    asked = {kind: [wording] for kind, wording in PLAIN.items()}
    others = {"all": ["tell all"], "color of it": ["color of it"], "shape of it": ["shape of it"]}
    monkeypatch.setattr(reworded, "questions", lambda: {**asked, **others})
    rng, seen = np.random.default_rng(3), set()
    for _ in range(600):
        scene = talk.drawable(rng)
        question, said = reworded.question_about(rng, scene)
        only = scene.things[0]
        told = {"tell all": f"{describe(scene)}.", "color of it": only.color, "shape of it": only.shape}
        assert said == (told.get(question) or answer(scene, question)), (str(scene), question)
        seen.add((question in told, said in ("yes", "no"), said))
    assert {(False, True, "yes"), (False, True, "no"), (False, False, "0"), (False, False, "3")} <= seen


@pytest.mark.parametrize("made", [reworded.questions(), reworded.changes()], ids=["questions", "changes"])
def test_reworded_sentences_are_in_the_vocabulary_and_away_from_the_frozen_ones(made):
    frozen = [*reworded.CHANGES_HELD_OUT.values(), *reworded.QUESTIONS_HELD_OUT.values()]
    known = set(vocabulary())
    for kind, sentences in made.items():
        assert len(set(sentences)) > 10, kind
        filled = re.sub(r"\{[a-z]+\}", "red", " ".join(sentences))
        assert known.issuperset(words(filled)), kind
        assert wordings.apart(sentences, [wording for each in frozen for wording in each]) == sentences


def test_reworded_changes_are_what_their_words_say():
    rng = np.random.default_rng(1)
    two = Scene.parse("red circle@0; blue cross@3")
    found = {talk.follow_up(rng, two, many=True) for _ in range(4000)}
    kept = {str(target) for text, target in found if "without the cross" in text or text == "no cross, please."}
    assert kept == {"red circle@0"}
    made = {(hit[1], str(target)) for text, target in found if (hit := re.search(r" the circle (\w+)[.?]$", text))}
    painted = {(color, target) for color, target in made if color in COLOR_NAMES}
    assert painted and painted == {(color, f"{color} circle@0; blue cross@3") for color, _ in painted}


def _texts(value: object) -> tuple:
    return value if isinstance(value, tuple) else ()
