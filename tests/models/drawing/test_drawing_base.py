"""The base of the adapters that draw: culprits, options that cannot be honoured, images that are none."""

import numpy as np
import pytest
from PIL import Image

from armor_eval.models import registry
from armor_eval.models.base import Decoding, DrawsImages
from armor_eval.models.drawing import DrawingModel, NotDrawnError, image_from, is_blank, one_by_one
from armor_eval.runs.schema import ModelInfo
from armor_model.base.errors import RunFailed, UserError


class Painter(DrawingModel):
    """Draws prompts in colours; `bad` ones fail, with whatever they are with. Knows how it was asked."""

    honours = frozenset({"guidance"})

    def __init__(self, alone=False):
        self.info = ModelInfo(spec="painter", name="painter", fingerprint="painter")
        self.alone, self.batches = alone, []

    def _own(self, decoding):
        return {"guidance": decoding.guidance}

    def _draw(self, prompts, seeds, decoding):
        self.batches.append(list(prompts))
        if "bad" in prompts:
            raise RuntimeError("out of paint")
        if "wrong" in prompts:
            raise UserError("no such brush")
        return [Image.new("RGB", (4, 4), (seed, 0, 0)) for seed in seeds]


def test_only_the_culprit_of_a_batch_is_lost():
    painter = Painter()
    drawn = painter.draw(["a", "bad", "c"], [1, 2, 3], Decoding())
    assert [isinstance(one, RuntimeError) for one in drawn] == [False, True, False]
    assert [one.getpixel((0, 0))[0] for one in drawn[::2]] == [1, 3]
    assert painter.batches == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]


def test_a_mistake_of_the_users_is_nobodys_culprit():
    painter = Painter()
    with pytest.raises(UserError, match="brush"):
        painter.draw(["a", "wrong"], [1, 2], Decoding())
    assert painter.batches == [["a", "wrong"]]
    with pytest.raises(RunFailed):
        one_by_one(lambda rows: (_ for _ in ()).throw(RunFailed("down")), ["a", "b"])


def test_fewer_images_than_prompts_are_no_result():
    short = one_by_one(lambda rows: rows[:1], ["a", "b"])
    assert short == ["a", "b"]  # asked one by one, each has its own
    (lost,) = one_by_one(lambda rows: [], ["a"])
    assert isinstance(lost, RuntimeError)


def test_a_model_that_cannot_seed_rows_draws_one_at_a_time():
    painter = Painter(alone=True)
    assert len(painter.draw(["a", "b"], [1, 2], Decoding())) == 2
    assert painter.batches == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("decoding", "flag"),
    [
        ({"image_temperature": 0.5}, "--image-temperature 0.5"),
        ({"image_top_k": 3}, "--image-top-k 3"),
        ({"image_top_p": 0.5}, "--image-top-p 0.5"),
    ],
)
def test_an_option_without_effect_is_refused_before_drawing(decoding, flag):
    painter = Painter()
    with pytest.raises(UserError, match=flag):
        painter.settings(Decoding(**decoding))
    assert painter.settings(Decoding(guidance=1)) == {"guidance": 1.0}


def test_what_is_not_finite_is_no_image():
    values = np.full((2, 2, 3), 300.9)
    assert image_from(values).getpixel((0, 0)) == (255, 255, 255)
    assert image_from(np.full((2, 2, 3), 3.9)).getpixel((0, 0)) == (3, 3, 3)
    for bad in (np.nan, np.inf):
        values[0, 0, 0] = bad
        assert isinstance(image_from(values), NotDrawnError)


def test_one_single_colour_is_blank_whatever_the_mode():
    assert is_blank(Image.new("RGB", (5, 5), (9, 8, 7))) and is_blank(Image.new("L", (5, 5)))
    speck = Image.new("RGB", (5, 5))
    speck.putpixel((3, 3), (0, 0, 1))
    assert not is_blank(speck)


@pytest.mark.parametrize("spec", [None, "mock"])
def test_every_adapter_that_draws_says_with_what(spec):
    model = registry.load(spec, "shapes")
    assert isinstance(model, DrawsImages)
    told = model.settings(Decoding())
    assert told["guidance"] == (1.0 if spec is None else None)


def test_the_mock_refuses_what_it_would_ignore():
    with pytest.raises(UserError, match="--guidance 3"):
        registry.load("mock", "shapes").settings(Decoding(guidance=3))


@pytest.mark.parametrize(
    "spec", ["diffusers:", "diffusers:nothing-there", "diffusers:/nowhere/at/all", "janus:a/../b", "emu3:"]
)
def test_a_model_that_is_not_there_is_one_line(spec):
    with pytest.raises(UserError):
        registry.load(spec, "official")
