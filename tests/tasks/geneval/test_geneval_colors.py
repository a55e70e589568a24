"""Colours: pixel votes in the shapes world, and GenEval's CLIP question, crop and classifier."""

import numpy as np
import pytest
from geneval_weights import small_clip

from armor_eval.shapes.colors import PixelColors
from armor_eval.tasks.geneval import colors as C
from armor_eval.tasks.geneval.prompts import load_vocabulary
from armor_model.base.errors import UserError

SHAPES = load_vocabulary("shapes")
OFFICIAL = load_vocabulary("official")


def thing_crops(blur):
    import cv2

    from trainer.shapes.world import COLOR_NAMES, Scene, Thing, render, thing_mask

    crops, names = [], []
    for color in COLOR_NAMES:
        for shape in ("circle", "square", "triangle", "cross"):
            thing = Thing(color, shape, 2)
            image = np.asarray(render(Scene((thing,))))
            image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
            crops.append(C.Crop(image, thing_mask(thing), (2, 18, 14, 30, 0.9), shape))
            names.append(color)
    return crops, names


@pytest.mark.parametrize("blur", [0, 0.8])
def test_pixel_votes_name_every_thing_of_the_world(blur):
    crops, names = thing_crops(blur)
    answers = PixelColors(SHAPES).name(crops)
    assert [answer.color for answer in answers] == names
    assert min(answer.margin for answer in answers) > 0.3


def test_pixel_votes_on_nothing_and_on_white():
    white = np.full((4, 4, 3), 255, np.uint8)
    for mask in (np.zeros((4, 4), bool), np.ones((4, 4), bool)):
        (answer,) = PixelColors(SHAPES).name([C.Crop(white, mask, (0, 0, 4, 4, 1), "circle")])
        assert answer.color in SHAPES.colors and answer.margin == 0


def test_the_crop_is_the_object_over_grey():
    image = np.zeros((20, 30, 3), np.uint8)
    image[:] = (10, 200, 30)
    mask = np.zeros((20, 30), bool)
    mask[5:10, 5:10] = True
    crop = np.asarray(C.composite_crop(C.Crop(image, mask, (4.4, 4, 12, 11, 0.9), "dog")))
    assert crop.shape == (7, 8, 3)
    assert (crop[0, 0] == 0x99).all() and (crop[2, 2] == (10, 200, 30)).all()


@pytest.fixture(scope="module")
def clip():
    return small_clip(OFFICIAL)


def test_the_model_is_built_with_quick_gelu(clip):
    import open_clip

    assert open_clip.get_model_config(C.CLIP_MODEL)["quick_gelu"] is True


def test_the_text_classifier_is_the_published_formula_and_made_once(clip):
    import torch

    model, tokenizer, _ = clip._parts
    with torch.inference_mode():
        column = []
        for words in ("a photo of a pink cow", "a photo of a pink-colored cow", "a photo of a pink object"):
            feature = model.encode_text(tokenizer([words]))[0]
            column.append(feature / feature.norm())
        mean = sum(column) / 3
        wanted = mean / mean.norm()
    made = clip.classifier("cow")
    assert torch.allclose(made[:, OFFICIAL.colors.index("pink")], wanted, atol=1e-6)
    assert clip.classifier("cow") is made and made.shape == (16, 10)


def test_crops_of_many_images_in_one_pass_are_as_single(clip):
    rng = np.random.default_rng(0)
    crops = []
    for i in range(7):
        mask = np.zeros((40, 40), bool)
        mask[3 + i : 30, 4:25] = True
        image = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        crops.append(C.Crop(image, mask, (4, 3 + i, 25, 30, 0.9), ("cow", "bench")[i % 2]))
    together, alone = clip.name(crops), [clip.name([crop])[0] for crop in crops]
    assert [a.color for a in together] == [a.color for a in alone]
    assert max(abs(a.margin - b.margin) for a, b in zip(together, alone, strict=True)) < 1e-5


def test_weights_come_from_torchscript_or_safetensors_and_must_fit(clip, tmp_path):
    import copy

    import torch
    from safetensors.torch import save_file

    model, *_ = clip._parts
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    empty = copy.deepcopy(model)
    torch.nn.init.zeros_(empty.text_projection)
    C._fill(empty, tmp_path / "a.safetensors")
    assert torch.equal(empty.text_projection, model.text_projection)
    state.pop("visual.proj")
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match=r"1 parameters missing.*visual\.proj"):
        C._fill(empty, tmp_path / "b.safetensors")
    (tmp_path / "c.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        C._fill(empty, tmp_path / "c.pt")
