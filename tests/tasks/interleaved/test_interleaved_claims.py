"""Claims of texts, exactly: against what an image shows, and against what was asked for."""

from itertools import pairwise

import pytest

from armor_eval.shapes.claims import Atom, agreement, claims_of, image_right, nothing_beyond, pairs_of, text_right
from armor_eval.shapes.interleaved import compared
from trainer.shapes.conversations import shown
from trainer.shapes.language import describe
from trainer.shapes.requests import sample_request
from trainer.shapes.world import Scene, Thing, sample_scene

SCENE = Scene.parse("red circle@0; blue square@3")
TARGET = {"scene": str(SCENE)}
LOOSE = {"things": [[None, "circle", 1], ["blue", "square", 1]], "relation": "left of"}


@pytest.mark.parametrize(
    ("text", "precision", "recall"),
    [
        ("a red circle at the top left and a blue square at the bottom right.", 1, 1),
        ("here is a red circle. the circle is at the top left. also a square", 1, 1),
        ("a circle and a square", 1, 1),
        ("a red circle", 1, 0.5),
        ("a red circle and a green square", 0.5, 0.5),
        ("two circles", 0.5, 0.5),
        ("a circle left of a square", 1, 1),
        ("the square is below the circle. there is no cross.", 1, 1),
        ("a circle right of a square", 2 / 3, 1),
        ("no circle", 0, 0),
        ("a blue circle and a red square", 0, 0),
        ("a red circle at the bottom right", 0, 0),
        ("something round", 0, 0),
        ("", 0, 0),
    ],
)
def test_agreement_is_the_share_of_claims_that_are_true_and_of_things_that_are_told(text, precision, recall):
    found = agreement(claims_of(text), SCENE.things)
    assert (found.precision, found.recall) == (pytest.approx(precision), pytest.approx(recall))
    assert found.exact == (precision == recall == 1)


def test_f1_by_hand():
    """Two of three claims true, one of two things told: 2 * 2/3 * 1/2 / (2/3 + 1/2) = 4/7."""
    found = agreement(claims_of("a red circle and a green cross. there is no triangle"), SCENE.things)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 0.5) and found.f1 == pytest.approx(4 / 7)


def test_two_claims_never_count_on_one_thing():
    circle = Atom("red", "circle", 0)
    assert pairs_of([circle, circle], [circle], lambda a, b: a == b) == 1
    # the open claim must leave the red one to the claim that needs it
    things = [Atom("red", "circle", 0), Atom("blue", "circle", 1)]
    told = claims_of("a circle and a red circle")
    assert agreement(told, [Thing(*thing) for thing in things]).exact


@pytest.mark.parametrize(
    ("text", "target", "right"),
    [
        ("a red circle and a blue square", TARGET, True),
        ("a red circle at the top left and a blue square", TARGET, True),
        ("a red circle at the top right and a blue square", TARGET, False),
        ("a circle and a blue square", TARGET, False),
        ("a red circle, a blue square and a cross", TARGET, False),
        ("a red circle and a blue square. there is no circle", TARGET, False),
        ("a red circle below a blue square", TARGET, False),
        ("a green circle left of a blue square", LOOSE, True),
        ("a blue square right of a circle", LOOSE, True),
        ("a circle right of a blue square", LOOSE, False),
        ("a circle and a blue square", LOOSE, False),
        ("a circle at the top left and a blue square at the top right", LOOSE, True),
        ("a circle at the top right and a blue square at the top left", LOOSE, False),
        ("a circle left of a square", LOOSE, False),
        ("three crosses", {"things": [[None, "cross", 3]], "relation": None}, True),
        ("crosses", {"things": [[None, "cross", 3]], "relation": None}, False),
    ],
)
def test_a_text_is_right_when_it_states_what_was_asked_for_and_nothing_else(text, target, right):
    assert text_right(claims_of(text), target) is right


def test_an_image_is_right_when_it_shows_what_was_asked_for_and_nothing_else():
    assert image_right(SCENE.things, TARGET) and image_right(SCENE.things, LOOSE)
    assert not image_right(SCENE.things[:1], TARGET) and not image_right((), LOOSE)
    assert not image_right(Scene.parse("red circle@1; blue square@0").things, LOOSE)
    assert not image_right((*SCENE.things, Thing("red", "cross", 0)), TARGET), "two things in one cell are no scene"


def test_nothing_beyond_is_about_what_is_there_and_never_true_of_nothing():
    told = claims_of("a red circle")
    assert nothing_beyond(told, SCENE.things[:1], TARGET) and not image_right(SCENE.things[:1], TARGET)
    assert not nothing_beyond(claims_of("a red circle and a cross"), SCENE.things, TARGET)
    assert not nothing_beyond(told, (*SCENE.things, Thing("red", "cross", 1)), TARGET)
    assert not nothing_beyond(claims_of(""), SCENE.things, TARGET) and not nothing_beyond(told, (), TARGET)


def test_true_descriptions_of_any_scene_agree_and_are_right_and_of_another_scene_are_not(numpy_rng):
    scenes = [sample_scene(numpy_rng, training=False) for _ in range(200)]
    for scene, other in pairwise(scenes):
        same = compared(describe(scene) + ".", scene.things, {"scene": str(scene)})
        assert same.text_right and same.image_right and same.agrees and same.nothing_beyond and same.agreement == 1
        if scene != other:
            swapped = compared(describe(other) + ".", scene.things, {"scene": str(scene)})
            assert swapped.image_right and not swapped.agrees and not swapped.text_right
            blank = compared(describe(scene) + ".", [], {"scene": str(scene)})
            assert blank.text_right and blank.agreement == 0 and not blank.image_right


def test_what_training_says_before_a_drawing_is_right_of_its_request(numpy_rng):
    for _ in range(200):
        request = sample_request(numpy_rng, training=False)
        target = {"things": [list(thing) for thing in request.things], "relation": request.relation}
        found = compared(shown(request), request.scene.things, target)
        assert found.text_right and found.image_right and found.agrees and found.nothing_beyond, request
