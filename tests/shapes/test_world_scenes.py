"""Holds the frozen shapes world v1: its pictures, its held-out list, its relations."""

import hashlib

import numpy as np
import pytest

from trainer.shapes import world
from trainer.shapes.world import Scene, Thing

HELD_OUT_SHA256 = "43b0b9cde108fa1e12339c53bcd4b036f1d668ac8d372550d010c7347fd6d0b7"
PIXELS_SHA256 = "43dfb6907f1e3ae76eae0f5f29cea9cb90f7a26f6acf63bc9b57622b21f59550"


def test_held_out_list_is_frozen_and_canonical():
    assert world.held_out_sha256() == HELD_OUT_SHA256
    families = world.all_keys()
    assert {name: len(keys) for name, keys in families.items()} == {
        "color": 20,
        "single": 4,
        "pair": 6,
        "count": 12,
        "position": 24,
        "attr": 120,
    }
    for name, keys in world.HELD_OUT_FAMILIES.items():
        assert len(set(keys)) == len(keys) and set(keys) <= set(families[name])
        assert 0.15 <= len(keys) / len(families[name]) <= 0.25


@pytest.mark.parametrize("word", [*world.COLORS, *world.SHAPES])
def test_every_word_keeps_combinations_in_training(word):
    """Generalising must be possible: at least half of a family's keys with this word stay in training."""
    for name, keys in world.all_keys().items():
        mention = [key for key in keys if word in key]
        if name != "single" and mention:
            assert sum(key in world.HELD_OUT for key in mention) <= len(mention) / 2, name


def test_key_is_the_same_both_ways_round():
    assert world.position_key("square", "right of", "circle") == world.position_key("circle", "left of", "square")
    assert world.attr_key(("blue", "square"), ("red", "circle")) == "attr: red circle+blue square"
    assert world.is_held_out(Scene.parse("blue square@3; red circle@0"))
    assert world.is_held_out(Scene.parse("blue circle@0; green square@1"))
    assert not world.is_held_out(Scene.parse("green square@0; blue circle@1"))
    assert world.is_held_out(Scene.parse("red circle@0; red circle@1; blue circle@2"))
    assert not world.is_held_out(Scene.parse("red circle@0; red circle@1; blue square@2"))


def test_training_scenes_are_never_held_out():
    rng = np.random.default_rng(1)
    assert not any(world.is_held_out(world.sample_scene(rng)) for _ in range(5000))
    assert any(world.is_held_out(world.sample_scene(rng, training=False)) for _ in range(500))


def test_images_are_frozen():
    scenes = [Scene((Thing(c, s, i % 4),)) for c in world.COLORS for i, s in enumerate(world.SHAPES)]
    pixels = world.render_batch([*scenes, Scene.parse("red circle@0; blue square@1; green cross@2; purple triangle@3")])
    assert pixels.shape == (21, 32, 32, 3) and pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PIXELS_SHA256


@pytest.mark.parametrize("size", [32, 64, 128])
def test_batch_equals_single_and_things_stand_in_their_cells(size):
    rng = np.random.default_rng(2)
    scenes = [world.sample_scene(rng) for _ in range(20)]
    batch = world.render_batch(scenes, size)
    for scene, pixels in zip(scenes, batch, strict=True):
        assert np.array_equal(np.asarray(world.render(scene, size)), pixels)
        covered = np.zeros((size, size), dtype=bool)
        for thing in scene.things:
            mask = world.thing_mask(thing, size)
            assert np.abs(pixels[mask].mean(axis=0) - world.COLORS[thing.color]).max() < 25
            covered |= mask
        half = size // 2
        for cell in range(4):
            window = pixels[(cell // 2) * half :, (cell % 2) * half :][:half, :half]
            assert (window.min() == 255) == (scene.at(cell) is None)


def test_shapes_differ_by_a_tenth_of_a_cell_at_least():
    covers = [world.shape_coverage(shape) for shape in world.SHAPES]
    for i, a in enumerate(covers):
        for b in covers[i + 1 :]:
            assert np.abs(a - b).sum() / 256 > 0.1


def test_relations_follow_cells():
    a, b, c = Thing("red", "circle", 0), Thing("red", "square", 1), Thing("red", "cross", 3)
    assert world.relations(a, b) == ("left of",) and world.relations(c, b) == ("below",)
    assert world.relations(a, c) == ("left of", "above")


@pytest.mark.parametrize(
    "text", ["red circle@4", "red circle@0; blue square@0", "pink circle@0", "red star@1", "", "red"]
)
def test_impossible_scenes_are_refused(text):
    with pytest.raises(ValueError):
        Scene.parse(text)


def test_scene_text_round_trip_and_order():
    scene = Scene((Thing("blue", "square", 3), Thing("red", "circle", 0)))
    assert str(scene) == "red circle@0; blue square@3" and Scene.parse(str(scene)) == scene
